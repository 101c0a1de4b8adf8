"""Integer keys whose order is the order wanted: by magnitude, or random.

Pure functions that run eagerly, in a graph and under XLA, and give the same bits in each.
"""

import tensorflow as tf

INFINITY_KEY = 0x7F800000
"""The bits of float32 infinity: any larger key is a NaN."""


def magnitude_keys(x: tf.Tensor) -> tf.Tensor:
    """Flat int32 keys that are ordered as ``|x|`` is.

    The bits of a non-negative IEEE-754 number, read as an integer, are ordered as the
    numbers are. Whatever the dtype, entries are ranked in float32.

    Args:
      x: floating tensor of any shape.

    Returns:
      int32 tensor of shape ``[size of x]``, each entry >= 0. NaN has a key above that of
      infinity; see `has_nan`.

    >>> magnitude_keys(tf.constant([-2.0, 1.0])) > magnitude_keys(tf.constant([1.5, 1.5]))
    <tf.Tensor: shape=(2,), dtype=bool, numpy=array([ True, False])>
    """
    flat = tf.reshape(tf.cast(x, tf.float32), [-1])
    return tf.bitcast(tf.abs(flat), tf.int32)


def has_nan(keys: tf.Tensor) -> tf.Tensor:
    """Whether any of the magnitude keys belongs to a NaN (a boolean scalar).

    >>> bool(has_nan(magnitude_keys(tf.constant([1.0, float("nan")]))))
    True
    """
    return tf.reduce_max(keys) > INFINITY_KEY


def random_keys(size: int, seed: tf.Tensor) -> tf.Tensor:
    """Flat int32 keys in random order, a pure function of the seed.

    Args:
      size: how many.
      seed: integer tensor of shape ``[2]``.

    Returns:
      int32 tensor of shape ``[size]``, each entry in [1, 2^31 - 1].

    >>> bool(tf.reduce_all(random_keys(4, [1, 2]) == random_keys(4, [1, 2])))
    True
    """
    # Philox by name: the automatic choice differs between XLA and the op-by-op kernels.
    return tf.random.stateless_uniform(
        [size], seed, minval=1, maxval=2**31 - 1, dtype=tf.int32, alg="philox"
    )
