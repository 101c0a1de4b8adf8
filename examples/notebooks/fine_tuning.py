# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fine-tuning a network of keras.applications
#
# A trained dense network becomes a sparse one by one call, and `fit` goes on. This page
# uses MobileNet with weights from a file. Set `WEIGHTS` to a file of yours
# (`.weights.h5`, for images of 32 x 32 and 10 classes); without it, a dense network is
# trained first and its weights are saved, which stands for the file that you have.

# %%
import os
import tempfile

import keras
import numpy as np
from sklearn.datasets import load_digits

from topkast_tf import sparsify, strip, summary

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
images = images.repeat(4, 1).repeat(4, 2).repeat(3, 3)  # 32 x 32 x 3
order = np.random.default_rng(0).permutation(len(images))
train, test = order[:1400], order[1400:]


def network():
    model = keras.applications.MobileNet(
        (32, 32, 3), alpha=0.25, weights=None, classes=10, classifier_activation=None
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # averages that follow a training as short as this
    return model


def fit(model, epochs, rate):
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # XLA would compile for longer than this trains
    )
    model.fit(images[train], labels[train], batch_size=64, epochs=epochs, verbose=0)


def accuracy(model):
    return model.evaluate(images[test], labels[test], verbose=0)[1]


# %%
weights = os.environ.get("WEIGHTS")
keras.utils.set_random_seed(0)
dense = network()
if not weights:
    weights = os.path.join(tempfile.mkdtemp(), "dense.weights.h5")
    fit(dense, epochs=12, rate=2e-3)
    dense.save_weights(weights)

# %% [markdown]
# ## The given weights, pruned at once
#
# `sparsify` copies the weights. Each kernel keeps its largest entries; B has twice as many.
# What the pruning costs comes back by training.

# %%
dense = network()
dense.load_weights(weights)
dense.compile(
    "adam",
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
print(f"dense                    {accuracy(dense):.3f}")

sparse = sparsify(dense, fwd=0.6, bwd=0.2, exempt=("first", "last"), refresh_every=10)
print(f"60 % sparse, at once     {accuracy(sparse):.3f}")

# %% [markdown]
# ## Fine-tuned
#
# At half of the rate, as is usual. The sets go on moving: an entry of B that has grown
# larger than one of A takes its place.

# %%
fit(sparse, epochs=8, rate=1e-3)
print(f"60 % sparse, fine-tuned  {accuracy(sparse):.3f}")
found = summary(sparse)
print(f"{found.kept_parameters:,} of {found.dense_parameters:,} parameters kept")

# %% [markdown]
# ## Saved
#
# `strip` gives a plain Keras model. Compressed, its file is smaller.

# %%
import gzip
import pathlib

folder = pathlib.Path(tempfile.mkdtemp())
for name, model in (("dense", dense), ("sparse", strip(sparse))):
    model.save(folder / f"{name}.keras")
    size = len(gzip.compress((folder / f"{name}.keras").read_bytes(), 9))
    print(f"{name:7}{size / 1000:8.0f} kB, gzip -9")
