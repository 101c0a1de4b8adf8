"""Native products with the vector of B's entries: the bits of those with whole weights."""

import numpy as np
import pytest
import tensorflow as tf

from tests.kernels.common import Owner, cpus, gradient_of_penalty, random_codes
from topkast_tf.kernels import library as kernels
from topkast_tf.kernels.convolutions import sparse_conv
from topkast_tf.kernels.products import new_key, sparse_matmul

pytestmark = pytest.mark.skipif(
    kernels.why_unavailable() is not None, reason=str(kernels.why_unavailable())
)

WAYS = [(cpu, "static") for cpu in cpus()] + [
    (cpu, "generated") for cpu in cpus() if cpu == "avx512"
]


def packed(values, codes, extra=0):
    """The entries of B in the order of the weight, and `extra` zeros."""
    return np.append(values[codes > 0], np.zeros(extra)).astype(np.float32)


def outputs_and_gradients(product, x, theta):
    x, theta = tf.constant(x), tf.constant(theta)
    with tf.GradientTape() as tape:
        tape.watch((x, theta))
        y = product(x, theta)
        loss = tf.reduce_sum(tf.sin(tf.cast(y, tf.float32)))
    return (y, *tape.gradient(loss, (x, theta)))


def assert_same(product, x, theta, codes, extra=0):
    """`product(x, theta, key)` has the same bits with both forms of theta."""
    owners = Owner(), Owner()
    found = outputs_and_gradients(
        lambda x, theta: product(x, theta, new_key(owners[0])),
        x,
        packed(theta, codes, extra),
    )
    expected = outputs_and_gradients(
        lambda x, theta: product(x, theta, new_key(owners[1])), x, theta
    )
    for mine, theirs in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    gradient = expected[2].numpy()
    assert not np.any(gradient[codes == 0])
    np.testing.assert_array_equal(found[2], packed(gradient, codes, extra))


@pytest.mark.parametrize(("cpu", "code"), WAYS)
def test_by_hand(cpu, code):
    x = tf.constant([[1.0, 2.0, 3.0], [0.0, -1.0, 1.0]])
    codes = tf.constant([[2, 0], [1, 2], [0, 1]], tf.uint8)
    # alpha = [[5, 0], [0, 2], [0, 0]]
    theta = tf.constant([5.0, 7.0, 2.0, 9.0, 0.0])
    owner = Owner()
    with tf.GradientTape() as tape:
        tape.watch(theta)
        y = sparse_matmul(x, theta, codes, key=new_key(owner), cpu=cpu, code=code)
    np.testing.assert_array_equal(y, [[5.0, 4.0], [0.0, -2.0]])
    dy = tf.constant([[1.0, 10.0], [100.0, 1000.0]])
    # x^T dy = [[1, 10], [-98, -980], [103, 1030]], on B.
    gradient = tape.gradient(y, theta, dy)
    np.testing.assert_array_equal(gradient, [1.0, -98.0, -980.0, 1030.0, 0.0])


@pytest.mark.parametrize(("cpu", "code"), WAYS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("densities", [(0.1, 0.2), (0.4, 0.7), (0.0, 0.1), (1.0, 1.0)])
def test_matrix(cpu, code, dtype, densities):
    rng = np.random.default_rng(0)
    for positions, inputs, outputs in ((37, 70, 45), (130, 600, 33), (1, 1, 200)):
        codes = random_codes(rng, (inputs, outputs), *densities)
        x = rng.normal(size=(positions, inputs)).astype(np.float32)
        theta = rng.normal(size=(inputs, outputs)).astype(np.float32)

        def product(x, theta, key, codes=codes):
            x = tf.cast(x, dtype)
            return sparse_matmul(x, theta, codes, key=key, cpu=cpu, code=code)

        assert_same(product, x, theta, codes, extra=positions % 3)


@pytest.mark.parametrize("cpu", cpus())
@pytest.mark.parametrize(
    ("shape", "window", "how"),
    [
        ((3, 9, 8, 6), (3, 3), {"padding": "same"}),
        ((2, 9, 11, 6), (2, 3), {"padding": "valid", "strides": [2, 3]}),
        ((2, 12, 10, 5), (3, 2), {"padding": "same", "dilations": [2, 1]}),
        ((2, 8, 8, 12), (3, 3), {"padding": "same", "groups": 3}),
        ((4, 17, 6), (3,), {"padding": "causal"}),
    ],
)
def test_convolution(cpu, shape, window, how):
    rng = np.random.default_rng(1)
    weight = (*window, shape[-1] // how.get("groups", 1), 12)
    how = {"strides": [1] * len(window), "dilations": [1] * len(window), **how}
    codes = random_codes(rng, weight, 0.2, 0.4)
    x = rng.normal(size=shape).astype(np.float32)
    theta = rng.normal(size=weight).astype(np.float32)

    def product(x, theta, key):
        return sparse_conv(x, theta, tf.constant(codes), key=key, cpu=cpu, **how)

    assert_same(product, x, theta, codes, extra=2)


def test_sets_that_change_and_both_forms_under_one_key():
    rng = np.random.default_rng(2)
    owner = Owner()
    key = new_key(owner)
    x = rng.normal(size=(20, 50)).astype(np.float32)
    for step in range(4):
        codes = random_codes(rng, (50, 30), 0.1, 0.3)
        theta = rng.normal(size=(50, 30)).astype(np.float32)
        if step == 3:
            found = outputs_and_gradients(
                lambda x, t, c=codes: sparse_matmul(x, t, c, key=key), x, theta
            )
        else:
            found = outputs_and_gradients(
                lambda x, t, c=codes: sparse_matmul(x, t, c, key=key),
                x,
                packed(theta, codes),
            )
        expected = x.astype(np.float64) @ np.where(codes == 2, theta, 0)
        np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)


def test_second_gradients():
    rng = np.random.default_rng(3)
    codes = random_codes(rng, (7, 5), 0.3, 0.6)
    x = tf.constant(rng.normal(size=(4, 7)), tf.float32)
    theta = rng.normal(size=(7, 5)).astype(np.float32)
    owners = Owner(), Owner()

    def product(key):
        return lambda x, theta: sparse_matmul(x, theta, codes, key=key)

    whole = gradient_of_penalty(product(new_key(owners[0])), x, tf.constant(theta))
    short = gradient_of_penalty(
        product(new_key(owners[1])), x, tf.constant(packed(theta, codes))
    )
    np.testing.assert_allclose(short[0], whole[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        short[1], packed(whole[1].numpy(), codes), rtol=1e-5, atol=1e-6
    )


def test_in_a_function_with_static_shapes():
    codes = tf.constant([[2, 0], [1, 2]], tf.uint8)
    owner = Owner()
    key = new_key(owner)

    @tf.function(input_signature=[tf.TensorSpec([None, 2])])
    def gradient(x):
        theta = tf.constant([1.0, 2.0, 3.0])
        with tf.GradientTape() as tape:
            tape.watch(theta)
            y = sparse_matmul(x, theta, codes, key=key)
        assert y.shape.as_list() == [None, 2]
        found = tape.gradient(y, theta)
        assert found.shape == [3]
        return found

    np.testing.assert_array_equal(gradient(tf.constant([[1.0, 10.0]])), [1, 10, 10])


@pytest.mark.parametrize(
    ("theta", "message"),
    [
        (tf.zeros([2]), "at most 2 entries in B. Received: 3"),
        (tf.zeros([2, 3]), "Dimension 1 in both shapes|Expected codes of shape"),
    ],
)
def test_what_does_not_fit_is_refused(theta, message):
    codes = tf.constant([[2, 0], [1, 2]], tf.uint8)
    owner = Owner()
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        sparse_matmul(tf.zeros([1, 2]), theta, codes, key=new_key(owner))


def test_dense_gradients_of_entries_are_refused():
    codes = tf.constant([[2, 0], [1, 2]], tf.uint8)
    with pytest.raises(ValueError, match="with a gradient on B"):
        sparse_matmul(
            tf.zeros([1, 2]), tf.zeros([3]), codes, key=1, dense_gradient=True
        )
