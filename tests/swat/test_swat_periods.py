"""SWAT's thresholds between two selections: which layers keep which weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import topkast_tf as tk
from swat_tf import swat_scope


def fit_steps(model, size, steps=1):
    random = np.random.default_rng(model.optimizer.iterations.numpy())
    for _ in range(steps):
        x = random.standard_normal((8, *size)).astype(np.float32)
        model.train_on_batch(x, np.ones((8, 1), np.float32))


# Layers that keep everything


@pytest.mark.parametrize(
    ("sparsity", "arguments"),
    [
        (0.8, {"exempt": "last"}),
        (0.8, {"exempt": "last", "distribution": "momentum"}),
        (0.8, {"exempt": "last", "distribution": "global"}),
        (0.8, {"exempt": "last", "activations": 0.5}),
        (0.5, {"distribution": "erk"}),
        (0.8, {"distribution": {"head": 0.0}}),
        (0.0, {}),
    ],
    ids=["last", "last momentum", "last global", "activations", "erk", "mapping", "0"],
)
def test_a_layer_that_keeps_everything_is_dense_at_each_step(sparsity, arguments):
    keras.utils.set_random_seed(0)
    with swat_scope(sparsity, topk_period=4, **arguments) as scope:
        model = keras.Sequential(
            [
                keras.Input((64,)),
                layers.Dense(64, name="body"),
                layers.Dense(1, name="head"),
            ]
        )
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    head = scope.weights[-1]  # `sparse_weights` leaves out an exempt one
    assert head.forward_mask().all()
    for _ in range(6):
        fit_steps(model, (64,))
        assert head.forward_mask().all()
        assert head.rule.realised(head) == 0.0


def test_a_common_threshold_holds_for_small_layers_too():
    """Of 4 entries 0.2 would drop none, but what is dropped is of all layers together."""
    keras.utils.set_random_seed(0)
    with swat_scope(0.2, topk_period=10, distribution="global"):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(64), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    weights = tk.sparse_weights(model)
    weights[-1]._theta.assign(tf.concat([tf.ones((60, 1)), 1e-6 * tf.ones((4, 1))], 0))
    before = [weight.forward_mask() for weight in weights]
    assert not before[-1].all()
    fit_steps(model, (4,), 3)
    for weight, mask in zip(weights, before, strict=True):
        np.testing.assert_array_equal(weight.forward_mask(), mask)
