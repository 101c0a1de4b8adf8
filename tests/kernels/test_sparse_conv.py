"""The native convolution: by hand, against NumPy from the definition, its gradients."""

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings

from tests.kernels.common import Owner, cpus, gradient_of_penalty, random_codes
from topkast_tf.kernels import library as kernels
from topkast_tf.kernels.convolutions import output_sizes, sparse_conv
from topkast_tf.kernels.products import new_key
from topkast_tf.variables.views import sparse_view

pytestmark = pytest.mark.skipif(
    kernels.why_unavailable() is not None, reason=str(kernels.why_unavailable())
)


def zeros_before(size, window, stride, dilation, padding):
    reach = (window - 1) * dilation + 1
    if padding == "causal":
        return reach - 1
    outputs = -(-size // stride)
    around = max(0, (outputs - 1) * stride + reach - size)
    return around // 2 if padding == "same" else 0


def by_definition(x, theta, codes, dy, strides, dilations, padding):
    """Output and gradients in float64, one output and window position at a time."""
    x, theta, dy = (value.astype(np.float64) for value in (x, theta, dy))
    alpha = np.where(codes == 2, theta, 0.0)
    window = theta.shape[:2]
    sizes = x.shape[1:3]
    outputs = output_sizes(sizes, window, strides, dilations, padding)
    before = [
        zeros_before(*each, padding)
        for each in zip(sizes, window, strides, dilations, strict=True)
    ]
    y = np.zeros((x.shape[0], *outputs, theta.shape[-1]))
    dx, dtheta = np.zeros_like(x), np.zeros_like(theta)
    for r, c, k, m in np.ndindex(*outputs, *window):
        row = strides[0] * r + dilations[0] * k - before[0]
        col = strides[1] * c + dilations[1] * m - before[1]
        if 0 <= row < sizes[0] and 0 <= col < sizes[1]:
            y[:, r, c] += x[:, row, col] @ alpha[k, m]
            dx[:, row, col] += dy[:, r, c] @ alpha[k, m].T
            dtheta[k, m] += x[:, row, col].T @ dy[:, r, c]
    return y, dx, np.where(codes > 0, dtheta, 0.0)


def computed(x, theta, codes, dy, key, **arguments):
    x, theta, codes = tf.constant(x), tf.constant(theta), tf.constant(codes)
    with tf.GradientTape() as tape:
        tape.watch((x, theta))
        y = sparse_conv(x, theta, codes, key=key, **arguments)
    return (y.numpy(), *(g.numpy() for g in tape.gradient(y, (x, theta), dy)))


@pytest.mark.parametrize("cpu", cpus())
def test_by_hand(cpu):
    # One image of 2 x 3, a window of 2 x 2, valid: two outputs.
    x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)[None, :, :, None]
    theta = np.array([[10.0, 7.0], [-1.0, 100.0]], np.float32)[:, :, None, None]
    codes = np.array([[2, 1], [0, 2]], np.uint8)[:, :, None, None]
    dy = np.array([[1.0, 3.0]], np.float32)[None, :, :, None]
    owner = Owner()
    y, dx, dtheta = computed(
        *(x, theta, codes, dy, new_key(owner)),
        **{"strides": [1, 1], "dilations": [1, 1], "padding": "valid", "cpu": cpu},
    )
    # 10 * 1 + 100 * 5 and 10 * 2 + 100 * 6
    np.testing.assert_array_equal(y[0, :, :, 0], [[510.0, 620.0]])
    np.testing.assert_array_equal(dx[0, :, :, 0], [[10, 30, 0], [0, 100, 300]])
    # [[1 + 3 * 2, 2 + 3 * 3], [-, 5 + 3 * 6]]
    np.testing.assert_array_equal(dtheta[:, :, 0, 0], [[7, 11], [0, 23]])


@pytest.mark.parametrize("cpu", cpus())
def test_causal_sequence_by_hand(cpu):
    x = np.array([1.0, 2.0, 3.0, 4.0], np.float32)[None, :, None]
    theta = np.array([10.0, 1.0], np.float32)[:, None, None]
    codes = np.full((2, 1, 1), 2, np.uint8)
    dy = np.array([1.0, 0.0, 0.0, 5.0], np.float32)[None, :, None]
    owner = Owner()
    y, dx, dtheta = computed(
        *(x, theta, codes, dy, new_key(owner)),
        **{"strides": [1], "dilations": [2], "padding": "causal", "cpu": cpu},
    )
    # y_t = 10 x_(t - 2) + x_t
    np.testing.assert_array_equal(y.ravel(), [1.0, 2.0, 13.0, 24.0])
    np.testing.assert_array_equal(dx.ravel(), [1.0, 50.0, 0.0, 5.0])
    np.testing.assert_array_equal(dtheta.ravel(), [10.0, 21.0])


@st.composite
def convolutions(draw):
    """Shapes and arguments of a convolution: strides, or dilations."""
    axis = st.tuples(*(st.integers(1, n) for n in (5, 3, 14)))
    axes = [draw(axis) for _ in range(2)]
    dilated = draw(st.booleans())
    padding = draw(st.sampled_from(["valid", "same", "causal"]))
    window = [window for window, _, _ in axes]
    steps = [step for _, step, _ in axes]
    sizes = [size for _, _, size in axes]
    ones = [1, 1]
    if padding == "causal":  # of sequences, which are images of one row
        window[0], steps[0], sizes[0] = 1, 1, 1
    strides, dilations = (ones, steps) if dilated else (steps, ones)
    if padding == "valid":
        reach = [(n - 1) * d for n, d in zip(window, dilations, strict=True)]
        sizes = [size + more for size, more in zip(sizes, reach, strict=True)]
    channels = st.sampled_from([1, 2, 5, 8, 16, 17, 35])
    images = draw(st.sampled_from([1, 2, 3, 4, 7, 8, 16, 19, 33]))
    x = (images, *sizes, draw(channels))
    return x, (*window, x[-1], draw(channels)), strides, dilations, padding


densities = st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0])


@pytest.mark.parametrize("cpu", cpus())
@settings(max_examples=60, deadline=None)
@given(convolutions(), densities, densities, st.integers(0, 2**20))
def test_against_definition(cpu, case, first, second, seed):
    shape, weight, strides, dilations, padding = case
    rng = np.random.default_rng(seed)
    outputs = output_sizes(shape[1:3], weight[:2], strides, dilations, padding)
    x = rng.normal(size=shape).astype(np.float32)
    theta = rng.normal(size=weight).astype(np.float32)
    dy = rng.normal(size=(shape[0], *outputs, weight[-1])).astype(np.float32)
    fwd, bwd = sorted((first, second))
    codes = random_codes(rng, weight, fwd, bwd)
    exact = by_definition(x, theta, codes, dy, strides, dilations, padding)
    owner = Owner()
    if padding == "causal":
        given_ = (x[:, 0], theta[0], codes[0], dy[:, 0])
        strides, dilations = strides[1:], dilations[1:]
        exact = exact[0][:, 0], exact[1][:, 0], exact[2][0]
    else:
        given_ = (x, theta, codes, dy)
    found = computed(
        *(*given_, new_key(owner)),
        **{"strides": strides, "dilations": dilations, "padding": padding, "cpu": cpu},
    )
    for ours, expected in zip(found, exact, strict=True):
        assert ours.shape == expected.shape
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=2e-4)
    np.testing.assert_array_equal(found[2][given_[2] == 0], 0.0)


SLABS = [
    ((3, 70, 70, 40), (3, 3, 40, 16), [1, 1], [1, 1]),  # many rows: several slabs
    ((40, 5, 4, 600), (3, 3, 600, 20), [2, 1], [1, 1]),  # few rows of many channels
    ((1, 1, 9000, 30), (1, 5, 30, 8), [1, 2], [1, 1]),  # rows wider than a slab
    ((1, 3, 9000, 30), (2, 3, 30, 8), [1, 1], [1, 7]),
    ((70, 2, 2, 40), (3, 3, 40, 30), [1, 1], [1, 1]),  # several groups in a slab
    ((5, 6, 6, 300), (2, 2, 300, 10), [3, 3], [1, 1]),  # targets that no tap reaches
]


@pytest.mark.parametrize("cpu", cpus())
@pytest.mark.parametrize("case", SLABS)
def test_large_images_in_several_slabs(cpu, case):
    shape, weight, strides, dilations = case
    rng = np.random.default_rng(0)
    outputs = output_sizes(shape[1:3], weight[:2], strides, dilations, "same")
    x = rng.normal(size=shape).astype(np.float32)
    theta = rng.normal(size=weight).astype(np.float32)
    dy = rng.normal(size=(shape[0], *outputs, weight[-1])).astype(np.float32)
    codes = random_codes(rng, weight, 0.1, 0.2)
    exact = by_definition(x, theta, codes, dy, strides, dilations, "same")
    owner = Owner()
    found = computed(
        *(x, theta, codes, dy, new_key(owner)),
        **{"strides": strides, "dilations": dilations, "padding": "same", "cpu": cpu},
    )
    for ours, expected in zip(found, exact, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3)


def arguments(rng, strides=(1, 1), dilations=(1, 1), padding="same"):
    x = tf.constant(rng.normal(size=(2, 5, 6, 3)), tf.float32)
    theta = tf.constant(rng.normal(size=(3, 2, 3, 4)), tf.float32)
    codes = tf.constant(random_codes(rng, theta.shape, 0.4, 0.7))
    how = {"strides": strides, "dilations": dilations, "padding": padding}
    return x, theta, codes, how


def masked(x, theta, codes, how):
    """The masked product, by TensorFlow."""
    return tf.nn.convolution(
        x,
        sparse_view(theta, codes),
        how["strides"],
        how["padding"].upper(),
        dilations=how["dilations"],
    )


@pytest.mark.parametrize("dilations", [(1, 1), (2, 1)])
def test_dense_gradient_reaches_every_entry(dilations):
    rng = np.random.default_rng(0)
    x, theta, codes, how = arguments(rng, dilations=dilations)
    owner = Owner()
    with tf.GradientTape() as tape:
        tape.watch(theta)
        y = sparse_conv(x, theta, codes, key=new_key(owner), dense_gradient=True, **how)
    dy = rng.normal(size=y.shape).astype(np.float32)
    everywhere = np.full(theta.shape, 1, np.uint8)
    exact = by_definition(x.numpy(), theta.numpy(), everywhere, dy, *how.values())
    found = tape.gradient(y, theta, dy)
    np.testing.assert_allclose(found, exact[2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", [{"strides": (2, 1)}, {"dilations": (1, 2)}])
def test_gradients_are_finite_differences(how):
    rng = np.random.default_rng(1)
    x, theta, codes, how = arguments(rng, **how)
    codes = tf.where(codes == 1, tf.zeros_like(codes), codes)  # B = A
    owner = Owner()
    key = new_key(owner)
    found, numeric = tf.test.compute_gradient(
        lambda x, theta: sparse_conv(x, theta, codes, key=key, **how),
        [x, theta],
        delta=1e-2,
    )
    for ours, theirs in zip(found, numeric, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-3)


@pytest.mark.parametrize("how", [{"strides": (2, 1)}, {"dilations": (1, 2)}, {}])
def test_gradients_of_gradients(how):
    """As of the masked product: a penalty of both gradients."""
    x, theta, codes, how = arguments(np.random.default_rng(4), **how)
    owner = Owner()
    key = new_key(owner)
    native = gradient_of_penalty(
        lambda x, theta: sparse_conv(x, theta, codes, key=key, **how), x, theta
    )
    # TensorFlow has no second gradients of eager convolutions (AttributeError in nn_grad).
    reference = tf.function(gradient_of_penalty)
    expected = reference(lambda x, theta: masked(x, theta, codes, how), x, theta)
    for ours, theirs in zip(native, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_gradients_of_third_order():
    """Of a product that is linear in each operand; also eagerly."""
    x, theta, codes, how = arguments(np.random.default_rng(4))
    owner = Owner()
    key = new_key(owner)

    def of_third_order(product):
        with tf.GradientTape() as tape:
            tape.watch((x, theta))
            found = gradient_of_penalty(product, x, theta)
            total = sum(tf.reduce_sum(tf.sin(each)) for each in found)
        return tape.gradient(total, (x, theta))

    native = of_third_order(
        lambda x, theta: sparse_conv(x, theta, codes, key=key, **how)
    )
    reference = tf.function(of_third_order)
    expected = reference(lambda x, theta: masked(x, theta, codes, how))
    for ours, theirs in zip(native, expected, strict=True):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * scale)


def test_forward_mode_and_vectorized_map():
    rng = np.random.default_rng(5)
    x, theta, codes, how = arguments(rng, strides=(1, 2))
    owner = Owner()
    key = new_key(owner)
    alpha = sparse_view(theta, codes)
    direction = tf.constant(rng.normal(size=x.shape), tf.float32)
    with tf.autodiff.ForwardAccumulator(x, direction) as forward:
        y = sparse_conv(x, theta, codes, key=key, **how)
    expected = masked(direction, theta, codes, how)
    np.testing.assert_allclose(forward.jvp(y), expected, atol=1e-5)
    several = tf.stack([x, direction, x + 1.0])
    each = tf.vectorized_map(
        lambda one: sparse_conv(one, theta, codes, key=key, **how), several
    )
    expected = [tf.nn.convolution(one, alpha, (1, 2), "SAME") for one in several]
    np.testing.assert_allclose(each, expected, atol=1e-5)


@pytest.mark.parametrize("images", [1, 7, 16])
def test_inf_and_nan_reach_what_they_are_connected_to(images):
    rng = np.random.default_rng(7)
    weight, how = (3, 3, 20, 18), {"strides": (2, 1), "dilations": (1, 1)}
    x = rng.normal(size=(images, 9, 7, 20)).astype(np.float32)
    theta = rng.normal(size=weight).astype(np.float32)
    codes = random_codes(rng, weight, 0.1, 0.3)
    dy = rng.normal(size=(images, 5, 7, 18)).astype(np.float32)
    marks = np.zeros_like(x), np.zeros_like(dy)
    for values, mark in zip((x, dy), marks, strict=True):
        for bad in (np.inf, np.nan):
            place = tuple(rng.integers(values.shape))
            values[place], mark[place] = bad, 1.0
    owner = Owner()
    y, dx, _ = computed(x, theta, codes, dy, new_key(owner), padding="same", **how)
    ones = np.ones_like(theta)
    reached = by_definition(
        marks[0], ones, codes, marks[1], *how.values(), padding="same"
    )
    np.testing.assert_array_equal(~np.isfinite(y), reached[0] > 0)
    np.testing.assert_array_equal(~np.isfinite(dx), reached[1] > 0)


def test_plans_follow_codes_and_window():
    rng = np.random.default_rng(2)
    x, theta, _, _ = arguments(rng)
    owner = Owner()
    key = new_key(owner)
    for seed, strides in enumerate([(1, 1), (2, 2), (2, 2), (1, 3), (1, 1)]):
        codes = random_codes(np.random.default_rng(seed // 2), theta.shape, 0.3, 0.6)
        outputs = output_sizes((5, 6), (3, 2), strides, (1, 1), "same")
        dy = rng.normal(size=(2, *outputs, 4)).astype(np.float32)
        how = {"strides": strides, "dilations": (1, 1), "padding": "same"}
        exact = by_definition(x.numpy(), theta.numpy(), codes, dy, *how.values())
        for _ in range(2):
            found = computed(x, theta, codes, dy, key, **how)
            for ours, expected in zip(found, exact, strict=True):
                np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    assert kernels.library().plan_bytes(key) > 0
    del owner
    assert kernels.library().plan_bytes(key) == 0


def test_unknown_sizes_and_empty_batch():
    x, theta, codes, how = arguments(np.random.default_rng(6), strides=(2, 1))
    owner = Owner()
    key = new_key(owner)
    call = tf.function(
        lambda x: sparse_conv(x, theta, codes, key=key, **how),
        input_signature=[tf.TensorSpec([None, None, None, 3])],
    )
    np.testing.assert_allclose(call(x), masked(x, theta, codes, how), atol=1e-5)
    none = np.zeros((0, 5, 6, 3), np.float32)
    y, dx, dtheta = computed(
        none, theta, codes, np.zeros((0, 3, 6, 4), np.float32), key, **how
    )
    assert (y.shape, dx.shape) == ((0, 3, 6, 4), none.shape)
    np.testing.assert_array_equal(dtheta, np.zeros(theta.shape))
