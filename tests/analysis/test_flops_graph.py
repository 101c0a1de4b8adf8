"""Multiply-adds of a graph: from product to weight, through loops and branches."""

import pytest
import tensorflow as tf

from topkast_tf.analysis.flops import count_macs


@pytest.fixture
def weight():
    return tf.Variable(tf.random.normal((4, 6)), name="weight")


def masked_read(theta, sets):
    """What a forward pass reads inside a scope."""

    @tf.custom_gradient
    def read(value):
        return tf.where(sets == 2, value, 0.0), lambda upstream: upstream

    return read(theta)


MASK = tf.Variable(tf.ones((4, 6)), trainable=False, name="mask")
SETS = tf.Variable(tf.fill((4, 6), tf.constant(2, tf.int8)), trainable=False)
SCALE = tf.Variable(tf.ones((6,)), name="scale")


@pytest.mark.parametrize(
    "read",
    [
        lambda w: w,
        lambda w: masked_read(w, SETS),
        lambda w: tf.function(masked_read)(w, SETS),
        lambda w: tf.function(masked_read, jit_compile=True)(w, SETS),
        lambda w: tf.recompute_grad(lambda: masked_read(w, SETS))(),
        lambda w: w * MASK,
        lambda w: tf.cast(MASK > 0, w.dtype) * w,
        lambda w: SCALE * w,  # broadcast: the zeros are those of the weight
        lambda w: w / tf.norm(w),
        lambda w: tf.cast(tf.cast(w, tf.bfloat16), tf.float32),
        lambda w: tf.reshape(tf.transpose(tf.reshape(w, (2, 2, 6)), (1, 0, 2)), (4, 6)),
        lambda w: tf.concat(tf.split(w, 3, axis=1), axis=1),
        lambda w: tf.stack(tf.unstack(w)),
        lambda w: tf.sign(w),
        lambda w: tf.where(tf.abs(w) > 0.5, w, tf.zeros_like(w)),
    ],
)
def test_zero_preserving_operations_are_traced_to_the_weight(weight, read):
    count = count_macs(lambda x: x @ read(weight), (None, 4))
    assert dict(count) == {"weight": 24}
    assert count.activations == 0


@pytest.mark.parametrize(
    "read",
    [lambda w: w + 1.0, lambda w: w - tf.reduce_mean(w), lambda w: w @ tf.eye(6)],
)
def test_operations_that_fill_zeros_are_counted_as_dense(weight, read):
    count = count_macs(lambda x: x @ read(weight), (None, 4))
    assert count.activations == 24  # counted all the same, as dense
    assert set(count.values()) <= {4 * 6 * 6}


def test_a_product_with_several_weights_is_split_by_size(weight):
    other = tf.Variable(tf.ones((4, 2)), name="other")
    count = count_macs(lambda x: x @ tf.concat([weight, other], 1), (None, 4))
    assert dict(count) == {"weight": 24, "other": 8}


def test_product_of_two_trained_weights_counts_as_activations(weight):
    gate = tf.Variable(tf.ones((4, 6)), name="gate")
    count = count_macs(lambda x: x @ (weight * gate), (None, 4))
    assert dict(count) == {}
    assert count.activations == 24


def test_transposed_operands(weight):
    def transposed(x):
        return tf.matmul(x, weight, transpose_b=True)

    assert dict(count_macs(transposed, (None, 6))) == {"weight": 24}
    both = count_macs(lambda x: tf.matmul(weight, x, True, True), (3, 4))
    assert dict(both) == {"weight": 24}


def test_einsum(weight):
    def product(equation):
        return lambda x: tf.einsum(equation, x, weight)

    assert count_macs(product("...ij,jk->...ik"), (1, 2, 3, 4)).total == 6 * 4 * 6
    assert count_macs(product("b...j,jk->bk..."), (1, 2, 3, 4)).total == 6 * 4 * 6
    assert count_macs(product("abj,jk->kab"), (1, 3, 4)).total == 3 * 4 * 6
    # An index of one operand alone is summed before the product.
    assert count_macs(product("bj,jk->b"), (1, 4)).total == 4
    assert count_macs(lambda x: tf.einsum("bii->b", x), (1, 4, 4)).total == 0


# --- Control flow ---------------------------------------------------------------------


def test_loops(weight):
    def scan(x):
        square = tf.matmul(weight, weight, transpose_b=True)  # 4 x 4, once: 4 * 4 * 6
        for _ in tf.range(7):
            x = x @ square
            for _ in tf.range(tf.shape(square)[0] - 1):
                x = tf.matmul(x @ weight, weight, transpose_b=True)
        return x

    count = count_macs(scan, (None, 4))
    assert dict(count) == {"weight": 4 * 4 * 6 + 7 * 3 * 2 * 24}
    assert count.activations == 7 * 16


def test_weight_read_before_the_loop(weight):
    def scan(x):
        kernel = tf.identity(weight)
        return tf.while_loop(
            lambda i, x: i < 5,
            lambda i, x: (i + 1, tf.matmul(x @ kernel, kernel, transpose_b=True)),
            (0, x),
        )

    assert dict(count_macs(scan, (None, 4))) == {"weight": 5 * 2 * 24}


def test_a_loop_of_unknown_length_is_refused(weight):
    def search(x):
        while tf.reduce_sum(x) < 100.0:
            x = tf.matmul(x @ weight, weight, transpose_b=True)
        return x

    with pytest.raises(ValueError, match="Expected a loop whose length follows"):
        count_macs(search, (None, 4))


def test_loop_without_products_may_have_unknown_length(weight):
    def search(x):
        while tf.reduce_sum(x) < 100.0:
            x = x + 1.0
        return x @ weight

    assert count_macs(search, (None, 4)).total == 24


def test_branches(weight):
    def choose(condition, on, off):
        return lambda x: tf.cond(condition(x), lambda: on(x), lambda: off(x))

    def once(x):
        return x @ weight

    def twice(x):
        return once(tf.matmul(once(x), weight, transpose_b=True))

    def unknown(x):
        return tf.reduce_sum(x) > 0

    assert count_macs(choose(unknown, once, lambda x: once(-x)), (1, 4)).total == 24
    with pytest.raises(ValueError, match="Expected a branch that follows"):
        count_macs(choose(unknown, once, twice), (1, 4))
    known = [tf.constant(flag) for flag in (True, False)]
    assert count_macs(choose(lambda x: known[0], once, twice), (1, 4)).total == 24
    assert count_macs(choose(lambda x: known[1], once, twice), (1, 4)).total == 72


def test_mapped_functions(weight):
    def row(x):
        return tf.linalg.matvec(weight, x, transpose_a=True)

    assert count_macs(lambda x: tf.map_fn(row, x), (5, 4)).total == 24
    assert count_macs(lambda x: tf.vectorized_map(row, x), (5, 4)).total == 24


# --- What cannot be counted is reported -----------------------------------------------


def test_opaque_operations_are_named(weight):
    def opaque(x):
        y = tf.py_function(lambda y: y, [x], x.dtype)
        return tf.ensure_shape(y, x.shape) @ weight

    count = count_macs(opaque, (1, 4))
    assert count.total == 24
    assert len(count.uncounted) == 1
    assert "EagerPyFunc" in count.uncounted[0]


def test_unknown_shapes_are_refused(weight):
    with pytest.raises(ValueError, match="Expected every shape to follow"):
        count_macs(lambda x: tf.boolean_mask(x, x[:, 0] > 0) @ weight, (3, 4))
