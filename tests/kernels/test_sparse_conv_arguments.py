"""Native convolutions: arguments that do not fit, and any number of threads."""

import pytest
import tensorflow as tf

from tests.kernels.common import assert_same_bits_for_any_number_of_threads
from topkast_tf.kernels import library as kernels
from topkast_tf.kernels.convolutions import sparse_conv

pytestmark = pytest.mark.skipif(
    kernels.why_unavailable() is not None, reason=str(kernels.why_unavailable())
)


@pytest.mark.parametrize(
    ("x", "theta", "how", "message"),
    [
        ((5, 6, 3), (3, 2, 3, 4), {}, "same rank"),
        ((2, 5, 6, 3), (3, 2, 3, 4), {"strides": (1,)}, "a stride and a dilation"),
        ((2, 5, 6, 3), (3, 2, 3, 4), {"padding": "causal"}, "for sequences only"),
        ((2, 5, 6, 3), (3, 2, 3, 4), {"padding": "full"}, "padding='full'"),
    ],
)
def test_what_does_not_fit_is_refused(x, theta, how, message):
    how = {"strides": (1, 1), "dilations": (1, 1), "padding": "same", **how}
    with pytest.raises(ValueError, match=message):
        sparse_conv(tf.ones(x), tf.ones(theta), tf.ones(theta, tf.uint8), key=1, **how)


@pytest.mark.parametrize(
    ("x", "theta", "codes", "how", "message"),
    [
        ((2, 5, 6, 2), (3, 2, 3, 4), (3, 2, 3, 4), {}, "Expected an input"),
        ((2, 5, 6, 3), (3, 2, 3, 4), (3, 2, 4, 3), {}, "Expected codes of shape"),
        ((5, 6, 3), (3, 2, 3, 4), (3, 2, 3, 4), {}, "Expected an input"),
        ((2, 5, 6, 3), (0, 2, 3, 4), (0, 2, 3, 4), {}, "with a window"),
        ((2, 1, 6, 3), (4, 2, 3, 4), (4, 2, 3, 4), {}, "the window's reach"),
        ((2, 5, 6, 3), (3, 2, 3, 4), (3, 2, 3, 4), {"strides": [0, 1]}, "two strides"),
        ((2, 5, 6, 3), (3, 2, 3, 4), (3, 2, 3, 4), {"dilations": [1]}, "two strides"),
        (
            *((2, 5, 6, 3), (3, 2, 3, 4), (3, 2, 3, 4), {"strides": [257, 256]}),
            "product is at most 65536. Received: 257 and 256",
        ),
        ((2**31, 2**29, 4, 0), (1, 1, 0, 9), (1, 1, 0, 9), {}, "overflow"),
    ],
)
def test_wrong_shapes_are_refused_in_the_operations(x, theta, codes, how, message):
    native = kernels.library()
    how = {"strides": [1, 1], "dilations": [1, 1], "padding": "VALID", **how}
    x, theta, codes = tf.ones(x), tf.ones(theta), tf.ones(codes, tf.uint8)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        native.ops.topkast_sparse_conv(x, theta, codes, [], key=1, **how)


@pytest.mark.parametrize(
    "sizes", [[2, 5, 6, 3], [2, 9, 6, 3], [2, 5, 6], [2, -5, 6, 3]]
)
def test_wrong_errors_are_refused_in_the_operations(sizes):
    native = kernels.library()
    how = {"strides": [1, 1], "dilations": [1, 1], "padding": "VALID", "key": 1}
    theta, codes = tf.ones([3, 2, 3, 4]), tf.ones([3, 2, 3, 4], tf.uint8)
    dy = tf.ones([2, 4, 4, 4])  # for [2, 6, 5, 3]
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected|must be >= 0"):
        native.ops.topkast_sparse_conv_input_gradient(
            dy, theta, codes, sizes, [], **how
        )
    if len(sizes) == 4 and min(sizes) > 0:
        with pytest.raises(tf.errors.InvalidArgumentError, match="errors of shape"):
            native.ops.topkast_sparse_conv_weight_gradient(
                tf.ones(sizes), dy, codes, **how
            )


_BITS = """
import hashlib, sys
import numpy as np, tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
from topkast_tf.kernels.convolutions import sparse_conv
from topkast_tf.kernels.products import new_key
class Owner: pass
owner, rng, found = Owner(), np.random.default_rng(0), hashlib.sha256()
for shape, stride in (((20, 30, 30, 40), 2), ((2, 60, 60, 100), 1), ((90, 3, 3, 20), 1)):
    x, theta = (tf.constant(rng.normal(size=s), tf.float32)
                for s in (shape, (3, 3, shape[-1], 50)))
    codes = tf.constant((3 * rng.uniform(size=theta.shape)).astype("uint8"))
    for _ in range(2):
        with tf.GradientTape() as tape:
            tape.watch((x, theta))
            y = sparse_conv(x, theta, codes, key=new_key(owner), strides=[stride] * 2,
                            dilations=[1, 1], padding="same")
        values = [y, *tape.gradient(y, (x, theta), tf.sin(y))]
    for value in values:
        found.update(value.numpy().tobytes())
print(found.hexdigest())
"""


@pytest.mark.slow
def test_any_number_of_threads_gives_the_same_bits():
    assert_same_bits_for_any_number_of_threads(_BITS)
