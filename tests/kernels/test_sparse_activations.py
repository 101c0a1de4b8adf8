"""The weight gradient from sparse activations: by hand, and against NumPy."""

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings

from tests.kernels.common import Owner, cpus, random_codes
from tests.kernels.test_sparse_matmul import (
    by_definition,
    computed,
    densities,
    sizes,
)
from topkast_tf.kernels import library as kernels
from topkast_tf.kernels.products import new_key

pytestmark = pytest.mark.skipif(
    kernels.why_unavailable() is not None, reason=str(kernels.why_unavailable())
)


def gradient_of(x, dy, cpu=""):
    """That of a matrix: of images of one position, by a window of one."""
    return gradient_of_images(x[:, None, None], dy[:, None, None], cpu=cpu)[0, 0]


def gradient_of_images(x, dy, **arguments):
    native = kernels.library()
    return native.ops.topkast_sparse_activation_gradient(x, dy, **arguments).numpy()


def by_definition_of_images(x, dy, window, dilations, before):
    """``dw[k, m] = sum over outputs (i, j) of x[i + k d - b, j + m d - b]^T dy[i, j]``."""
    images, rows, cols, channels = x.shape
    gradient = np.zeros((*window, channels, dy.shape[-1]))
    for up, left in np.ndindex(*window):
        for i, j in np.ndindex(*dy.shape[1:3]):
            row = i + up * dilations[0] - before[0]
            col = j + left * dilations[1] - before[1]
            if 0 <= row < rows and 0 <= col < cols:
                gradient[up, left] += x[:, row, col].astype(np.float64).T @ dy[:, i, j]
    return gradient


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


small = st.integers(1, 9)
of_window = st.tuples(st.integers(1, 4), st.integers(1, 2), st.booleans())


@pytest.mark.parametrize("cpu", cpus())
@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 40),
    st.tuples(small, of_window),
    st.tuples(small, of_window),
    st.tuples(st.integers(1, 40), st.integers(1, 100)),
    densities,
    st.integers(0, 2**20),
)
def test_windows_against_definition(cpu, images, y, x, channels, density, seed):
    rng = np.random.default_rng(seed)
    sizes, outputs, arguments = [], [], {"window": [], "dilations": [], "before": []}
    for size, (taps, dilation, same) in (y, x):
        halo = (taps - 1) * dilation
        size = size if same else size + halo
        sizes.append(size)
        outputs.append(size if same else size - halo)
        arguments["window"].append(taps)
        arguments["dilations"].append(dilation)
        arguments["before"].append(halo // 2 if same else 0)
    a = rng.normal(size=(images, *sizes, channels[0])).astype(np.float32)
    a *= rng.uniform(size=a.shape) < density
    dy = rng.normal(size=(images, *outputs, channels[1])).astype(np.float32)
    np.testing.assert_allclose(
        gradient_of_images(a, dy, cpu=cpu, **arguments),
        by_definition_of_images(a, dy, **arguments),
        rtol=1e-3,
        atol=1e-3,
    )


def test_many_tiles():
    """More positions than one part of the tiles holds, and rows as long as a tile."""
    rng = np.random.default_rng(4)
    for images in ((60, 20, 20), (3, 2, 192)):
        x = rng.normal(size=(*images, 5)).astype(np.float32)
        x *= rng.uniform(size=x.shape) < 0.1
        dy = rng.normal(size=(*images, 70)).astype(np.float32)
        arguments = {"window": [3, 3], "dilations": [1, 1], "before": [1, 1]}
        np.testing.assert_allclose(
            gradient_of_images(x, dy, **arguments),
            by_definition_of_images(x, dy, **arguments),
            rtol=1e-3,
            atol=1e-3,
        )


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
        lambda x, dy: native.ops.topkast_sparse_activation_gradient(
            x, dy, window=[2, 3], before=[1, 0]
        ),
        [
            tf.constant(rng.normal(size=(2, 4, 5, 2)), tf.float32),
            tf.constant(rng.normal(size=(2, 4, 3, 3)), tf.float32),
        ],
        delta=1e-2,
    )
    for one, other in zip(ours, numeric, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


@pytest.mark.parametrize(
    ("x", "dy", "arguments", "message"),
    [
        (
            *([1, 3, 3, 2**20], [1, 3, 3, 2]),
            *(
                {"window": [2**19] * 2, "dilations": [2, 2]},
                "a window within the activations",
            ),
        ),
        ([3, 1, 1, 2], [4, 1, 1, 2], {}, "of as many images"),
        ([3, 1, 193, 2], [3, 1, 193, 2], {}, "rows of at most 192 positions"),
        ([3, 4, 4, 2], [3, 4, 4, 2], {"before": [1, 0]}, "`before` within the window"),
        (
            [3, 4, 4, 2],
            [3, 4, 4, 2],
            {"dilations": [0, 1]},
            r"dilations from 1 to 2\^20",
        ),
        (
            *([1, 1, 1, 1], [1, 1, 1, 1]),
            *({"window": [2, 2], "dilations": [2**31 - 1] * 2}, r"from 1 to 2\^20"),
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(x, dy, arguments, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        gradient_of_images(tf.ones(x), tf.ones(dy), **arguments)
