"""SWAT's products: by hand, against a NumPy oracle, by finite differences."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from swat_tf import bilinear, masked_relu, ops, packing, topk
from tests.swat import swat_oracle as oracle

A = np.array([[1.0, -2.0, 3.0], [4.0, 0.5, -6.0]], np.float32)
W = np.array([[1.0, -4.0], [0.5, 2.0], [3.0, 0.25]], np.float32)


def gradients(op, a, w, dy=None, **kwargs):
    a, w = tf.constant(a), tf.constant(w)
    with tf.GradientTape() as tape:
        tape.watch((a, w))
        y = op(a, w, **kwargs)
    dy = tf.ones_like(y) if dy is None else tf.constant(dy)
    return (y.numpy(), *(g.numpy() for g in tape.gradient(y, (a, w), dy)))


def test_matmul_by_hand():
    # Kept of W at 0.5: -4, 3, 2. Kept of A: -6, 4, 3.
    dy = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    y, da, dw = gradients(ops.matmul, A, W, dy, sparsity=0.5)
    np.testing.assert_allclose(y, [[9.0, -8.0], [-18.0, -15.0]])
    np.testing.assert_allclose(da, [[0.0, 0.0, 3.0], [-4.0, 2.0, 0.0]])
    np.testing.assert_allclose(dw, [[0.0, 4.0], [0.0, 0.0], [3.0, -6.0]])


@pytest.mark.parametrize("k", [1, 2, 7, 20, 59, 60])
def test_memory_saving_selection_breaks_ties_alike(k):
    random = np.random.default_rng(k)
    x = tf.constant(random.integers(-3, 4, [3, 20]).astype(np.float32))
    np.testing.assert_array_equal(
        topk.largest(x, k, spare_memory=True), topk.largest(x, k)
    )
    assert topk.threshold(x, k, spare_memory=True) == topk.threshold(x, k)


SPARSITIES = [(0.5, None), (0.9, 0.3), (0.0, 0.7)]


@functools.cache  # XLA compiles all together in half the time
def products(storage, jit_compile):
    random = np.random.default_rng(0)
    shapes = (4, 10), (10, 6), (4, 6)  # of a, w and dy
    operands = [random.standard_normal(shape).astype(np.float32) for shape in shapes]

    def run(a, w, dy):
        found = {}
        for sparsity, of_a in SPARSITIES:
            with tf.GradientTape() as tape:
                tape.watch((a, w))
                y = ops.matmul(a, w, sparsity, activations=of_a, storage=storage)
            found[sparsity, of_a] = (y, *tape.gradient(y, (a, w), dy))
        return found

    traced = run if jit_compile is None else tf.function(run, jit_compile=jit_compile)
    return operands, traced(*map(tf.constant, operands))


WAYS = [
    pytest.param(
        jit_compile,
        storage,
        id=f"{name}-{storage}",
        # XLA takes 12 s to compile it.
        marks=[pytest.mark.slow] if jit_compile and storage == "packed" else [],
    )
    for name, jit_compile in (("eager", None), ("tf", False), ("xla", True))
    for storage in packing.STORAGES
]


@pytest.mark.parametrize(("jit_compile", "storage"), WAYS)
@pytest.mark.parametrize("sparsities", SPARSITIES)
def test_matmul_against_numpy(sparsities, jit_compile, storage):
    operands, found = products(storage, jit_compile)
    expected = oracle.matmul(*operands, *sparsities)
    for ours, theirs in zip(found[sparsities], expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_weight_gradient_is_dense_and_the_input_gradient_not_masked():
    random = np.random.default_rng(1)
    a = random.standard_normal((64, 30)).astype(np.float32)
    w = random.standard_normal((30, 10)).astype(np.float32)
    _, da, dw = gradients(ops.matmul, a, w, sparsity=0.9)
    assert np.all(dw != 0)  # inactive weights are updated, too
    columns = oracle.mask(w, 0.9).any(axis=1)
    assert np.all(da[:, columns] != 0)  # where its own activation was dropped, too


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize("strides", [1, 2])
def test_conv2d_equals_tensorflow_with_sparse_operands(padding, strides):
    random = np.random.default_rng(2)
    a = random.standard_normal((3, 6, 6, 4)).astype(np.float32)
    w = random.standard_normal((3, 3, 4, 5)).astype(np.float32)
    how = {"strides": strides, "padding": padding}
    y, da, dw = gradients(ops.conv2d, a, w, sparsity=0.8, **how)
    dense = lambda a, w: tf.nn.conv2d(a, w, **how)  # noqa: E731
    sparse_a, sparse_w = oracle.keep(a, 0.8), oracle.keep(w, 0.8)
    np.testing.assert_allclose(y, dense(a, sparse_w), atol=1e-5)
    np.testing.assert_allclose(da, gradients(dense, a, sparse_w)[1], atol=1e-5)
    np.testing.assert_allclose(dw, gradients(dense, sparse_a, w)[2], atol=1e-5)
    if padding == "VALID" and strides == 1:
        np.testing.assert_allclose(y, oracle.conv2d_valid(a, sparse_w), atol=1e-5)


@pytest.mark.parametrize("storage", packing.STORAGES)
def test_zero_sparsity_equals_tensorflow(storage):
    random = np.random.default_rng(3)
    a = random.standard_normal((2, 5, 5, 3)).astype(np.float32)
    w = random.standard_normal((3, 3, 3, 4)).astype(np.float32)
    dense = lambda a, w: tf.nn.conv2d(a, w, 1, "SAME")  # noqa: E731
    for ours, theirs in zip(
        gradients(ops.conv2d, a, w, sparsity=0.0, storage=storage),
        gradients(dense, a, w),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_gradients_match_finite_differences():
    random = np.random.default_rng(4)
    a = random.standard_normal((3, 6))
    w = random.standard_normal((6, 4))
    dy = random.standard_normal((3, 4))
    attend = ops.bilinear(lambda a, w: tf.einsum("ij,jk->ik", a, w))
    _, da, dw = gradients(attend, a, w, dy, sparsity=0.5)
    sparse_a, sparse_w = oracle.keep(a, 0.5), oracle.keep(w, 0.5)

    def difference(loss, x):
        found, step = np.zeros_like(x), 1e-4
        for at in np.ndindex(x.shape):
            up, down = x.copy(), x.copy()
            up[at] += step
            down[at] -= step
            found[at] = (loss(up) - loss(down)) / (2 * step)
        return found

    # The gradients are those of the product at the sparse operands, straight through.
    np.testing.assert_allclose(
        da, difference(lambda x: np.sum(dy * (x @ sparse_w)), a), atol=1e-8
    )
    np.testing.assert_allclose(
        dw, difference(lambda x: np.sum(dy * (sparse_a @ x)), w), atol=1e-8
    )


@pytest.mark.parametrize(
    ("recipe", "operands"),
    [
        # forward a, forward w, a of dw, w of da
        ({}, "dsss"),
        ({"forward": "weights", "backward": ()}, "dsdd"),
        ({"forward": "activations", "backward": ()}, "sddd"),
        ({"forward": ()}, "ddss"),
        ({"forward": (), "backward": "activations"}, "ddsd"),
    ],
    ids=str,
)
def test_each_operand_is_sparse_as_requested(recipe, operands):
    dy = np.array([[1.0, 2.0], [3.0, -1.0]], np.float32)
    y, da, dw = gradients(ops.matmul, A, W, dy, sparsity=0.5, **recipe)
    choice = {"d": lambda x: x, "s": lambda x: oracle.keep(x, 0.5)}
    a1, w1, a2, w2 = (
        choice[kind](x) for kind, x in zip(operands, (A, W, A, W), strict=True)
    )
    np.testing.assert_allclose(y, a1 @ w1, rtol=1e-6)
    np.testing.assert_allclose(da, dy @ w2.T, rtol=1e-6)
    np.testing.assert_allclose(dw, a2.T @ dy, rtol=1e-6)


def test_errors_over_the_batch_and_per_example():
    dy = np.array([[5.0, 4.0], [0.1, 0.2]], np.float32)
    dense = {"sparsity": 0.0, "forward": (), "backward": (), "errors": 0.5}
    _, da, dw = gradients(ops.matmul, A, W, dy, **dense)
    kept = np.array([[5.0, 4.0], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(da, kept @ W.T)
    np.testing.assert_allclose(dw, A.T @ kept)
    _, da, dw = gradients(ops.matmul, A, W, dy, errors_per="sample", **dense)
    kept = np.array([[5.0, 0.0], [0.0, 0.2]], np.float32)  # meProp
    np.testing.assert_allclose(da, kept @ W.T)
    np.testing.assert_allclose(dw, A.T @ kept)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["tf", "xla"])
def test_largest_per_sample_against_numpy(jit_compile):
    x = np.random.default_rng(5).standard_normal((5, 4, 7)).astype(np.float32)
    x[0] = 1.0  # ties
    x[1, 1:] = 0.0
    sparsities = [0.0, 0.37, 0.5, 0.9, 0.999]
    find = lambda x: [topk.largest_per_sample(x, each) for each in sparsities]  # noqa: E731
    masks = tf.function(find, jit_compile=jit_compile)(tf.constant(x))
    for sparsity, found in zip(sparsities, masks, strict=True):
        expected = np.stack([oracle.mask(row, sparsity) for row in x])
        np.testing.assert_array_equal(found, expected, err_msg=f"{sparsity=}")


def test_counts_of_sizes_known_at_run_time():
    sparsities = [0.0, 0.29, 0.57, 0.9, 1 / 3, 2 / 3, 1 - 1e-16, 1e-9, 0.1 + 0.2]
    count = tf.function(lambda n: [topk.kept_of(n, each) for each in sparsities])
    for size in (1, 2, 99, 100, 123_457, 2**31 - 1):
        for sparsity, found in zip(sparsities, count(tf.constant(size)), strict=True):
            assert int(found) == topk.kept_of(size, sparsity), (size, sparsity)


def test_a_stale_threshold_keeps_what_reaches_it():
    x = tf.constant([[0.5, -3.0, 0.0], [2.0, 1.0, -1.0]])
    key = topk.threshold(x, 3)  # the third largest magnitude: 1
    np.testing.assert_array_equal(
        topk.at_or_above(x, key), [[False, True, False], [True, True, True]]
    )
    np.testing.assert_array_equal(
        topk.at_or_above(2 * x, key), [[True, True, False], [True, True, True]]
    )
    # With more zeros than entries to drop, the zeros are dropped all the same.
    sparse = tf.constant([0.0, 0.0, 0.0, 5.0])
    reached = topk.at_or_above(sparse, topk.threshold(sparse, 3))
    np.testing.assert_array_equal(reached, [False, False, False, True])


@pytest.mark.parametrize("size", [1, 7, 8, 9, 1000, 2**21 + 5])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_unpacking_restores_the_kept_entries(size, dtype):
    random = np.random.default_rng(6)
    x = tf.cast(random.standard_normal(size), dtype)
    mask = random.random(size) < 0.3
    packed = packing.pack(x, tf.constant(mask))
    assert packed.values.shape[0] == mask.sum()
    assert packed.bits.shape[0] == -(-size // 8)
    expected = np.where(mask, x.numpy().astype(np.float32), 0)
    np.testing.assert_array_equal(tf.cast(packing.unpack(packed), tf.float32), expected)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["tf", "xla"])
def test_masked_relu_is_relu(jit_compile):
    x = tf.constant(np.random.default_rng(7).standard_normal((3, 5)), tf.float32)
    x = tf.concat([x, tf.zeros([3, 1])], axis=1)

    def run(relu):
        def of(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = relu(x)
            return y, tape.gradient(y, x, 3.0 * tf.ones_like(x))

        return tf.function(of, jit_compile=jit_compile)(x)

    for ours, theirs in zip(run(masked_relu), run(tf.nn.relu), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("op", "operand"),
    [
        (lambda a, w: tf.matmul(a, w) + 1.0, "activation"),
        (lambda a, w: tf.nn.relu(tf.matmul(a, w)), "activation"),
        (lambda a, w: tf.matmul(a, tf.abs(w)), "weight"),
    ],
    ids=["bias", "relu", "abs"],
)
def test_an_op_that_is_not_bilinear_is_refused(op, operand):
    message = f"linear in its {operand}"
    with pytest.raises(ValueError, match=message):
        ops.bilinear(op)(tf.constant(A), tf.constant(W), 0.5)

    @tf.function
    def traced(a, w):
        return ops.bilinear(op)(a, w, 0.5)

    with pytest.raises(ValueError, match=message):
        traced(tf.constant(A), tf.constant(W))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_op_is_checked_in_the_dtype_of_its_operands(dtype):
    a, w = tf.ones([3, 900], dtype), tf.ones([900, 2], dtype)

    def scaled(a, w):
        return a @ w * tf.constant(2.0, dtype)

    assert ops.bilinear(scaled)(a, w, 0.5).dtype == dtype
    with pytest.raises(ValueError, match="linear in its activation"):
        ops.bilinear(lambda a, w: a @ w + tf.constant(1.0, dtype))(a, w, 0.5)


@pytest.mark.parametrize(
    "shape", [None, [None, None], [None, 3]], ids=["rank", "sizes", "batch"]
)
def test_op_on_unknown_sizes(shape):
    def traced(op):
        specification = [tf.TensorSpec(shape), tf.TensorSpec([3, 2])]
        return tf.function(
            lambda a, w: ops.bilinear(op)(a, w, 0.5), input_signature=specification
        )

    found = traced(tf.matmul)(tf.constant(A), tf.constant(W))
    np.testing.assert_array_equal(found, ops.matmul(A, W, 0.5))
    if shape == [None, 3]:
        with pytest.raises(ValueError, match="linear in its activation"):
            traced(lambda a, w: tf.nn.relu(a) @ w)(tf.constant(A), tf.constant(W))


def test_op_that_cannot_be_checked_is_not_refused():
    def of_three(a, w):
        tf.debugging.assert_equal(tf.shape(a)[0], 3)
        return a @ w

    one_size = tf.function(
        lambda a, w: ops.bilinear(of_three)(a, w, 0.5),
        input_signature=[tf.TensorSpec([None, 4]), tf.TensorSpec([4, 2])],
    )
    assert one_size(tf.ones([3, 4]), tf.ones([4, 2])).shape == (3, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, r"`sparsity` must .* \[0, 1\)\. Received: sparsity=1.0"),
        ({"sparsity": -0.1}, "Received: sparsity=-0.1"),
        ({"sparsity": "0.5"}, "Received: sparsity='0.5'"),
        ({"sparsity": 0.5, "activations": 2}, "Received: activations=2"),
        ({"sparsity": 0.5, "errors": 1}, "Received: errors=1"),
        ({"sparsity": 0.5, "errors_per": "row"}, "Received: errors_per='row'"),
        ({"sparsity": 0.5, "activations_per": 1}, "Received: activations_per=1"),
        ({"sparsity": 0.5, "forward": "gradients"}, "Received: forward='gradients'"),
        ({"sparsity": 0.5, "storage": "zip"}, "Received: storage='zip'"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        ops.matmul(tf.constant(A), tf.constant(W), **arguments)


def test_unknown_keyword_is_refused():
    with pytest.raises(TypeError, match="`activations`, `forward`.*Received: foo=3"):
        ops.matmul(A, W, 0.5, foo=3)


def test_nan_propagates_to_the_gradient():
    a = np.array([[np.nan, 1.0, 2.0, 0.1]], np.float32)
    w = np.ones((4, 2), np.float32)
    _, _, dw = gradients(ops.matmul, a, w, sparsity=0.5)
    assert np.isnan(dw[0]).all() and np.isfinite(dw[1:]).all()


def test_only_the_sparse_operands_are_kept_for_the_backward_pass():
    """The gradient function holds only packed values and shapes."""
    held = {}

    def spy(x):
        held["packed"] = packing.pack(x, topk.mask_of(x, 0.9))
        return held["packed"]

    a = tf.random.stateless_normal([100, 80], [0, 0])
    w = tf.random.stateless_normal([80, 10], [0, 1])
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = bilinear.sparse_product(tf.matmul, a, w, saved_activation=spy)
    dw = tape.gradient(y, w)
    sparse_a = oracle.keep(a.numpy(), 0.9)
    np.testing.assert_allclose(dw, sparse_a.T @ np.ones((100, 10)), rtol=1e-5)
    packed = held["packed"]
    size = packed.values.shape[0] * 4 + packed.bits.shape[0]
    assert size == 800 * 4 + 1000 < 0.14 * 4 * tf.size(a).numpy()


def test_bfloat16_operands_give_bfloat16_results():
    keras.utils.set_random_seed(0)
    a = tf.cast(tf.random.normal([8, 16]), tf.bfloat16)
    w = tf.cast(tf.random.normal([16, 4]), tf.bfloat16)
    y, da, dw = gradients(ops.matmul, a.numpy(), w.numpy(), sparsity=0.5)
    assert y.dtype == da.dtype == dw.dtype == tf.bfloat16.as_numpy_dtype


@pytest.mark.parametrize("storage", packing.STORAGES)
def test_an_empty_batch(storage):
    w = tf.constant(W)
    product = tf.function(
        lambda a: ops.matmul(a, w, 0.5, storage=storage),
        input_signature=[tf.TensorSpec([None, 3])],
    )
    empty = tf.zeros([0, 3])
    assert product(empty).shape == ops.matmul(empty, w, 0.5).shape == (0, 2)
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = ops.matmul(empty, w, 0.5, storage=storage)
    np.testing.assert_array_equal(tape.gradient(y, w), np.zeros_like(W))


def test_second_order_gradients_of_packed_storage():
    def second(storage):
        a, w = tf.constant(A), tf.constant(W)
        with tf.GradientTape() as outer:
            outer.watch(w)
            with tf.GradientTape() as inner:
                inner.watch(a)
                y = tf.reduce_sum(ops.matmul(a, w, 0.5, storage=storage) ** 2)
            z = tf.reduce_sum(inner.gradient(y, a) ** 2)
        return outer.gradient(z, w)

    np.testing.assert_allclose(second("packed"), second("dense"))
    assert np.abs(second("packed")).max() > 0
