"""A dense layer with a moving mask, and its training data."""

import keras
import numpy as np

import topkast_tf as tk
from tests.small_models import build_optimizer


def dense_layer(name="rigl", **arguments):
    defaults = {"update_until": 10, "noise": 0.0}
    with tk.sparse_scope(name, sparsity=0.7, **{**defaults, **arguments}):
        return keras.Sequential([keras.Input((12,)), keras.layers.Dense(6)])


def batches(count):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(count, 8, 12)).astype("float32")
    return x, np.tanh(x @ rng.normal(size=(12, 6))).astype("float32")


def trained(x, y, optimizer, **arguments):
    """The layer after one step per batch, from a fixed theta, and its weight."""
    model = dense_layer(seed=2, **arguments)
    [weight] = tk.sparse_weights(model)
    rng = np.random.default_rng(4)
    mask = weight.forward_mask()
    with tk.dense_reads():
        weight.variable.assign(rng.normal(size=(12, 6)) / 4)
    weight.set_masks(mask)
    model.compile(optimizer, "mse")
    build_optimizer(model)
    for a, b in zip(x, y, strict=True):
        model.train_on_batch(a, b)
    return model, weight
