"""SWAT with Top-KAST: activations of SWAT, weights of Top-KAST."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import topkast_tf as tk
from swat_tf import swat_scope
from tests import zoo
from tests.swat import swat_oracle as oracle


@pytest.mark.parametrize("order", ["inside", "around"])
def test_topkast_weights_with_swat_activations(order):
    scopes = [lambda: tk.topkast_scope(0.8, 0.5), lambda: swat_scope(0.6)]
    outer, inner = scopes if order == "inside" else scopes[::-1]
    with outer(), inner():
        model = zoo.nested()
    weights = tk.sparse_weights(model)
    assert [(w.method.name, w.fwd, w.bwd) for w in weights] == [
        ("topkast", 0.8, 0.5)
    ] * 3
    assert all(w.rule.sparsity_of(w) == 0.6 for w in weights)
    dense = layers.Dense(4)
    with outer(), inner():
        dense = dense.from_config(dense.get_config())
    a = tf.constant(np.random.default_rng(0).standard_normal((6, 9)), tf.float32)
    dense(a)
    with tf.GradientTape() as tape:
        y = dense(a)
    dw = tape.gradient(y, dense.kernel.value)
    [weight] = tk.sparse_weights(dense)
    expected = oracle.keep(a.numpy(), 0.6).T @ np.ones(y.shape)
    np.testing.assert_allclose(
        dw, np.where(weight.backward_mask(), expected, 0), rtol=1e-5, atol=1e-6
    )


def test_a_part_of_a_model_under_topkast_and_the_rest_under_swat():
    with swat_scope(0.5):
        first = layers.Dense(8)
        with tk.topkast_scope(0.9, 0.8):
            second = layers.Dense(8)
        model = keras.Sequential([keras.Input((16,)), first, second])
    names = [w.method.name for w in tk.sparse_weights(model)]
    assert names == ["swat", "topkast"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"structured": "channel"},
        {"distribution": "erk"},
        {"distribution": "momentum"},
        {"updates": "masked"},
        {"freeze_at": 5},
        {"exempt": "first"},
        {"forward": ()},
    ],
    ids=str,
)
def test_weight_arguments_are_refused_inside_topkast(arguments):
    with tk.topkast_scope(0.9, 0.8):
        with pytest.raises(ValueError, match="which weights are sparse. Received"):
            with swat_scope(0.5, **arguments):
                pass
        zoo.nested()


def test_weight_arguments_are_refused_around_topkast():
    def build(**arguments):
        with swat_scope(0.9, **arguments), tk.topkast_scope(fwd=0.9, bwd=0.8):
            return zoo.sequential()

    assert tk.sparse_weights(build())
    with pytest.raises(ValueError, match="none of the weights is its own"):
        build(structured="channel")
    with pytest.raises(ValueError, match="none of the weights is its own"):
        build(exempt="first")
