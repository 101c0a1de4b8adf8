"""Products of whole blocks: by hand, against NumPy from the definition, their gradients."""

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
)
from topkast_tf.core.blocks import Blocks, MatrixView
from topkast_tf.kernels import library as kernels
from topkast_tf.kernels.blocks import block_matmul, lanes_of
from topkast_tf.kernels.products import new_key, sparse_matmul
from topkast_tf.variables.views import sparse_view

pytestmark = pytest.mark.skipif(
    kernels.why_unavailable() is not None, reason=str(kernels.why_unavailable())
)

AXES = ("outputs", "inputs")


def random_block_codes(rng, shape, lanes, fwd_density, bwd_density):
    """Codes of whole blocks; those at the edge are smaller."""
    inputs, outputs = shape
    rows, cols = (inputs, -(-outputs // 16))
    if lanes == "inputs":
        rows, cols = -(-inputs // 16), outputs
    uniform = rng.uniform(size=(rows, cols))
    codes = np.where(uniform < bwd_density, 1, 0)
    codes = np.where(uniform < fwd_density, 2, codes).astype(np.uint8)
    return codes.repeat(16, 1 if lanes == "outputs" else 0)[:inputs, :outputs].copy()


def by_definition(x, theta, codes, dy):
    """Output and gradients in float64."""
    x, theta, dy = (value.astype(np.float64) for value in (x, theta, dy))
    alpha = np.where(codes == 2, theta, 0.0)
    return x @ alpha, dy @ alpha.T, np.where(codes > 0, x.T @ dy, 0.0)


def computed(x, theta, codes, dy, product=block_matmul, **arguments):
    x, theta, codes = tf.constant(x), tf.constant(theta), tf.constant(codes)
    owner = Owner()
    with tf.GradientTape() as tape:
        tape.watch((x, theta))
        y = product(x, theta, codes, key=new_key(owner), **arguments)
    return (y.numpy(), *(g.numpy() for g in tape.gradient(y, (x, theta), dy)))


@pytest.mark.parametrize("cpu", cpus())
def test_by_hand(cpu):
    # 17 outputs: a block of 16, and one at the edge. Two inputs.
    theta = np.arange(34, dtype=np.float32).reshape(2, 17)
    codes = np.zeros((2, 17), np.uint8)
    codes[0, :16], codes[1, :16], codes[1, 16:] = 2, 1, 2
    # alpha = [[0, 1, .., 15, 0], [0, .., 0, 33]]
    x = np.array([[1.0, 2.0], [-1.0, 0.5], [0.0, 3.0]], np.float32)
    dy = np.zeros((3, 17), np.float32)
    dy[0, [1, 16]], dy[1, 5], dy[2, 3] = (1.0, 10.0), 100.0, 1000.0
    y = np.concatenate([x[:, :1] * np.arange(16), 33 * x[:, 1:]], axis=1)
    dx = [[1.0, 330.0], [500.0, 0.0], [3000.0, 0.0]]
    dtheta = np.zeros((2, 17))
    dtheta[0, [1, 5]] = 1.0, -100.0
    dtheta[1, [1, 5, 3, 16]] = 2.0, 50.0, 3000.0, 20.0
    for found, expected in zip(
        computed(x, theta, codes, dy, lanes="outputs", cpu=cpu),
        (y, dx, dtheta),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
    # The transposed weight has blocks of 16 inputs, and the products change places.
    for found, expected in zip(
        computed(dy, theta.T.copy(), codes.T.copy(), x, lanes="inputs", cpu=cpu),
        (dx, y, dtheta.T),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


sizes = st.one_of(st.integers(1, 35), st.sampled_from([63, 64, 65, 128, 200, 300]))
densities = st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0])


@pytest.mark.parametrize("cpu", cpus())
@settings(max_examples=60, deadline=None)
@given(
    *(st.sampled_from(AXES), sizes, sizes, sizes, densities, densities),
    st.integers(0, 2**20),
)
def test_against_definition(
    cpu, lanes, positions, inputs, outputs, first, second, seed
):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(positions, inputs)).astype(np.float32)
    theta = rng.normal(size=(inputs, outputs)).astype(np.float32)
    dy = rng.normal(size=(positions, outputs)).astype(np.float32)
    fwd, bwd = sorted((first, second))
    codes = random_block_codes(rng, theta.shape, lanes, fwd, bwd)
    found = computed(x, theta, codes, dy, lanes=lanes, cpu=cpu)
    for ours, exact in zip(found, by_definition(x, theta, codes, dy), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found[2][codes == 0], 0.0)


@pytest.mark.parametrize("cpu", cpus())
@pytest.mark.parametrize("lanes", AXES)
def test_one_entry(cpu, lanes):
    """A single block, which is one entry at the edge; all other rows are empty."""
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(33, 33)).astype(np.float32)
    codes = np.zeros((33, 33), np.uint8)
    codes[32, 32] = 2
    x, dy = (rng.normal(size=(5, 33)).astype(np.float32) for _ in range(2))
    y, dx, dtheta = computed(x, theta, codes, dy, lanes=lanes, cpu=cpu)
    np.testing.assert_array_equal(y[:, 32], x[:, 32] * theta[32, 32])
    np.testing.assert_array_equal(dx[:, 32], dy[:, 32] * theta[32, 32])
    np.testing.assert_allclose(dtheta[32, 32], x[:, 32] @ dy[:, 32], rtol=1e-5)
    for value in (y[:, :32], dx[:, :32], dtheta[:32], dtheta[:, :32]):
        np.testing.assert_array_equal(value, 0.0)


@pytest.mark.parametrize("cpu", [cpu for cpu in cpus() if cpu != "portable"])
@pytest.mark.parametrize("lanes", AXES)
def test_products_have_the_bits_of_those_by_entries(cpu, lanes):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(70, 150)).astype(np.float32)
    theta = rng.normal(size=(150, 260)).astype(np.float32)
    dy = rng.normal(size=(70, 260)).astype(np.float32)
    codes = random_block_codes(rng, theta.shape, lanes, 0.2, 0.4)
    ours = computed(x, theta, codes, dy, lanes=lanes, cpu=cpu)
    theirs = computed(x, theta, codes, dy, sparse_matmul, cpu=cpu)
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1], theirs[1])
    np.testing.assert_allclose(ours[2], theirs[2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lanes", AXES)
def test_gradients_are_finite_differences(lanes):
    rng = np.random.default_rng(2)
    codes = tf.constant(random_block_codes(rng, (18, 20), lanes, 0.4, 0.4))
    owner = Owner()
    key = new_key(owner)
    found, numeric = tf.test.compute_gradient(
        lambda x, theta: block_matmul(x, theta, codes, key=key, lanes=lanes),
        [
            tf.constant(rng.normal(size=(3, 18)), tf.float32),
            tf.constant(rng.normal(size=(18, 20)), tf.float32),
        ],
        delta=1e-2,
    )
    for ours, theirs in zip(found, numeric, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=4e-3)


@pytest.mark.parametrize("lanes", AXES)
def test_gradients_of_gradients(lanes):
    """As of the masked product: a penalty of both gradients."""
    rng = np.random.default_rng(4)
    x = tf.constant(rng.normal(size=(9, 18)), tf.float32)
    theta = tf.constant(rng.normal(size=(18, 20)), tf.float32)
    codes = tf.constant(random_block_codes(rng, (18, 20), lanes, 0.4, 0.7))
    owner = Owner()
    key = new_key(owner)
    found = gradient_of_penalty(
        lambda x, theta: block_matmul(x, theta, codes, key=key, lanes=lanes), x, theta
    )
    expected = gradient_of_penalty(
        lambda x, theta: x @ sparse_view(theta, codes), x, theta
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("how", ["dense_gradient", "sparse_activations"])
def test_dense_gradient_reaches_every_entry(how):
    rng = np.random.default_rng(5)
    x, theta, dy = (
        rng.normal(size=size).astype(np.float32) for size in ((9, 5), (5, 17), (9, 17))
    )
    codes = random_block_codes(rng, theta.shape, "outputs", 0.3, 0.3)
    _, _, found = computed(x, theta, codes, dy, lanes="outputs", **{how: True})
    np.testing.assert_allclose(found, x.T @ dy, rtol=1e-5, atol=1e-5)


def test_plans_follow_codes_and_axis():
    rng = np.random.default_rng(6)
    x = tf.constant(rng.normal(size=(30, 40)), tf.float32)
    theta = tf.constant(rng.normal(size=(40, 50)), tf.float32)
    owner = Owner()
    key = new_key(owner)
    everything = np.full((40, 50), 2, np.uint8)
    for codes, lanes in (
        (random_block_codes(rng, (40, 50), "outputs", 0.2, 0.2), "outputs"),
        (random_block_codes(rng, (40, 50), "outputs", 0.5, 0.5), "outputs"),
        (random_block_codes(rng, (40, 50), "inputs", 0.5, 0.5), "inputs"),
        (everything, "outputs"),
        (everything, "inputs"),
    ):
        alpha = np.where(codes == 2, theta, 0)
        for _ in range(2):
            y = block_matmul(x, theta, tf.constant(codes), key=key, lanes=lanes)
            np.testing.assert_allclose(y, x @ alpha, atol=1e-4)
    assert kernels.library().plan_bytes(key) > 0
    del owner
    assert kernels.library().plan_bytes(key) == 0


@pytest.mark.parametrize("lanes", AXES)
def test_inf_and_nan_reach_what_they_are_connected_to(lanes):
    rng = np.random.default_rng(7)
    x = rng.normal(size=(21, 40)).astype(np.float32)
    theta = rng.normal(size=(40, 36)).astype(np.float32)
    codes = random_block_codes(rng, theta.shape, lanes, 0.2, 0.2)
    dy = rng.normal(size=(21, 36)).astype(np.float32)
    x[3, 5], x[20, 39], dy[4, 7], dy[19, 35] = np.inf, np.nan, np.inf, np.nan
    y, dx, _ = computed(x, theta, codes, dy, lanes=lanes)
    connected = codes == 2
    np.testing.assert_array_equal(~np.isfinite(y), ~np.isfinite(x) @ connected)
    np.testing.assert_array_equal(~np.isfinite(dx), ~np.isfinite(dy) @ connected.T)


@pytest.mark.parametrize("lanes", AXES)
def test_empty_batch(lanes):
    codes = np.full((3, 4), 2, np.uint8)
    x, dy = np.zeros((0, 3), np.float32), np.zeros((0, 4), np.float32)
    theta = np.ones((3, 4), np.float32)
    y, dx, dtheta = computed(x, theta, codes, dy, lanes=lanes)
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
        native.ops.topkast_block_mat_mul(
            *(tf.ones(x), tf.ones(theta), tf.ones(codes, tf.uint8), []),
            key=1,
            lanes="outputs",
        )
    if codes == (4, 6):
        with pytest.raises(tf.errors.InvalidArgumentError, match="Expected"):
            native.ops.topkast_block_weight_gradient(
                *(tf.ones(x), tf.ones([9, 6]), tf.ones(codes, tf.uint8)),
                key=1,
                lanes="outputs",
            )


def test_too_large_an_output_is_refused():
    theta = tf.ones([0, 2**30])
    with pytest.raises(tf.errors.InvalidArgumentError, match="overflow"):
        kernels.library().ops.topkast_block_mat_mul(
            *(tf.ones([2**40, 0]), theta, tf.ones(theta.shape, tf.uint8), []),
            key=1,
            lanes="outputs",
        )


@pytest.mark.parametrize(
    ("lanes", "place", "of"),
    [("outputs", (0, 3), "16 outputs of one"), ("inputs", (17, 2), "16 inputs of one")],
)
def test_divided_blocks_are_refused_in_the_operations(lanes, place, of):
    native = kernels.library()
    codes = np.ones((20, 20), np.uint8)
    codes[place] = 2
    how = {"lanes": lanes, "key": new_key(owner := Owner())}
    message = f"the same in each block of {of}"
    x, codes = tf.ones([3, 20]), tf.constant(codes)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        native.ops.topkast_block_mat_mul(x, tf.ones([20, 20]), codes, [], **how)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        native.ops.topkast_block_weight_gradient(x, x, codes, **how)
    del owner


@pytest.mark.parametrize(
    ("shape", "block", "expected"),
    [
        ((64, 40), (1, 16), "outputs"),
        ((64, 40), (16, 1), "inputs"),
        ((64, 40), (16, 16), "outputs"),
        ((64, 40), (3, 32), "outputs"),
        ((64, 40), (48, 5), "inputs"),
        ((64, 40), (1, 64), "outputs"),  # clamped to the row
        ((64, 10), (1, 16), "outputs"),  # the same
        ((64, 3), (1, 16), None),  # most lanes would be empty
        ((64, 40), (1, 8), None),
        ((64, 40), (4, 24), None),
        ((64, 40), (1, 1), None),
    ],
)
def test_which_blocks_have_kernels_of_their_own(shape, block, expected):
    assert lanes_of(Blocks(MatrixView(shape), block), *shape) == expected


def test_only_matrices_in_the_order_of_memory_do():
    assert lanes_of(None, 64, 40) is None
    transposed = Blocks(MatrixView((64, 40), output_axes=(0,)), (1, 16))
    assert lanes_of(transposed, 40, 64) is None
    several = Blocks(MatrixView((6, 4, 8), output_axes=(1, 2)), (1, 16))
    assert lanes_of(several, 6, 32) == "outputs"
    assert lanes_of(several, 24, 8) is None


_BITS = """
import hashlib, sys
import numpy as np, tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
from tests.kernels.test_blocks import AXES, random_block_codes
from topkast_tf.kernels.blocks import block_matmul
from topkast_tf.kernels.products import new_key
class Owner: pass
owner, rng, found = Owner(), np.random.default_rng(0), hashlib.sha256()
x, theta = (tf.constant(rng.normal(size=s), tf.float32) for s in ((700, 150), (150, 260)))
for lanes in AXES:
    codes = tf.constant(random_block_codes(rng, theta.shape, lanes, 0.3, 0.6))
    with tf.GradientTape() as tape:
        tape.watch((x, theta))
        y = block_matmul(x, theta, codes, key=new_key(owner), lanes=lanes)
    for value in (y, *tape.gradient(y, (x, theta), tf.sin(y))):
        found.update(value.numpy().tobytes())
print(found.hexdigest())
"""


@pytest.mark.slow
def test_any_number_of_threads_gives_the_same_bits():
    assert_same_bits_for_any_number_of_threads(_BITS)
