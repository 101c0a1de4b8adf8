"""The native convolution with groups: by hand, against the definition, its gradients."""

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings

from tests.kernels.common import (
    Owner,
    assert_same_bits_for_any_number_of_threads,
    cpus,
    gradient_of_penalty,
    random_codes,
)
from tests.kernels.test_sparse_conv import by_definition, computed
from topkast_tf.kernels import library as kernels
from topkast_tf.kernels.convolutions import output_sizes, sparse_conv
from topkast_tf.kernels.products import new_key
from topkast_tf.variables.views import sparse_view

pytestmark = pytest.mark.skipif(
    kernels.why_unavailable() is not None, reason=str(kernels.why_unavailable())
)


def by_groups(x, theta, codes, dy, groups, *how):
    """Output and gradients in float64: each group is a convolution of its own."""
    parts = [
        by_definition(*group, *how)
        for group in zip(
            np.split(x, groups, -1),
            np.split(theta, groups, -1),
            np.split(codes, groups, -1),
            np.split(dy, groups, -1),
            strict=True,
        )
    ]
    return [np.concatenate(each, -1) for each in zip(*parts, strict=True)]


@pytest.mark.parametrize("cpu", cpus())
def test_by_hand(cpu):
    # Two positions, two groups of one channel; a window of two, one output each.
    x = np.array([[1.0, 10.0], [2.0, 20.0]], np.float32)[None]
    theta = np.array([[[3.0, 4.0]], [[5.0, 7.0]]], np.float32)
    codes = np.array([[[2, 0]], [[1, 2]]], np.uint8)
    dy = np.array([[[100.0, 1000.0]]], np.float32)
    owner = Owner()
    y, dx, dtheta = computed(
        *(x, theta, codes, dy, new_key(owner)),
        **{"strides": [1], "dilations": [1], "padding": "valid"},
        **{"groups": 2, "cpu": cpu},
    )
    # 3 * 1, and 7 * 20
    np.testing.assert_array_equal(y, [[[3.0, 140.0]]])
    np.testing.assert_array_equal(dx, [[[300.0, 0.0], [0.0, 7000.0]]])
    np.testing.assert_array_equal(dtheta, [[[100.0, 0.0]], [[200.0, 20000.0]]])


@st.composite
def convolutions(draw):
    """Shapes and arguments of a convolution with groups."""
    axis = st.tuples(*(st.integers(1, n) for n in (4, 3, 9)))
    axes = [draw(axis) for _ in range(2)]
    window, steps, sizes = ([axis[k] for axis in axes] for k in range(3))
    strides, dilations = draw(st.permutations([[1, 1], steps]))
    groups = draw(st.sampled_from([1, 2, 3, 8]))
    inputs, outputs = (draw(st.sampled_from([1, 2, 5, 17])) for _ in range(2))
    images = draw(st.sampled_from([1, 2, 5, 16, 19]))
    shape = (images, *sizes, groups * inputs)
    return shape, (*window, inputs, groups * outputs), strides, dilations, groups


densities = st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0])


@pytest.mark.parametrize("cpu", cpus())
@settings(max_examples=40, deadline=None)
@given(convolutions(), densities, densities, st.integers(0, 2**20))
def test_against_definition(cpu, case, first, second, seed):
    shape, weight, strides, dilations, groups = case
    rng = np.random.default_rng(seed)
    outputs = output_sizes(shape[1:3], weight[:2], strides, dilations, "same")
    x = rng.normal(size=shape).astype(np.float32)
    theta = rng.normal(size=weight).astype(np.float32)
    dy = rng.normal(size=(shape[0], *outputs, weight[-1])).astype(np.float32)
    fwd, bwd = sorted((first, second))
    codes = random_codes(rng, weight, fwd, bwd)
    how = {"strides": strides, "dilations": dilations, "padding": "same"}
    exact = by_groups(x, theta, codes, dy, groups, *how.values())
    owner = Owner()
    found = computed(x, theta, codes, dy, new_key(owner), groups=groups, cpu=cpu, **how)
    for ours, expected in zip(found, exact, strict=True):
        assert ours.shape == expected.shape
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=2e-4)
    np.testing.assert_array_equal(found[2][codes == 0], 0.0)


def arguments(rng):
    x = tf.constant(rng.normal(size=(2, 5, 6, 4)), tf.float32)
    theta = tf.constant(rng.normal(size=(3, 2, 2, 6)), tf.float32)
    codes = tf.constant(random_codes(rng, theta.shape, 0.4, 0.7))
    how = {"strides": (2, 1), "dilations": (1, 1), "padding": "same", "groups": 2}
    return x, theta, codes, how


def test_tensorflow_computes_the_same():
    """`tf.nn.convolution` in float64, which a CPU runs compiled."""
    x, theta, codes, how = arguments(np.random.default_rng(0))
    alpha = tf.cast(sparse_view(theta, codes), tf.float64)

    @tf.function(jit_compile=True)
    def expected(x):
        with tf.GradientTape() as tape:
            tape.watch((x, alpha))
            y = tf.nn.convolution(x, alpha, (2, 1), "SAME")
        dx, dalpha = tape.gradient(y, (x, alpha), tf.sin(y))
        return y, dx, tf.where(codes > 0, dalpha, tf.zeros_like(dalpha))

    owner = Owner()
    y, dx, dalpha = expected(tf.cast(x, tf.float64))
    found = computed(
        x, theta, codes, tf.sin(tf.cast(y, tf.float32)), new_key(owner), **how
    )
    for ours, theirs in zip(found, (y, dx, dalpha), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_gradients_are_finite_differences():
    x, theta, codes, how = arguments(np.random.default_rng(1))
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


def test_gradients_of_gradients():
    """As of one convolution for each group."""
    x, theta, codes, how = arguments(np.random.default_rng(2))
    owner = Owner()
    key = new_key(owner)
    native = gradient_of_penalty(
        lambda x, theta: sparse_conv(x, theta, codes, key=key, **how), x, theta
    )

    def masked(x, theta):
        parts = zip(
            *(tf.split(value, 2, -1) for value in (x, sparse_view(theta, codes))),
            strict=True,
        )
        return tf.concat(
            [tf.nn.convolution(*part, (2, 1), "SAME") for part in parts], -1
        )

    expected = tf.function(gradient_of_penalty)(masked, x, theta)
    for ours, theirs in zip(native, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_dense_gradient_reaches_every_entry():
    rng = np.random.default_rng(3)
    x, theta, codes, how = arguments(rng)
    owner = Owner()
    with tf.GradientTape() as tape:
        tape.watch(theta)
        y = sparse_conv(x, theta, codes, key=new_key(owner), dense_gradient=True, **how)
    dy = rng.normal(size=y.shape).astype(np.float32)
    everywhere = np.ones(theta.shape, np.uint8)
    _, _, exact = by_groups(
        *(x.numpy(), theta.numpy(), everywhere, dy), 2, (2, 1), (1, 1), "same"
    )
    np.testing.assert_allclose(tape.gradient(y, theta, dy), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("x", "theta", "groups", "message"),
    [
        ((2, 5, 6, 4), (3, 2, 2, 5), 2, "of 2 groups"),  # outputs
        ((2, 5, 6, 5), (3, 2, 2, 6), 2, "even|of 2 groups"),  # inputs
        ((2, 5, 6, 4), (3, 2, 4, 6), 2, "must be equal|of 2 groups"),
        ((2, 5, 6, 4), (3, 2, 4, 6), 0, "one group or more"),
    ],
)
def test_groups_that_do_not_fit_are_refused_in_the_operation(x, theta, groups, message):
    native = kernels.library()
    how = {"strides": [1, 1], "dilations": [1, 1], "padding": "VALID", "key": 1}
    x, theta, codes = tf.ones(x), tf.ones(theta), tf.ones(theta, tf.uint8)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        native.ops.topkast_sparse_conv(x, theta, codes, [], groups=groups, **how)


_BITS = """
import hashlib, sys
import numpy as np, tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
from topkast_tf.kernels.convolutions import sparse_conv
from topkast_tf.kernels.products import new_key
class Owner: pass
owner, rng, found = Owner(), np.random.default_rng(0), hashlib.sha256()
for shape, groups in (((20, 30, 30, 40), 4), ((90, 3, 3, 60), 3)):
    x, theta = (tf.constant(rng.normal(size=s), tf.float32)
                for s in (shape, (3, 3, shape[-1] // groups, 60)))
    codes = tf.constant((3 * rng.uniform(size=theta.shape)).astype("uint8"))
    with tf.GradientTape() as tape:
        tape.watch((x, theta))
        y = sparse_conv(x, theta, codes, key=new_key(owner), strides=[1, 1],
                        dilations=[1, 1], padding="same", groups=groups)
    for value in (y, *tape.gradient(y, (x, theta), tf.sin(y))):
        found.update(value.numpy().tobytes())
print(found.hexdigest())
"""


@pytest.mark.slow
def test_any_number_of_threads_gives_the_same_bits():
    assert_same_bits_for_any_number_of_threads(_BITS)


def test_other_groups_have_plans_of_their_own():
    rng = np.random.default_rng(5)
    codes = random_codes(rng, (3, 3, 2, 8), 0.3, 0.5)
    theta = rng.normal(size=codes.shape).astype(np.float32)
    owner = Owner()
    key = new_key(owner)
    for groups in (4, 1, 2, 4):
        x = rng.normal(size=(2, 6, 5, 2 * groups)).astype(np.float32)
        dy = rng.normal(size=(2, 6, 5, 8)).astype(np.float32)
        how = ([1, 1], [1, 1], "same")
        found = computed(
            *(x, theta, codes, dy, key),
            **dict(zip(("strides", "dilations", "padding"), how, strict=True)),
            groups=groups,
        )
        for ours, theirs in zip(
            found, by_groups(x, theta, codes, dy, groups, *how), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
