"""The native products: by hand, against NumPy from the definition, their gradients."""

import weakref

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
from topkast_tf.kernels import library as kernels
from topkast_tf.kernels.products import new_key, sparse_matmul
from topkast_tf.variables.views import sparse_view

pytestmark = pytest.mark.skipif(
    kernels.why_unavailable() is not None, reason=str(kernels.why_unavailable())
)


def with_code():
    """Pairs of an instruction set and how its product is computed."""
    return [(cpu, "static") for cpu in cpus()] + [
        (cpu, "generated") for cpu in cpus() if cpu == "avx512"
    ]


def by_definition(x, theta, codes, dy):
    """Output and gradients in float64."""
    x, theta, dy = (value.astype(np.float64) for value in (x, theta, dy))
    alpha = np.where(codes == 2, theta, 0.0)
    return x @ alpha, dy @ alpha.T, np.where(codes > 0, x.T @ dy, 0.0)


def computed(x, theta, codes, dy, key, cpu=None, **arguments):
    x, theta, codes = tf.constant(x), tf.constant(theta), tf.constant(codes)
    with tf.GradientTape() as tape:
        tape.watch((x, theta))
        y = sparse_matmul(x, theta, codes, key=key, cpu=cpu, **arguments)
    return (y.numpy(), *(g.numpy() for g in tape.gradient(y, (x, theta), dy)))


@pytest.mark.parametrize(("cpu", "code"), with_code())
def test_by_hand(cpu, code):
    x = np.array([[1.0, 2.0, 3.0], [0.0, -1.0, 1.0]], np.float32)
    theta = np.array([[5.0, 1.0], [7.0, 2.0], [-1.0, 9.0]], np.float32)
    codes = np.array([[2, 0], [1, 2], [0, 1]], np.uint8)
    # alpha = [[5, 0], [0, 2], [0, 0]]
    dy = np.array([[1.0, 10.0], [100.0, 1000.0]], np.float32)
    owner = Owner()
    y, dx, dtheta = computed(x, theta, codes, dy, new_key(owner), cpu, code=code)
    np.testing.assert_array_equal(y, [[5.0, 4.0], [0.0, -2.0]])
    np.testing.assert_array_equal(dx, [[5.0, 20.0, 0.0], [500.0, 2000.0, 0.0]])
    # x^T dy = [[1, 10], [-98, -980], [103, 1030]], on B.
    np.testing.assert_array_equal(dtheta, [[1.0, 0.0], [-98.0, -980.0], [0.0, 1030.0]])


sizes = st.one_of(st.integers(1, 20), st.sampled_from([31, 64, 65, 127, 200, 300]))
densities = st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0])


@pytest.mark.parametrize(("cpu", "code"), with_code())
@settings(max_examples=40, deadline=None)
@given(sizes, sizes, sizes, densities, densities, st.integers(0, 2**20))
def test_against_definition(cpu, code, positions, inputs, outputs, first, second, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(positions, inputs)).astype(np.float32)
    theta = rng.normal(size=(inputs, outputs)).astype(np.float32)
    dy = rng.normal(size=(positions, outputs)).astype(np.float32)
    fwd, bwd = sorted((first, second))
    codes = random_codes(rng, theta.shape, fwd, bwd)
    owner = Owner()
    found = computed(x, theta, codes, dy, new_key(owner), cpu, code=code)
    for ours, exact in zip(found, by_definition(x, theta, codes, dy), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found[2][codes == 0], 0.0)


def test_dense_gradient_reaches_every_entry():
    rng = np.random.default_rng(0)
    x, theta = rng.normal(size=(9, 5)), rng.normal(size=(5, 7))
    dy = rng.normal(size=(9, 7))
    x, theta, dy = (value.astype(np.float32) for value in (x, theta, dy))
    codes = random_codes(rng, theta.shape, 0.3, 0.3)
    owner = Owner()
    _, _, found = computed(x, theta, codes, dy, new_key(owner), dense_gradient=True)
    np.testing.assert_allclose(found, x.T @ dy, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_dense", [False, True])
@pytest.mark.parametrize("in_function", [False, True])
def test_dense_gradient_where_a_condition_holds(is_dense, in_function):
    rng = np.random.default_rng(0)
    x, theta, dy = (
        rng.normal(size=size).astype(np.float32) for size in ((9, 5), (5, 7), (9, 7))
    )
    codes = random_codes(rng, theta.shape, 0.3, 0.5)
    owner = Owner()
    how = {"key": new_key(owner), "dense_gradient": True}

    def gradients(condition):
        a, w = tf.constant(x), tf.constant(theta)
        with tf.GradientTape() as tape:
            tape.watch((a, w))
            y = sparse_matmul(a, w, tf.constant(codes), dense_if=condition, **how)
        return tape.gradient(y, (a, w), tf.constant(dy))

    called = tf.function(gradients) if in_function else gradients
    dx, found = called(tf.constant(is_dense))
    whole = x.T @ dy
    expected = whole if is_dense else np.where(codes > 0, whole, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    alpha = np.where(codes == 2, theta, 0)
    np.testing.assert_allclose(dx, dy @ alpha.T, rtol=1e-5, atol=1e-5)


def test_gradients_are_finite_differences():
    rng = np.random.default_rng(1)
    codes = tf.constant(random_codes(rng, (6, 5), 0.4, 0.4))
    owner = Owner()
    key = new_key(owner)
    theta, numeric = tf.test.compute_gradient(
        lambda x, theta: sparse_matmul(x, theta, codes, key=key),
        [
            tf.constant(rng.normal(size=(7, 6)), tf.float32),
            tf.constant(rng.normal(size=(6, 5)), tf.float32),
        ],
        delta=1e-2,
    )
    for ours, theirs in zip(theta, numeric, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_plans_follow_the_codes():
    rng = np.random.default_rng(2)
    x = tf.constant(rng.normal(size=(30, 40)), tf.float32)
    theta = tf.constant(rng.normal(size=(40, 50)), tf.float32)
    variable = tf.Variable(random_codes(rng, (40, 50), 0.2, 0.2))
    owner = Owner()
    key = new_key(owner)

    @tf.function
    def product():
        return sparse_matmul(x, theta, variable.read_value(), key=key)

    for density in (0.2, 0.5, 0.0, 0.5):
        variable.assign(random_codes(rng, (40, 50), density, density))
        alpha = np.where(variable.numpy() == 2, theta, 0)
        for _ in range(2):
            np.testing.assert_allclose(product(), x @ alpha, atol=1e-4)
    # An assignment to some entries changes the buffer in place, if nobody shares it.
    tf.raw_ops.ResourceScatterUpdate(
        resource=variable.handle,
        indices=[3],
        updates=tf.fill([1, 50], tf.cast(2, "uint8")),
    )
    alpha = np.where(variable.numpy() == 2, theta, 0)
    assert (alpha[3] != 0).all()
    np.testing.assert_allclose(product(), x @ alpha, atol=1e-4)


def test_plans_are_freed_with_their_owner():
    native = kernels.library()
    owner = Owner()
    key = new_key(owner)
    codes = tf.fill([20, 30], tf.cast(2, tf.uint8))
    held = weakref.ref(codes)
    sparse_matmul(tf.ones([4, 20]), tf.ones([20, 30]), codes, key=key)
    assert native.plan_bytes(key) > 20 * 30
    del owner, codes
    assert held() is None
    assert native.plan_bytes(key) == 0
    native.forget_plans(key)


def test_gradients_of_gradients():
    """As of the masked product: a penalty of the input gradient."""
    rng = np.random.default_rng(4)
    x = tf.constant(rng.normal(size=(9, 6)), tf.float32)
    theta = tf.constant(rng.normal(size=(6, 5)), tf.float32)
    codes = tf.constant(random_codes(rng, (6, 5), 0.4, 0.7))
    owner = Owner()
    key = new_key(owner)

    found = gradient_of_penalty(
        lambda x, theta: sparse_matmul(x, theta, codes, key=key), x, theta
    )
    expected = gradient_of_penalty(
        lambda x, theta: x @ sparse_view(theta, codes), x, theta
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_forward_mode_and_vectorized_map():
    rng = np.random.default_rng(5)
    x = tf.constant(rng.normal(size=(3, 9, 6)), tf.float32)
    theta = tf.constant(rng.normal(size=(6, 5)), tf.float32)
    codes = tf.constant(random_codes(rng, (6, 5), 0.4, 0.7))
    owner = Owner()
    key = new_key(owner)
    alpha = tf.where(codes == 2, theta, 0.0)
    first, direction = x[0], tf.ones_like(x[0])
    with tf.autodiff.ForwardAccumulator(first, direction) as forward:
        y = sparse_matmul(first, theta, codes, key=key)
    np.testing.assert_allclose(forward.jvp(y), direction @ alpha, atol=1e-5)
    with tf.GradientTape() as tape:
        tape.watch(theta)
        each = tf.vectorized_map(
            lambda one: sparse_matmul(one, theta, codes, key=key), x
        )
        total = tf.reduce_sum(each)
    np.testing.assert_allclose(each, x @ alpha, atol=1e-5)
    on_b = np.where(codes.numpy() > 0, np.sum(x, (0, 1))[:, None], 0)
    np.testing.assert_allclose(tape.gradient(total, theta), on_b, rtol=1e-4)


def test_empty_batch():
    owner = Owner()
    codes = np.full((3, 4), 2, np.uint8)
    x, dy = np.zeros((0, 3), np.float32), np.zeros((0, 4), np.float32)
    y, dx, dtheta = computed(x, np.ones((3, 4), np.float32), codes, dy, new_key(owner))
    assert (y.shape, dx.shape) == ((0, 4), (0, 3))
    np.testing.assert_array_equal(dtheta, np.zeros((3, 4)))


@pytest.mark.parametrize(
    ("x", "theta", "codes", "message"),
    [
        ((5, 3), (4, 6), (4, 6), r"\[positions, 4\]"),
        ((5, 4), (4, 6), (6, 4), r"codes of shape \[4,6\]"),
        ((5, 4), (4, 6), (24,), "codes with two axes"),
        ((5, 2, 2), (4, 6), (4, 6), "Expected activations"),
    ],
)
def test_wrong_shapes_are_refused_in_the_operation(x, theta, codes, message):
    native = kernels.library()
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        native.ops.topkast_sparse_mat_mul(
            *(tf.ones(x), tf.ones(theta), tf.ones(codes, tf.uint8), []),
            key=1,
            cpu=native.cpu,
        )
    if codes == (4, 6):
        with pytest.raises(tf.errors.InvalidArgumentError, match="Expected"):
            native.ops.topkast_sparse_weight_gradient(
                tf.ones(x), tf.ones([9, 6]), tf.ones(codes, tf.uint8), key=1
            )


def test_too_large_an_output_is_refused():
    theta = tf.ones([0, 2**30])
    with pytest.raises(tf.errors.InvalidArgumentError, match="overflow"):
        kernels.library().ops.topkast_sparse_mat_mul(
            tf.ones([2**40, 0]), theta, tf.ones(theta.shape, tf.uint8), [], key=1
        )


def test_unknown_instruction_set_is_refused():
    native = kernels.library()
    with pytest.raises(tf.errors.InvalidArgumentError, match="cpu=mmx"):
        native.ops.topkast_sparse_mat_mul(
            tf.ones([1, 2]),
            tf.ones([2, 2]),
            tf.ones([2, 2], tf.uint8),
            [],
            key=1,
            cpu="mmx",
        )


_BITS = """
import hashlib, sys
import numpy as np, tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
from topkast_tf.kernels.products import new_key, sparse_matmul
class Owner: pass
owner, rng = Owner(), np.random.default_rng(0)
x, theta = (tf.constant(rng.normal(size=s), tf.float32) for s in ((700, 150), (150, 260)))
codes = tf.constant((3 * rng.uniform(size=(150, 260))).astype("uint8"))
found = hashlib.sha256()
for _ in range(3):
    with tf.GradientTape() as tape:
        tape.watch((x, theta))
        y = sparse_matmul(x, theta, codes, key=new_key(owner))
    for value in (y, *tape.gradient(y, (x, theta), tf.sin(y))):
        found.update(value.numpy().tobytes())
    print(found.hexdigest() if _ == 2 else "")
"""


def test_any_number_of_threads_gives_the_same_bits():
    assert_same_bits_for_any_number_of_threads(_BITS)
