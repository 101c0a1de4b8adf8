"""Seeds of stateless random numbers: one for every use and every time."""

import tensorflow as tf

# One stream of random numbers for each use. Their values are part of what a run is.
ORDER, CROP, FLIP, FILES = range(4)


def seed_of(seed: int, stream: int, *times: int | tf.Tensor) -> tf.Tensor:
    """A stateless seed that depends on nothing but its arguments.

    Args:
      seed: of the run.
      stream: the use, one of the constants of this module.
      times: step or epoch, and the place in it where there is one.

    Returns:
      An int64 tensor of shape [2], for `tf.random.stateless_*`.
    """
    found = tf.constant([seed, stream], tf.int64)
    for time in times:
        found = tf.random.experimental.stateless_fold_in(found, tf.cast(time, tf.int64))
    return found
