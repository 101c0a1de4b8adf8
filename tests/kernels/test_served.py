"""Products of weights that are no longer trained: the bits of those that are."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.kernels.common import Owner, cpus
from topkast_tf.kernels import library as kernels
from topkast_tf.kernels.convolutions import sparse_conv
from topkast_tf.kernels.products import new_key, sparse_matmul
from topkast_tf.kernels.served import gaps_of, served_conv, served_matmul, whole

NATIVE = pytest.mark.skipif(
    kernels.why_unavailable() is not None, reason=str(kernels.why_unavailable())
)
_keys = itertools.count(-10_000_000, -1)


def test_gaps_by_hand():
    kept = np.zeros((2, 300), bool)
    kept[0, [0, 1, 299]] = kept[1, [255, 299]] = True
    # From place 1 to 299 are 298 places, from 299 to 555 are 256, to 599 are 44.
    expected = np.array([1, 1, 0, 43, 0, 1, 44], np.uint8)
    np.testing.assert_array_equal(gaps_of(kept), expected)
    assert gaps_of(np.zeros((2, 3), bool)).tolist() == []


@pytest.mark.parametrize("density", [0.0, 0.001, 0.1, 1.0])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_whole_is_the_inverse(density, jit_compile):
    rng = np.random.default_rng(0)
    kept = rng.random((40, 50)) < density
    theta = rng.normal(size=kept.shape).astype(np.float32)
    make = tf.function(lambda e, g: whole(e, g, (40, 50)), jit_compile=jit_compile)
    found = make(tf.constant(theta[kept]), tf.constant(gaps_of(kept)))
    np.testing.assert_array_equal(found, theta * kept)


def held(theta, kept):
    """The arguments of a served product."""
    return tf.constant(theta[kept]), tf.constant(gaps_of(kept)), kept.shape


@NATIVE
@pytest.mark.parametrize("cpu", cpus())
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
@pytest.mark.parametrize(
    "shape", [(1, 1), (33, 50), (100, 7), (64, 48), (300, 31), (5, 700)]
)
def test_matmul_has_the_bits_of_the_trained_one(cpu, dtype, shape):
    rng = np.random.default_rng(sum(shape))
    theta = rng.normal(size=shape).astype(np.float32)
    for density in (0.0, 0.05, 0.3, 1.0):
        kept = rng.random(shape) < density
        key, owner = next(_keys), Owner()
        trained_key = new_key(owner)
        # 1 to 4 positions have a kernel of their own.
        for positions in (0, 1, 2, 3, 4, 5, 40):
            x = rng.normal(size=(positions, shape[0]))
            x = tf.cast(tf.constant(x, tf.float32), dtype)
            found = served_matmul(x, *held(theta, kept), key=key, cpu=cpu)
            expected = sparse_matmul(
                *(x, tf.constant(theta), tf.constant(2 * kept, tf.uint8)),
                key=trained_key,
                cpu=cpu,
            )
            assert found.dtype == dtype
            ours, theirs = (tf.cast(y, tf.float32).numpy() for y in (found, expected))
            np.testing.assert_array_equal(ours, theirs, f"{density}, {positions}")


@NATIVE
def test_matmul_leaves_out_what_is_not_there():
    kept = np.array([[True, False], [False, True]])
    x = tf.constant([[np.inf, 3.0], [2.0, np.nan]], tf.float32)
    theta = np.array([[2.0, 9.0], [9.0, -0.0]], np.float32)
    found = served_matmul(x, *held(theta, kept), key=next(_keys))
    np.testing.assert_array_equal(found, [[np.inf, 0.0], [4.0, np.nan]])


CONVOLUTIONS = {
    # The input gradient has as many sources as the forward pass, in the same shape.
    "same": ((2, 6, 7, 8), (3, 3, 8, 8), (1, 1), (1, 1), "same", 1),
    "strided": ((1, 9, 9, 4), (3, 3, 4, 12), (2, 2), (1, 1), "valid", 1),
    "groups": ((3, 5, 5, 8), (3, 3, 4, 12), (1, 1), (1, 1), "same", 2),
    "sequence": ((2, 15, 6), (3, 6, 5), (1,), (2,), "causal", 1),
}


@NATIVE
@pytest.mark.parametrize("cpu", cpus())
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_has_the_bits_of_the_trained_one(cpu, dtype, name):
    size, shape, strides, dilations, padding, groups = CONVOLUTIONS[name]
    rng = np.random.default_rng(1)
    kept = rng.random(shape) < 0.3
    theta = rng.normal(size=shape).astype(np.float32)
    key, owner = next(_keys), Owner()
    how = {
        "strides": strides,
        "dilations": dilations,
        "padding": padding,
        "groups": groups,
        "cpu": cpu,
    }
    trained_key = new_key(owner)
    for images in (1, size[0], 5, size[0]):
        x = rng.normal(size=(images, *size[1:]))
        x = tf.cast(tf.constant(x, tf.float32), dtype)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            found = served_conv(x, *held(theta, kept), key=key, **how)
            expected = sparse_conv(
                *(x, tf.constant(theta), tf.constant(2 * kept, tf.uint8)),
                key=trained_key,
                **how,
            )
            losses = [
                tf.reduce_sum(tf.sin(tf.cast(y, tf.float32))) for y in (found, expected)
            ]
        gradients = [tape.gradient(loss, x) for loss in losses]
        for ours, theirs in ((found, expected), gradients):
            ours, theirs = (tf.cast(y, tf.float32).numpy() for y in (ours, theirs))
            np.testing.assert_array_equal(ours, theirs)


@NATIVE
def test_gradient_is_of_x_alone():
    rng = np.random.default_rng(2)
    kept = rng.random((20, 30)) < 0.2
    theta = rng.normal(size=kept.shape).astype(np.float32)
    x = tf.constant(rng.normal(size=(3, 20)), tf.float32)
    entries, gaps, shape = held(theta, kept)
    with tf.GradientTape() as tape:
        tape.watch((x, entries))
        y = served_matmul(x, entries, gaps, shape, key=next(_keys))
    of_x, of_entries = tape.gradient(y, (x, entries))
    np.testing.assert_allclose(
        of_x, np.ones((3, 30)) @ (theta * kept).T, rtol=1e-5, atol=1e-5
    )
    assert of_entries is None


@NATIVE
def test_new_entries_are_seen():
    rng = np.random.default_rng(3)
    kept = rng.random((40, 50)) < 0.2
    entries = tf.Variable(rng.normal(size=kept.sum()).astype(np.float32))
    gaps, key = tf.constant(gaps_of(kept)), next(_keys)
    for positions in (1, 40):
        x = tf.constant(rng.normal(size=(positions, 40)), tf.float32)
        before = served_matmul(x, entries.read_value(), gaps, (40, 50), key=key)
        entries.assign(2 * entries)
        after = served_matmul(x, entries.read_value(), gaps, (40, 50), key=key)
        np.testing.assert_array_equal(after, 2 * before)


@NATIVE
def test_each_instruction_set_has_an_order_of_its_own():
    """A layout is one of lanes: kept offsets of another would lead elsewhere."""
    rng = np.random.default_rng(4)
    kept = rng.random((3, 3, 8, 16)) < 0.2
    theta = rng.normal(size=kept.shape).astype(np.float32)
    x = tf.constant(rng.normal(size=(2, 12, 20, 8)), tf.float32)
    expected = tf.nn.conv2d(x, theta * kept, 1, "SAME")
    how = {
        "strides": [1, 1],
        "dilations": [1, 1],
        "padding": "same",
        "key": next(_keys),
    }
    for cpu in (*cpus(), *reversed(cpus())):
        found = served_conv(x, *held(theta, kept), cpu=cpu, **how)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4, err_msg=cpu)


@NATIVE
@pytest.mark.parametrize(
    ("gaps", "entries", "message"),
    [
        ([1, 0, 0], 1, "gaps that lead beyond it"),
        ([1, 250], 2, "gaps that lead beyond it"),
        ([1, 1, 1], 2, "at most 2 entries"),
    ],
)
def test_gaps_that_do_not_fit_are_refused(gaps, entries, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        served_matmul(
            *(tf.ones([1, 10]), tf.ones([entries]), tf.constant(gaps, tf.uint8)),
            (10, 20),
            key=next(_keys),
        )
