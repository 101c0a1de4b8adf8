"""The exact k-th largest of integer keys, by counting instead of sorting.

On a CPU one histogram of the upper bits leaves few candidates; elsewhere three histograms
of eleven bits each find the key. Pure functions that run eagerly, in a graph and under
XLA, and give the same bits in each. (Equality is `tf.equal`: in a TensorFlow 1 graph
``==`` compares objects.)
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from topkast_tf.core.chunks import map_in_chunks
from topkast_tf.core.trace_once import is_compiled, trace_once

_BITS = 11  # of a key that one histogram looks at
HISTOGRAMS = 3
"""Of a tensor's entries that an exact threshold takes, where no candidates are gathered."""
OUTSIDE = 2**_BITS
"""The digit of entries that a histogram leaves out."""
_NOT_THE_SIGN = 2**31 - 1
_FIRST_SHIFT = 2 * _BITS  # three digits are a key
_CANDIDATES_SHIFT = 31 - _BITS
_FIRST_DIGITS = 2 ** (31 - _FIRST_SHIFT)  # without the sign there are 31 bits


def _digits(key: tf.Tensor, floor: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    """The digit of each key among those from `floor` upwards; `OUTSIDE` of the others."""
    key = tf.bitwise.bitwise_and(key, _NOT_THE_SIGN)
    # Unsigned, what is below the floor is far above it: one comparison instead of two.
    above = tf.bitcast(key - floor, tf.uint32)
    digit = tf.bitwise.right_shift(above, tf.cast(shift, tf.uint32))
    return tf.bitcast(tf.minimum(digit, tf.constant(OUTSIDE, tf.uint32)), tf.int32)


class Threshold(NamedTuple):
    """Where the k largest of some keys end.

    Attributes:
      key: the k-th largest key.
      needed: how many of the entries equal to it belong to the k largest.
      tied: how many entries are equal to it.
    """

    key: tf.Tensor
    needed: tf.Tensor
    tied: tf.Tensor


def thresholds(
    keys: Sequence[tf.Tensor], ks: Sequence[tf.Tensor], spare_memory: bool = False
) -> list[Threshold]:
    """The k-th largest key of several tensors taken together, for each k of several.

    Args:
      keys: flat int32 tensors of non-negative keys. Their sign bits are not looked at:
        a float32 tensor, bitcast, needs no keys of its own.
      ks: int32 scalars, 0 <= k <= total number of keys.
      spare_memory: takes less of it, for very large tensors; not for XLA.

    Returns:
      One `Threshold` per k.

    >>> [threshold] = thresholds([tf.constant([5, 7, 5, 1])], [2])
    >>> [int(figure) for figure in threshold]
    [5, 1, 2]
    """
    ranks = [tf.cast(k, tf.int32) for k in ks]
    figures = _search(*keys, *ranks, count=len(keys), spare_memory=spare_memory)
    return [Threshold(*three) for three in figures]


@trace_once
def _search(*tensors: tf.Tensor, count: int, spare_memory: bool) -> list[Threshold]:
    keys = list(tensors[:count])
    if not spare_memory:
        keys = [tf.bitwise.bitwise_and(key, _NOT_THE_SIGN) for key in keys]
    return found_thresholds(keys, tensors[count:], spare_memory)


def found_thresholds(
    keys: Sequence[tf.Tensor], ks: Sequence[tf.Tensor], spare_memory: bool = False
) -> list[Threshold]:
    """`thresholds`, as a part of what is being traced."""
    if spare_memory or not on_cpu_kernels():
        return _by_three_histograms(keys, ks, spare_memory)
    return _by_candidates(keys, ks)


def on_cpu_kernels() -> bool:
    """Whether what is being traced runs op by op on a CPU.

    XLA compiles no candidates, whose number is not known; and no accelerator has a kernel
    of `NthElement`.
    """
    accelerators = map(tf.config.list_physical_devices, ("GPU", "TPU"))
    return not any(accelerators) and not is_compiled()


def _by_candidates(
    keys: Sequence[tf.Tensor], ks: Sequence[tf.Tensor]
) -> list[Threshold]:
    """The threshold among the keys that have its upper bits."""
    digits = list(map(upper_bits, keys))
    counts = tf.add_n([bincount(digit, OUTSIDE) for digit in digits])
    found = []
    for k in ks:
        digit, rank = digit_of_kth(counts, k)
        candidates = [
            with_digit(key, each, digit) for key, each in zip(keys, digits, strict=True)
        ]
        found.append(kth_candidate(candidates, rank))
    return found


def upper_bits(key: tf.Tensor) -> tf.Tensor:
    """The digit by which candidates for the k-th largest key are found."""
    return tf.bitwise.right_shift(key, _CANDIDATES_SHIFT)


def digit_of_kth(counts: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The upper bits of the k-th largest key, and its rank among those that have them."""
    at_or_above = tf.cumsum(counts, reverse=True)
    digit = tf.reduce_sum(tf.cast(at_or_above >= k, tf.int32)) - 1
    digit = tf.maximum(digit, 0)  # also where there are no keys at all
    return digit, k - (tf.gather(at_or_above, digit) - tf.gather(counts, digit))


def with_digit(key: tf.Tensor, digits: tf.Tensor, digit: tf.Tensor) -> tf.Tensor:
    """The candidates: keys whose upper bits are the given digit."""
    return tf.gather(key, tf.reshape(tf.where(tf.equal(digits, digit)), [-1]))


def kth_candidate(parts: Sequence[tf.Tensor], rank: tf.Tensor) -> Threshold:
    """The threshold, from all candidates and its rank among them."""
    candidates = tf.concat(parts, axis=0)
    # Behind a key that no entry exceeds, which is the answer for k = 0.
    ranked = tf.concat([[_NOT_THE_SIGN], candidates], 0)
    rank = tf.minimum(rank, tf.size(candidates))  # also of no keys at all
    at = tf.raw_ops.NthElement(input=ranked, n=rank, reverse=True)
    above = tf.math.count_nonzero(candidates > at, dtype=tf.int32)
    tied = tf.math.count_nonzero(tf.equal(candidates, at), dtype=tf.int32)
    return Threshold(at, rank - above, tied)


def _by_three_histograms(
    keys: Sequence[tf.Tensor], ks: Sequence[tf.Tensor], spare_memory: bool
) -> list[Threshold]:
    histogram = _histogram_in_parts if spare_memory else _histogram

    def find_digit(shift: tf.Tensor, found: list[Threshold]) -> tuple:
        # The first digit has no sign bit; for k = 0 this gives the largest key there is.
        largest_digit = tf.where(shift < _FIRST_SHIFT, OUTSIDE - 1, _FIRST_DIGITS - 1)
        narrowed = []
        for floor, rank, _ in found:
            parts = [histogram(key, floor, shift) for key in keys]
            counts = (tf.add_n(parts) if len(parts) > 1 else parts[0])[:OUTSIDE]
            at_or_above = tf.cumsum(counts, reverse=True)
            digit = tf.reduce_sum(tf.cast(at_or_above >= rank, tf.int32)) - 1
            # At least 0, also where there are no keys at all.
            digit = tf.clip_by_value(digit, 0, largest_digit)
            # Not `counts[digit]`: to XLA the index of a slice is a constant, and it would
            # compile the whole step anew for each value of the weights.
            tied = tf.gather(counts, digit)
            rank = rank - (tf.gather(at_or_above, digit) - tied)
            floor = floor + tf.bitwise.left_shift(digit, shift)
            narrowed.append(Threshold(floor, rank, tied))
        return shift - _BITS, narrowed

    # A loop and not three calls in a row: XLA would fuse them into one kernel that finds
    # the earlier digits anew for each entry. One iteration at a time, or the copies of
    # several are in memory at once.
    zero = tf.constant(0)
    found = [Threshold(zero, k, zero) for k in ks]
    _, found = tf.while_loop(
        lambda shift, _: shift >= 0,
        find_digit,
        (tf.constant(_FIRST_SHIFT), found),
        parallel_iterations=1,
    )
    return found


def _histogram(key: tf.Tensor, floor: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    """How often each digit occurs among some keys; `OUTSIDE` counts nowhere."""
    return bincount(_digits(key, floor, shift), OUTSIDE + 1)


def bincount(digits: tf.Tensor, size: int) -> tf.Tensor:
    """How often each of the digits 0 .. size - 1 occurs; larger ones are not counted."""
    return tf.raw_ops.DenseBincount(
        input=digits,
        size=size,
        weights=tf.zeros([0], tf.int32),
        binary_output=False,
    )


def _histogram_in_parts(
    key: tf.Tensor, floor: tf.Tensor, shift: tf.Tensor
) -> tf.Tensor:
    """`_histogram` of any number of keys, in working memory for an eighth of them."""
    counts = map_in_chunks(lambda part: [_histogram(part, floor, shift)], key)
    return tf.add_n([count for [count] in counts])
