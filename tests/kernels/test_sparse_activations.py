"""The weight gradient from sparse activations: by hand, and against NumPy."""

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings

from tests.kernels.test_sparse_matmul import (
    Owner,
    by_definition,
    computed,
    cpus,
    densities,
    random_codes,
    sizes,
)
from topkast_tf.kernels import library as kernels
from topkast_tf.kernels.products import new_key

pytestmark = pytest.mark.skipif(
    kernels.why_unavailable() is not None, reason=str(kernels.why_unavailable())
)


def gradient_of(x, dy, cpu=""):
    native = kernels.library()
    return native.ops.topkast_sparse_activation_gradient(x, dy, cpu=cpu).numpy()


@pytest.mark.parametrize("cpu", cpus())
def test_by_hand(cpu):
    x = np.array([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0]], np.float32)
    dy = np.array([[1.0, 10.0], [100.0, 1000.0]], np.float32)
    # dw[i, o] = sum over p of x[p, i] dy[p, o]; no position has the third input.
    expected = [[300.0, 3000.0], [2.0, 20.0], [0.0, 0.0]]
    np.testing.assert_array_equal(gradient_of(x, dy, cpu), expected)


@pytest.mark.parametrize("cpu", cpus())
@settings(max_examples=40, deadline=None)
@given(sizes, sizes, sizes, densities, st.integers(0, 2**20))
def test_against_definition(cpu, positions, inputs, outputs, density, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(positions, inputs)).astype(np.float32)
    x *= rng.uniform(size=x.shape) < density
    dy = rng.normal(size=(positions, outputs)).astype(np.float32)
    exact = x.astype(np.float64).T @ dy.astype(np.float64)
    np.testing.assert_allclose(gradient_of(x, dy, cpu), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(0, 3, 4), (5, 0, 4), (5, 3, 0)])
def test_empty_sizes(shape):
    positions, inputs, outputs = shape
    found = gradient_of(tf.ones([positions, inputs]), tf.ones([positions, outputs]))
    np.testing.assert_array_equal(found, np.zeros([inputs, outputs]))


def test_product_has_this_gradient():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(70, 9)).astype(np.float32) * (rng.uniform(size=(70, 9)) < 0.2)
    theta = rng.normal(size=(9, 7)).astype(np.float32)
    dy = rng.normal(size=(70, 7)).astype(np.float32)
    codes, owner = random_codes(rng, theta.shape, 0.3, 0.3), Owner()
    y, dx, found = computed(
        x, theta, codes, dy, new_key(owner), sparse_activations=True
    )
    exact_y, exact_dx, _ = by_definition(x, theta, codes, dy)
    for ours, exact in ((y, exact_y), (dx, exact_dx), (found, x.T @ dy)):
        np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-5)


def test_not_a_number_is_an_entry():
    x = np.zeros((3, 2), np.float32)
    x[1, 0] = np.nan
    found = gradient_of(x, np.ones((3, 4), np.float32))
    assert np.isnan(found[0]).all()
    np.testing.assert_array_equal(found[1], 0.0)


def test_same_bits_for_any_number_of_threads():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(500, 90)).astype(np.float32)
    x *= rng.uniform(size=x.shape) < 0.2
    dy = rng.normal(size=(500, 300)).astype(np.float32)
    whole = gradient_of(x, dy)
    # Outputs are divided among threads; each one's sum is the same alone.
    alone = [gradient_of(x, dy[:, o : o + 64]) for o in range(0, 300, 64)]
    np.testing.assert_array_equal(whole, np.concatenate(alone, axis=1))


def test_gradients_are_finite_differences():
    rng = np.random.default_rng(1)
    native = kernels.library()
    ours, numeric = tf.test.compute_gradient(
        native.ops.topkast_sparse_activation_gradient,
        [
            tf.constant(rng.normal(size=(7, 6)), tf.float32),
            tf.constant(rng.normal(size=(7, 5)), tf.float32),
        ],
        delta=1e-2,
    )
    for one, other in zip(ours, numeric, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="as many positions"):
        gradient_of(tf.ones([3, 2]), tf.ones([4, 2]))
