"""Exact selection of the largest entries of tensors, by counting instead of sorting.

The one question that every sparse-training method asks is: *which k of these n entries
are the largest?* Sorting answers more than was asked and is slow (``tf.math.top_k`` takes
seconds for ten million entries). Here each entry becomes a non-negative 31-bit integer
key whose order is the order wanted (`topkast_tf.core.keys`), and the k-th largest key is
found exactly (`topkast_tf.core.kth_largest`). Entries above it are in, entries below are
out, and of the entries equal to it the ones with the lowest index are taken. So exactly k
are selected whatever the ties.

Everything in this file is a pure function of tensors; it runs eagerly, in a graph and
under XLA, and gives the same bits in each.
"""

from collections.abc import Sequence

import tensorflow as tf

from topkast_tf.core.chunks import CHUNKED_SIZE, map_in_chunks
from topkast_tf.core.keys import INFINITY_KEY, magnitude_keys
from topkast_tf.core.kth_largest import (
    OUTSIDE,
    Threshold,
    bincount,
    digit_of_kth,
    found_thresholds,
    kth_candidate,
    on_cpu_kernels,
    thresholds,
    upper_bits,
    with_digit,
)
from topkast_tf.core.trace_once import trace_once


def at_or_above(keys: Sequence[tf.Tensor], threshold: Threshold) -> list[tf.Tensor]:
    """Masks of exactly the keys that a threshold was found for."""
    masks = _at_or_above(*threshold, *keys)
    for mask, key in zip(masks, keys, strict=True):
        mask.set_shape(key.shape)
    return masks


@trace_once
def _at_or_above(
    at: tf.Tensor, needed: tf.Tensor, tied: tf.Tensor, *keys: tf.Tensor
) -> list[tf.Tensor]:
    return _masks(keys, Threshold(at, needed, tied))


def _masks(keys: Sequence[tf.Tensor], threshold: Threshold) -> list[tf.Tensor]:
    at, needed, tied = threshold

    def with_all_ties() -> list[tf.Tensor]:
        return [key >= at for key in keys]

    def with_first_ties() -> list[tf.Tensor]:
        masks = []
        before = tf.constant(0)
        for key in keys:
            tie = tf.equal(key, at)
            rank = before + tf.cumsum(tf.cast(tie, tf.int32))
            masks.append((key > at) | (tie & (rank <= needed)))
            before += tf.reduce_sum(tf.cast(tie, tf.int32))
        return masks

    # Counting through the ties costs more than all the rest, and is seldom needed.
    return tf.cond(tf.equal(needed, tied), with_all_ties, with_first_ties)


def largest(keys: Sequence[tf.Tensor], k: tf.Tensor) -> list[tf.Tensor]:
    """Masks of the k largest keys of several tensors taken together.

    Exactly k entries are True. Ties are broken by the lower index, and between tensors
    by the earlier tensor.

    Args:
      keys: flat int32 tensors of non-negative keys (`magnitude_keys`, `random_keys`).
      k: int32 scalar, 0 <= k <= total number of keys.

    Returns:
      One boolean tensor per tensor of keys.

    >>> [mask.numpy().tolist() for mask in largest([tf.constant([5, 7, 5, 1])], 2)]
    [[True, True, False, False]]
    """
    [threshold] = thresholds(keys, [k])
    return at_or_above(keys, threshold)


def _nested_codes(
    keys: Sequence[tf.Tensor], kept_forward: tf.Tensor, kept_backward: tf.Tensor
) -> list[tf.Tensor]:
    found = found_thresholds(keys, [kept_forward, kept_backward])
    forward, backward = (_masks(keys, threshold) for threshold in found)
    return [_codes(a, b) for a, b in zip(forward, backward, strict=True)]


def nested_sets_by_magnitude(
    scores: Sequence[tf.Tensor], kept_forward: tf.Tensor, kept_backward: tf.Tensor
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Set codes with A the `kept_forward` and B the `kept_backward` largest magnitudes.

    ``A = top(kept_forward)``, ``B = top(kept_backward)``; as ties are broken one way,
    A is a subset of B. In a graph it is one call, whatever the scores.

    Args:
      scores: floating tensors of any shapes; the counts are over all of them together.
      kept_forward: int32 scalar, the size of A.
      kept_backward: int32 scalar, the size of B, at least that of A.

    Returns:
      One uint8 tensor of codes (`RESERVOIR`, `BACKWARD_ONLY`, `FORWARD`) per tensor, in
      its shape; and a boolean scalar, whether no score is a NaN.

    >>> [codes], finite = nested_sets_by_magnitude([tf.constant([[1.0, -4.0]])], 1, 2)
    >>> codes.numpy().tolist(), bool(finite)
    ([[1, 2]], True)
    """
    sizes = [score.shape.num_elements() for score in scores]
    *codes, finite = _nested_by_magnitude(
        kept_forward,
        kept_backward,
        *scores,
        in_parts=any(size is not None and size > CHUNKED_SIZE for size in sizes),
    )
    for code, score in zip(codes, scores, strict=True):
        code.set_shape(score.shape)
    return codes, finite


@trace_once
def _nested_by_magnitude(
    kept_forward: tf.Tensor,
    kept_backward: tf.Tensor,
    *scores: tf.Tensor,
    in_parts: bool,
) -> list[tf.Tensor]:
    if in_parts and on_cpu_kernels():
        flat = [tf.reshape(score, [-1]) for score in scores]
        codes, largest = _nested_in_parts(flat, kept_forward, kept_backward)
    else:
        keys = [magnitude_keys(score) for score in scores]
        codes = _nested_codes(keys, kept_forward, kept_backward)
        largest = tf.reduce_max(tf.stack([tf.reduce_max(key) for key in keys]))
    shaped = [
        tf.reshape(code, tf.shape(score))
        for code, score in zip(codes, scores, strict=True)
    ]
    return [*shaped, largest <= INFINITY_KEY]


def _nested_in_parts(
    flat: Sequence[tf.Tensor], kept_forward: tf.Tensor, kept_backward: tf.Tensor
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """`_nested_codes` of magnitudes, part by part: two bytes an entry in place of twelve.

    Keys are made anew in each of three passes, which takes less time than to fetch them.
    """

    def counted(part: tf.Tensor) -> list[tf.Tensor]:
        key = magnitude_keys(part)
        return [bincount(upper_bits(key), OUTSIDE), tf.reduce_max(key)]

    counts, largest = zip(
        *(found for x in flat for found in map_in_chunks(counted, x)), strict=True
    )
    ranked = [digit_of_kth(tf.add_n(counts), k) for k in (kept_forward, kept_backward)]

    def candidates_of(part: tf.Tensor) -> list[tf.Tensor]:
        key = magnitude_keys(part)
        digits = upper_bits(key)
        return [with_digit(key, digits, digit) for digit, _ in ranked]

    candidates = zip(
        *(found for x in flat for found in map_in_chunks(candidates_of, x)), strict=True
    )
    forward, backward = (
        kth_candidate(parts, rank)
        for parts, (_, rank) in zip(candidates, ranked, strict=True)
    )

    def coded(part: tf.Tensor) -> list[tf.Tensor]:
        key = magnitude_keys(part)
        return [_codes(key >= forward.key, key >= backward.key)]

    def with_all_ties() -> list[tf.Tensor]:
        return [
            tf.concat([code for [code] in map_in_chunks(coded, x)], 0) for x in flat
        ]

    def with_first_ties() -> list[tf.Tensor]:
        keys = [magnitude_keys(x) for x in flat]
        masks = [_masks(keys, threshold) for threshold in (forward, backward)]
        return [_codes(a, b) for a, b in zip(*masks, strict=True)]

    takes_all = tf.equal(forward.needed, forward.tied) & tf.equal(
        backward.needed, backward.tied
    )
    codes = tf.cond(takes_all, with_all_ties, with_first_ties)
    return codes, tf.reduce_max(tf.stack(largest))


def forward_and_random_sets(
    keys: Sequence[tf.Tensor],
    kept_forward: tf.Tensor,
    kept_backward: tf.Tensor,
    draws: Sequence[tf.Tensor],
) -> list[tf.Tensor]:
    """Set codes with A the largest keys, and B of A and entries sampled uniformly.

    Args:
      keys: flat int32 tensors of keys; the counts are over all of them together.
      kept_forward: int32 scalar, the size of A.
      kept_backward: int32 scalar, the size of B, at least that of A.
      draws: `random_keys`, one tensor per tensor of keys; the largest outside A win.

    Returns:
      One flat uint8 tensor of codes per tensor of keys.

    >>> outside = [tf.constant([9, 9, 1, 5])]
    >>> forward_and_random_sets([tf.constant([1, 4, 3, 2])], 1, 2, outside)[0].numpy()
    array([1, 2, 0, 0], dtype=uint8)
    """
    forward = largest(keys, kept_forward)
    # A has no draw (0), and every other entry has one of at least 1.
    outside = [
        tf.where(mask, 0, draw) for mask, draw in zip(forward, draws, strict=True)
    ]
    extra = largest(outside, tf.cast(kept_backward, tf.int32) - kept_forward)
    return [_codes(a, a | b) for a, b in zip(forward, extra, strict=True)]


def _codes(forward: tf.Tensor, backward: tf.Tensor) -> tf.Tensor:
    # FORWARD = 2 is BACKWARD_ONLY + 1, and A is a subset of B.
    return tf.cast(forward, tf.uint8) + tf.cast(backward, tf.uint8)
