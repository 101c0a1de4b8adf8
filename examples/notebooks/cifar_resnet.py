# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A ResNet on CIFAR-10
#
# Top-KAST and SWAT beside a dense ResNet-8, with counted FLOPs and measured time. A part of
# the data and 300 steps of 64 images keep it under three minutes on two cores: long enough
# to compare cost, too short to compare accuracy.
# [The sweep](../../docs/results/sweep_cifar10.md) does that.
#
# tensorflow-datasets downloads CIFAR-10 on first use; set `CIFAR10_DIR` to a folder where
# it is prepared already.

# %%
import os
import time

import keras
import tensorflow_datasets as tfds

from launch import models
from swat_tf import swat_scope
from topkast_tf import count_flops, summary, topkast_scope

folder = os.environ.get("CIFAR10_DIR")
train, test = (
    tfds.load(
        "cifar10", split=split, data_dir=folder, as_supervised=True, batch_size=-1
    )
    for split in ("train[:10000]", "test[:2000]")
)
mean, deviation = 120.7, 64.2


def normalised(data):
    images, labels = data
    return (images.numpy().astype("float32") - mean) / deviation, labels.numpy()


train, test = normalised(train), normalised(test)

# %% [markdown]
# The networks of `launch/models` are plain Keras models of the published sizes. Any model
# of yours takes their place.


# %%
def trained(scope):
    keras.utils.set_random_seed(0)
    with scope:
        model = models.find("resnet8")((32, 32, 3), 10)
    steps = 300
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=0.1, warmup_steps=20
    )
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(*train, batch_size=64, steps_per_epoch=2, verbose=0)  # compiles
    begun = time.process_time()
    model.fit(*train, batch_size=64, steps_per_epoch=149, epochs=2, verbose=0)
    seconds = time.process_time() - begun
    return model, model.evaluate(*test, verbose=0)[1], seconds


# %%
import contextlib

scopes = {
    "dense": contextlib.nullcontext(),
    "Top-KAST 90/80": topkast_scope(
        0.9, 0.8, exempt=("first", "last"), refresh_every=20
    ),
    "SWAT-U 90": swat_scope(0.9, exempt="first", topk_period=20),
}
found = {name: trained(scope) for name, scope in scopes.items()}

# %% [markdown]
# Counted FLOPs are those of a device that leaves zeros out. Processor time is measured
# here: layers as narrow as these (16 to 64 channels) are computed with masks unless native
# kernels pay, which `summary` lists.

# %%
print(f"{'':16}{'accuracy':>9}{'training FLOPs':>16}{'processor time':>16}")
reference = None
for name, (model, accuracy, seconds) in found.items():
    flops = count_flops(model).run.training
    reference = reference or (flops, seconds)
    print(
        f"{name:16}{accuracy:9.3f}{flops / reference[0]:15.2f}x"
        f"{seconds / reference[1]:15.2f}x"
    )

# %%
print(summary(found["Top-KAST 90/80"][0]))
