"""N:M sparsity: groups, ties, SR-STE's decay, and what it leaves dense."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from tests.methods.linear_oracle import MOMENTUM, RATE, Linear, batches, layers
from topkast_tf.methods import NM


def nm_mask(theta, n, m):
    """Entry by entry, from the definition; axis -2 is that of the inputs."""
    mask = np.zeros(theta.shape, bool)
    columns = np.moveaxis(theta, -2, -1).reshape(-1, theta.shape[-2])
    places = np.moveaxis(mask, -2, -1).reshape(-1, theta.shape[-2])
    for column, place in zip(columns, places, strict=True):
        for begin in range(0, column.size, m):
            group = np.abs(column[begin : begin + m])
            for best in sorted(range(m), key=lambda i: (-group[i], i))[:n]:
                place[begin + best] = True
    kept = places.reshape(np.moveaxis(theta, -2, -1).shape)
    return np.moveaxis(kept, -1, -2)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (2, 3), (1, 2)])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_equals_the_definition_over_training(n, m, decay):
    model = layers("nm", sparsity=1 - n / m, m=m, decay=decay)
    oracle = Linear(model)
    x, y = batches(4)
    np.testing.assert_array_equal(oracle.forward[0], nm_mask(oracle.thetas[0], n, m))
    assert oracle.backward[0].all()
    for a, b in zip(x, y, strict=True):
        [gradient] = oracle.gradients(a, b)
        gradient += decay * oracle.thetas[0] * ~oracle.forward[0]
        oracle.velocities[0] = MOMENTUM * oracle.velocities[0] - RATE * gradient
        oracle.thetas[0] = oracle.thetas[0] + oracle.velocities[0]
        oracle.forward = [nm_mask(oracle.thetas[0], n, m)]
        model.train_on_batch(a, b)
        oracle.check(model)


def test_channels_of_a_convolution_are_grouped():
    with tk.sparse_scope("nm", sparsity=0.75, m=4):
        model = keras.Sequential(
            [keras.Input((8, 8, 8)), keras.layers.Conv2D(5, 3, use_bias=False)]
        )
    [weight] = tk.sparse_weights(model)
    np.testing.assert_array_equal(weight.forward_mask(), nm_mask(weight.dense(), 1, 4))


def test_ties_go_to_the_first():
    with tk.sparse_scope("nm", sparsity=0.5, m=4):
        model = keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="ones")]
        )
    [weight] = tk.sparse_weights(model)
    assert weight.forward_mask()[:, 0].tolist() == [True, True, False, False]


def test_each_weight_may_have_its_own_n():
    with tk.sparse_scope("nm", sparsity=0.5, m=4, distribution={"a/.*": 0.75}):
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(8, name="a"),
                keras.layers.Dense(4, name="b"),
            ]
        )
    found = [w.forward_mask() for w in tk.sparse_weights(model)]
    assert [mask.mean() for mask in found] == [0.25, 0.5]


@pytest.mark.parametrize("asked", [0.8, 0.6])
def test_a_planned_sparsity_that_is_no_whole_n_is_refused(asked):
    scope = tk.sparse_scope("nm", sparsity=0.5, distribution={"a": asked})
    with pytest.raises(
        ValueError, match="a/kernel: Expected a sparsity that keeps whole"
    ):
        with scope:
            keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="a")])


def test_inputs_that_m_does_not_divide_stay_dense():
    """Other code mixes neighbouring filters here."""
    with tk.sparse_scope("nm", sparsity=0.5, m=4):
        model = keras.Sequential(
            [keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dense(4)]
        )
    [weight] = tk.sparse_weights(model)
    assert weight.shape == (8, 4)
    [(_, shape, why)] = tk.summary(model).left_dense
    assert shape == (6, 8) and why == "its 6 inputs are not a multiple of m=4"


def test_a_file_with_other_counts_is_refused(tmp_path):
    model = layers("nm", sparsity=0.5)
    model.save_weights(tmp_path / "w.weights.h5")
    other = layers("nm", sparsity=0.75)
    with pytest.raises(ValueError, match="Expected"):
        other.load_weights(tmp_path / "w.weights.h5")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"sparsity": 0.6}, "a multiple of 1/4"),
        ({"sparsity": 0.5, "m": 1}, "`m` must be an integer from 2"),
        ({"sparsity": 0.5, "decay": -1.0}, "`decay` must be a number in"),
        ({"sparsity": 0.5, "refresh_every": 0}, "`refresh_every` must be"),
    ],
)
def test_arguments_are_checked(arguments, match):
    with pytest.raises(ValueError, match=match):
        NM(**arguments)


def test_runs_in_a_graph_and_under_xla():
    model = layers("nm", sparsity=0.5)
    x, y = batches(1)
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=True)
    model.train_on_batch(x[0], y[0])
    [weight] = tk.sparse_weights(model)
    np.testing.assert_array_equal(weight.forward_mask(), nm_mask(weight.dense(), 2, 4))
    assert isinstance(weight.variable, tf.Variable)
