"""The native products of activations in bfloat16, against their definition.

Operands are rounded to bfloat16, sums are float32, and outputs are rounded once.
"""

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings

from tests.kernels import test_sparse_conv as convolutions
from tests.kernels import test_sparse_matmul as matrices
from tests.kernels.common import (
    Owner,
    assert_rounded_once,
    assert_same_bits_for_any_number_of_threads,
    cpus,
    gradient_of_penalty,
    random_codes,
    rounded,
)
from topkast_tf.kernels import library as kernels
from topkast_tf.kernels.convolutions import output_sizes, sparse_conv
from topkast_tf.kernels.products import new_key, sparse_matmul
from topkast_tf.variables.views import sparse_view

pytestmark = pytest.mark.skipif(
    kernels.why_unavailable() is not None, reason=str(kernels.why_unavailable())
)
bfloat16 = tf.bfloat16.as_numpy_dtype


def weight_gradient(x, dy, codes, cpu, arithmetic):
    """The weight gradient of a matrix on B."""
    owner = Owner()
    return kernels.library().ops.topkast_sparse_weight_gradient(
        *(x.astype(bfloat16), dy.astype(bfloat16), codes),
        **{"key": new_key(owner), "cpu": cpu, "arithmetic": arithmetic},
    )


@pytest.mark.parametrize(("cpu", "code"), matrices.with_code())
def test_by_hand(cpu, code):
    # Numbers of bfloat16 have 8 bits: 257 is a tie between 256 and 258, and 259 one between
    # 258 and 260; 1 + 2^-9 is rounded to 1.
    x = np.array([[256.0, 1.0], [256.0, 3.0]], bfloat16)
    theta = np.array([[1.0 + 2.0**-9, 5.0], [1.0, -1.0]], np.float32)
    codes = np.array([[2, 0], [2, 1]], np.uint8)
    dy = np.array([[1.0, 256.0], [1.0, 3.0]], bfloat16)
    owner = Owner()
    y, dx, dtheta = matrices.computed(
        x, theta, codes, dy, new_key(owner), cpu, code=code
    )
    assert (y.dtype, dx.dtype, dtheta.dtype) == (bfloat16, bfloat16, np.float32)
    np.testing.assert_array_equal(y, [[256.0, 0.0], [260.0, 0.0]])
    np.testing.assert_array_equal(dx, [[1.0, 1.0], [1.0, 1.0]])
    # 256 + 3 * 3 is not rounded.
    np.testing.assert_array_equal(dtheta, [[512.0, 0.0], [4.0, 265.0]])


sizes = st.one_of(st.integers(1, 20), st.sampled_from([31, 64, 65, 127, 200, 300, 530]))
densities = st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0])


def case_of(seed, first, second, *shapes):
    """Activations, a weight and errors of given shapes, and codes of given densities."""
    rng = np.random.default_rng(seed)
    x, theta, dy = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    fwd, bwd = sorted((first, second))
    return rounded(x), theta, random_codes(rng, theta.shape, fwd, bwd), rounded(dy)


@pytest.mark.parametrize(("cpu", "code"), matrices.with_code())
@settings(max_examples=40, deadline=None)
@given(sizes, sizes, sizes, densities, densities, st.integers(0, 2**20))
def test_against_definition(cpu, code, positions, inputs, outputs, first, second, seed):
    shapes = (positions, inputs), (inputs, outputs), (positions, outputs)
    x, theta, codes, dy = case_of(seed, first, second, *shapes)
    owner = Owner()
    y, dx, dtheta = matrices.computed(
        x.astype(bfloat16),
        theta,
        codes,
        dy.astype(bfloat16),
        new_key(owner),
        cpu,
        code=code,
    )
    operands = x, rounded(theta), codes, dy
    exact = matrices.by_definition(*operands)
    magnitudes = matrices.by_definition(*map(np.abs, operands))
    assert_rounded_once(y, exact[0], magnitudes[0], inputs)
    assert_rounded_once(dx, exact[1], magnitudes[1], outputs)
    assert_rounded_once(dtheta, exact[2], magnitudes[2], positions, "float32")
    np.testing.assert_array_equal(dtheta[codes == 0], 0.0)


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, sizes, densities, st.integers(0, 2**20))
def test_weight_gradient_in_float32(positions, inputs, outputs, density, seed):
    """Where the machine multiplies pairs, that is the default, and checked above."""
    shapes = (positions, inputs), (inputs, outputs), (positions, outputs)
    x, theta, codes, dy = case_of(seed, density, density, *shapes)
    operands = x, theta, codes, dy
    exact = matrices.by_definition(*operands)[2]
    magnitude = matrices.by_definition(*map(np.abs, operands))[2]
    found = weight_gradient(x, dy, codes, "", "float32").numpy()
    assert_rounded_once(found, exact, magnitude, positions, "float32")


@pytest.mark.parametrize("arithmetic", ["auto", "float32"])
@pytest.mark.parametrize("cpu", cpus())
def test_gradients_are_exact_differences(cpu, arithmetic):
    """Of small integers, all of which bfloat16 holds: differences have no error."""
    rng = np.random.default_rng(1)
    x, theta, dy = (
        rng.integers(-3, 4, shape).astype(np.float32)
        for shape in ((70, 6), (6, 5), (70, 5))
    )
    codes = random_codes(rng, (6, 5), 0.4, 0.4)
    owner = Owner()
    key = new_key(owner)

    def y(x, theta):
        out = sparse_matmul(x.astype(bfloat16), theta, codes, key=key, cpu=cpu)
        return out.numpy().astype(np.float64)

    _, dx, _ = matrices.computed(
        x.astype(bfloat16), theta, codes, dy.astype(bfloat16), key, cpu
    )
    dtheta = weight_gradient(x, dy, codes, cpu, arithmetic).numpy()
    for place in np.ndindex(theta.shape):
        moved = theta.copy()
        moved[place] += 1
        assert dtheta[place] == np.sum((y(x, moved) - y(x, theta)) * dy)
    for i in range(6):
        moved = x.copy()
        moved[:, i] += 1
        np.testing.assert_array_equal(
            dx[:, i].astype(np.float64), np.sum((y(moved, theta) - y(x, theta)) * dy, 1)
        )


@pytest.mark.parametrize("cpu", cpus())
def test_inf_and_nan_reach_what_they_are_connected_to(cpu):
    rng = np.random.default_rng(3)
    x, dy = rng.normal(size=(300, 70)), rng.normal(size=(300, 90))
    theta = rng.normal(size=(70, 90)).astype(np.float32)
    codes = random_codes(rng, theta.shape, 0.1, 0.2)
    x[7, 3], x[290, 40], dy[9, 5], dy[200, 60] = np.inf, np.nan, -np.inf, np.nan
    a_nan = np.array(0x7F800001, np.uint32).view(np.float32)  # in its lower half alone
    at = tuple(np.argwhere(codes == 2)[0])
    theta[at] = a_nan
    owner = Owner()
    y, dx, dtheta = matrices.computed(
        x.astype(bfloat16), theta, codes, dy.astype(bfloat16), new_key(owner), cpu
    )
    ones = np.ones_like(theta)
    bad = [~np.isfinite(value).astype(bool) for value in (x, dy)]
    reached = matrices.by_definition(
        bad[0].astype(float), ones, codes, bad[1].astype(float)
    )
    of_weight = np.zeros(codes.shape, bool)
    of_weight[at] = True
    expected_y = (reached[0] > 0) | of_weight.any(0)
    expected_dx = (reached[1] > 0) | of_weight.any(1)
    np.testing.assert_array_equal(~np.isfinite(y.astype(np.float32)), expected_y)
    np.testing.assert_array_equal(~np.isfinite(dx.astype(np.float32)), expected_dx)
    assert np.isnan(y.astype(np.float32)[:, at[1]]).all()
    expected = (codes > 0) & (bad[0].any(0)[:, None] | bad[1].any(0))
    np.testing.assert_array_equal(~np.isfinite(dtheta), expected)


def test_dense_gradient_is_that_of_the_masked_product():
    shapes = (90, 20), (20, 30), (90, 30)
    x, theta, codes, dy = case_of(0, 0.3, 0.3, *shapes)
    owner = Owner()
    _, _, found = matrices.computed(
        *(x.astype(bfloat16), theta, codes, dy.astype(bfloat16), new_key(owner)),
        dense_gradient=True,
    )
    # TensorFlow's product, which not every machine rounds once.
    expected = tf.matmul(x.astype(bfloat16), dy.astype(bfloat16), transpose_a=True)
    np.testing.assert_array_equal(found, tf.cast(expected, tf.float32))
    assert found.dtype == np.float32


@pytest.mark.parametrize("window", [None, (3, 2)])
@pytest.mark.parametrize("cpu", cpus())
def test_gradient_from_sparse_activations(cpu, window):
    rng = np.random.default_rng(5)
    shape = (200, 30) if window is None else (9, 7, 8, 30)
    weight = (30, 70) if window is None else (*window, 30, 70)
    x = rounded(rng.normal(size=shape) * (rng.uniform(size=shape) < 0.2))
    theta = rng.normal(size=weight).astype(np.float32)
    dy = rounded(rng.normal(size=(*shape[:-1], 70)))
    codes = random_codes(rng, weight, 0.2, 0.2)
    how = {"cpu": cpu, "sparse_activations": True}
    of = matrices if window is None else convolutions
    arguments = () if window is None else ((1, 1), (1, 1), "same")
    if window is not None:
        how |= {"strides": (1, 1), "dilations": (1, 1), "padding": "same"}
    owner = Owner()
    found = of.computed(
        x.astype(bfloat16), theta, codes, dy.astype(bfloat16), new_key(owner), **how
    )[2]
    everywhere = np.ones_like(codes)
    operands = x, theta, everywhere, dy
    exact = of.by_definition(*operands, *arguments)[2]
    magnitude = of.by_definition(*map(np.abs, operands), *arguments)[2]
    assert_rounded_once(found, exact, magnitude, x.size, "float32")


@pytest.mark.parametrize("cpu", cpus())
@settings(max_examples=40, deadline=None)
@given(convolutions.convolutions(), densities, densities, st.integers(0, 2**20))
def test_convolution_against_definition(cpu, case, first, second, seed):
    shape, weight, strides, dilations, padding = case
    if padding == "causal":
        padding = "same"
    outputs = output_sizes(shape[1:3], weight[:2], strides, dilations, padding)
    shapes = shape, weight, (shape[0], *outputs, weight[-1])
    x, theta, codes, dy = case_of(seed, first, second, *shapes)
    arguments = strides, dilations, padding
    operands = x, rounded(theta), codes, dy
    exact = convolutions.by_definition(*operands, *arguments)
    magnitudes = convolutions.by_definition(*map(np.abs, operands), *arguments)
    owner = Owner()
    found = convolutions.computed(
        *(x.astype(bfloat16), theta, codes, dy.astype(bfloat16), new_key(owner)),
        **{"strides": strides, "dilations": dilations, "padding": padding, "cpu": cpu},
    )
    for ours, sums, magnitude, dtype in zip(
        found, exact, magnitudes, ("bfloat16", "bfloat16", "float32"), strict=True
    ):
        terms = max(x[..., 0].size, np.prod(weight[:2]) * max(weight[2:]))
        assert_rounded_once(ours, sums, magnitude, terms, dtype)
    np.testing.assert_array_equal(found[2][codes == 0], 0.0)


@pytest.mark.parametrize("images", [1, 2, 3, 7, 32, 33])
@pytest.mark.parametrize("channels", [(5, 9), (16, 16), (33, 70)])
def test_weight_gradient_of_a_convolution_from_pairs_of_images(images, channels):
    """Where the machine multiplies pairs; the same sums as in float32, in another order."""
    shape, weight = (images, 6, 5, channels[0]), (3, 2, *channels)
    shapes = shape, weight, (images, 3, 5, channels[1])
    x, theta, codes, dy = case_of(images, 0.1, 0.3, *shapes)
    arguments = (2, 1), (1, 1), "same"
    exact = convolutions.by_definition(x, theta, codes, dy, *arguments)[2]
    magnitude = convolutions.by_definition(
        *map(np.abs, (x, theta, codes, dy)), *arguments
    )
    owner = Owner()
    for arithmetic in ("auto", "float32"):
        found = kernels.library().ops.topkast_sparse_conv_weight_gradient(
            *(x.astype(bfloat16), dy.astype(bfloat16), codes),
            **{"key": new_key(owner), "strides": [2, 1], "dilations": [1, 1]},
            **{"padding": "SAME", "arithmetic": arithmetic},
        )
        assert_rounded_once(found.numpy(), exact, magnitude[2], 15 * images, "float32")


@pytest.mark.parametrize("of", ["matrix", "convolution"])
def test_gradients_of_gradients(of):
    """As of the masked product, up to a few roundings."""
    rng = np.random.default_rng(4)
    is_matrix = of == "matrix"
    shape, weight = ((9, 6), (6, 5)) if is_matrix else ((2, 5, 6, 3), (3, 2, 3, 4))
    x = tf.constant(rng.normal(size=shape), tf.float32)
    theta = tf.constant(rng.normal(size=weight), tf.float32)
    codes = tf.constant(random_codes(rng, weight, 0.4, 0.7))
    owner = Owner()
    key = new_key(owner)
    how = {"strides": (2, 1), "padding": "SAME"}

    def native(x, theta):
        if is_matrix:
            return sparse_matmul(x, theta, codes, key=key)
        return sparse_conv(
            *(x, theta, codes),
            **{"key": key, "strides": (2, 1), "dilations": (1, 1), "padding": "same"},
        )

    def masked(x, theta):
        alpha = tf.cast(sparse_view(theta, codes), x.dtype)
        return x @ alpha if is_matrix else tf.nn.conv2d(x, alpha, **how)

    for ours, theirs in zip(
        gradient_of_penalty(_in_float32(native), x, theta),
        gradient_of_penalty(_in_float32(masked), x, theta),
        strict=True,
    ):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, atol=2.0**-5 * np.max(np.abs(theirs)))


def _in_float32(product):
    return lambda x, theta: tf.cast(product(tf.cast(x, tf.bfloat16), theta), tf.float32)


def test_empty_batch():
    owner = Owner()
    codes = np.full((3, 4), 2, np.uint8)
    x, dy = np.zeros((0, 3), bfloat16), np.zeros((0, 4), bfloat16)
    theta = np.ones((3, 4), np.float32)
    y, dx, dtheta = matrices.computed(x, theta, codes, dy, new_key(owner))
    assert (y.shape, dx.shape) == ((0, 4), (0, 3))
    np.testing.assert_array_equal(dtheta, np.zeros((3, 4)))


def test_other_dtypes_are_refused():
    owner = Owner()
    codes = np.full((3, 4), 2, np.uint8)
    with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError)):
        sparse_matmul(
            tf.ones([2, 3], tf.float16), tf.ones([3, 4]), codes, key=new_key(owner)
        )


_BITS = """
import hashlib, sys
import numpy as np, tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
from topkast_tf.kernels.convolutions import sparse_conv
from topkast_tf.kernels.products import new_key, sparse_matmul
class Owner: pass
owner, rng = Owner(), np.random.default_rng(0)
how = {"strides": [1, 1], "dilations": [1, 1], "padding": "same"}
found = hashlib.sha256()
for product, shape, weight, arguments in (
    (sparse_matmul, (1700, 150), (150, 260), {}),
    (sparse_conv, (40, 12, 12, 30), (3, 3, 30, 40), how),
):
    x = tf.constant(rng.normal(size=shape), tf.bfloat16)
    theta = tf.constant(rng.normal(size=weight), tf.float32)
    codes = tf.constant((3 * rng.uniform(size=weight)).astype("uint8"))
    with tf.GradientTape() as tape:
        tape.watch((x, theta))
        y = product(x, theta, codes, key=new_key(owner), **arguments)
    for value in (y, *tape.gradient(y, (x, theta), tf.sin(y))):
        found.update(value.numpy().tobytes())
print(found.hexdigest())
"""


@pytest.mark.slow
def test_any_number_of_threads_gives_the_same_bits():
    assert_same_bits_for_any_number_of_threads(_BITS)
