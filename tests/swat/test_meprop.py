"""meProp against its equations in NumPy."""

import keras
import numpy as np
import pytest

import topkast_tf as tk
from swat_tf import meprop_scope


def top(dy, kept):
    """The largest entries of each example; ties go to the lower index."""
    found = np.zeros_like(dy)
    for row, out in zip(dy, found, strict=True):
        best = np.argsort(-np.abs(row), kind="stable")[:kept]
        out[best] = row[best]
    return found


@pytest.mark.parametrize("name", ["scope", "sparse_scope"])
def test_gradients_equal_the_equations(name):
    scope = meprop_scope(0.75) if name == "scope" else None
    scope = scope or tk.sparse_scope("meprop", sparsity=0.75)
    with scope:
        model = keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(8, use_bias=False),
                keras.layers.Dense(4, use_bias=False),
            ]
        )
    model.compile(keras.optimizers.SGD(0.5), "mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 6)).astype("float32"), rng.normal(size=(5, 4))
    for _ in range(3):
        first, last = (w.dense().astype(float) for w in tk.sparse_weights(model))
        hidden = x @ first
        dy = top(2 * (hidden @ last - y) / y.size, 1)
        upstream = top(dy @ last.T, 2)
        model.train_on_batch(x, y)
        found = [w.dense() for w in tk.sparse_weights(model)]
        np.testing.assert_allclose(found[1], last - 0.5 * hidden.T @ dy, atol=1e-6)
        np.testing.assert_allclose(found[0], first - 0.5 * x.T @ upstream, atol=1e-6)


def test_the_model_is_that_of_a_dense_network():
    keras.utils.set_random_seed(0)
    with meprop_scope(0.9, exempt="last"):
        model = keras.Sequential(
            [keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dense(4)]
        )
    keras.utils.set_random_seed(0)
    dense = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dense(4)]
    )
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    np.testing.assert_allclose(model(x), dense(x), atol=1e-6)
    report = tk.count_flops(model)
    assert report.sparse.forward == report.dense.forward
    # Of the first layer, both products of dy have 10 % of its FLOPs.
    first = 2 * 6 * 8
    assert report.sparse.weight_gradient == pytest.approx(0.1 * first + 2 * 8 * 4)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"distribution": "erk"}, "Expected distribution='uniform'"),
        ({"storage": "packed"}, "Expected storage='dense'"),
    ],
)
def test_arguments_without_a_meaning_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        tk.sparse_scope("meprop", sparsity=0.9, **arguments)
