# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Comparing methods
#
# The same network, data and optimizer under several methods of `sparse_scope`. The name is
# all that changes. For studies with seeds, tables and plots there is `launch/sweep.py`;
# this page shows the loop within it.

# %%
import contextlib

import keras
import numpy as np
from sklearn.datasets import load_digits

from topkast_tf import count_flops, sparse_scope, summary, topkast_scope

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
order = np.random.default_rng(0).permutation(len(images))
train, test = order[:1400], order[1400:]
EPOCHS, BATCH, SPARSITY = 10, 64, 0.95
STEPS = EPOCHS * -(-len(train) // BATCH)
SEEDS = (0, 1)

# %% [markdown]
# Methods that move their sets by a schedule are told how long training is.

# %%
same = {"sparsity": SPARSITY, "exempt": ("first", "last")}
scopes = {
    "dense": contextlib.nullcontext,
    "static": lambda: sparse_scope("static", **same),
    "SET": lambda: sparse_scope("set", update_every=20, total_steps=STEPS, **same),
    "RigL": lambda: sparse_scope("rigl", update_every=20, total_steps=STEPS, **same),
    "pruning": lambda: sparse_scope(
        "pruning", update_every=10, update_from=20, update_until=STEPS // 2, **same
    ),
    "Top-KAST": lambda: topkast_scope(
        SPARSITY, 2 * SPARSITY - 1, exempt=same["exempt"], refresh_every=5
    ),
}


def trained(scope, seed):
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    with scope():
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
                keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
                keras.layers.Conv2D(64, 3, strides=2, activation="relu"),
                keras.layers.Flatten(),
                keras.layers.Dense(10),
            ]
        )
    model.compile(
        keras.optimizers.Adam(2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(images[train], labels[train], batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return model, model.evaluate(images[test], labels[test], verbose=0)[1]


# %%
found = {}
for name, scope in scopes.items():
    runs = [trained(scope, seed) for seed in SEEDS]
    accuracies = [accuracy for _, accuracy in runs]
    model = runs[0][0]
    flops = count_flops(model).run.training
    found[name] = (accuracies, flops, summary(model).kept_parameters)

# %% [markdown]
# Two seeds on 397 test images say little of small differences; the range is part of the
# figure. Counted FLOPs are those of the whole run, by the schedule of each method.

# %%
import matplotlib.pyplot as plt

dense_flops = found["dense"][1]
print(f"{'':10}{'accuracy (range)':>24}{'kept':>10}{'training FLOPs':>16}")
figure, axes = plt.subplots(figsize=(6, 3.6))
for name, (accuracies, flops, kept) in found.items():
    low, high, ratio = min(accuracies), max(accuracies), flops / dense_flops
    mean = np.mean(accuracies)
    print(f"{name:10}{mean:10.3f} ({low:.3f}-{high:.3f}){kept:10,}{ratio:15.2f}x")
    axes.errorbar(
        ratio, mean, [[mean - low], [high - mean]], fmt="o", capsize=3, label=name
    )
axes.set_xscale("log")
axes.set_xlabel("counted training FLOPs, over dense")
axes.set_ylabel("test accuracy")
axes.legend(fontsize=8)
plt.show()

# %% [markdown]
# [docs/methods.md](../../docs/methods.md) says which method is for what, and
# [the sweep on CIFAR-10](../../docs/results/sweep_cifar10.md) compares them on a network
# that needs minutes a run.
