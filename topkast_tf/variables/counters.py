"""What a sparse weight counts: the entries of the one vector beside its sets."""

import enum


class Counter(enum.IntEnum):
    """The entries of a weight's counters, an int64 vector that is saved as its `clock`.

    Attributes:
      STEP: optimizer steps taken.
      PENDING: whether an update waits to be counted.
      KEPT_FORWARD: units that A keeps.
      KEPT_BACKWARD: units that B keeps.
      SEED: the weight's random seed.
      FAULTY: whether a refresh has met a NaN.
      THRESHOLD: the threshold of the last selection.
      FROZEN: whether the sets stay as they are (`topkast_tf.freeze`).
    """

    STEP = 0
    PENDING = 1
    KEPT_FORWARD = 2
    KEPT_BACKWARD = 3
    SEED = 4
    FAULTY = 5
    THRESHOLD = 6
    FROZEN = 7
