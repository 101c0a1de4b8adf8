"""Seeds of stateless random numbers, one for each use and each step."""

import tensorflow as tf

# One stream of random numbers for each use. Other values would change the results.
ORDER, CROP, FLIP, FILES = range(4)


def seed_of(seed: int, stream: int, *times: int | tf.Tensor) -> tf.Tensor:
    """A stateless seed that depends only on its arguments.

    Args:
      seed: the seed of the run.
      stream: the use, one of the constants of this module.
      times: step or epoch, and optionally the index in it.

    Returns:
      An int64 tensor of shape [2], for `tf.random.stateless_*`.
    """
    found = tf.constant([seed, stream], tf.int64)
    for time in times:
        found = tf.random.experimental.stateless_fold_in(found, tf.cast(time, tf.int64))
    return found
