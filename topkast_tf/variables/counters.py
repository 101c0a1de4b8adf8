"""The counters of a sparse weight: the entries of one vector next to its sets."""

import enum


class Counter(enum.IntEnum):
    """The entries of a weight's counters, an int64 vector that is saved as its `clock`.

    Attributes:
      STEP: optimizer steps taken.
      PENDING: whether an update is still to be counted.
      KEPT_FORWARD: the number of units in A.
      KEPT_BACKWARD: the number of units in B.
      SEED: the weight's random seed.
      FAULTY: whether a refresh has found a NaN.
      THRESHOLD: the threshold of the last selection.
      FROZEN: whether the sets are fixed (`topkast_tf.freeze`).
    """

    STEP = 0
    PENDING = 1
    KEPT_FORWARD = 2
    KEPT_BACKWARD = 3
    SEED = 4
    FAULTY = 5
    THRESHOLD = 6
    FROZEN = 7
