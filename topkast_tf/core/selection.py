"""Exact selection of the largest entries of tensors, by counting instead of sorting.

The one question that every sparse-training method asks is: *which k of these n entries
are the largest?* Sorting answers more than was asked and is slow (``tf.math.top_k`` takes
seconds for ten million entries). Here each entry becomes a non-negative 31-bit integer
key whose order is the order wanted. The k-th largest key is found exactly: on a CPU by one
histogram of the upper bits, which leaves few candidates; elsewhere by three histograms of
eleven bits each. Entries above it are in, entries below are out, and of the entries equal
to it the ones with the lowest index are taken, so that exactly k are selected whatever the
ties.

Everything in this file is a pure function of tensors; it runs eagerly, in a graph and
under XLA, and gives the same bits in each. (Equality is `tf.equal`: in a TensorFlow 1
graph ``==`` compares objects.)
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from topkast_tf.core.trace_once import is_compiled, trace_once

RESERVOIR = 0
"""Code of an entry of C: not used, not updated."""
BACKWARD_ONLY = 1
"""Code of an entry of B \\ A: zero in the forward pass, updated."""
FORWARD = 2
"""Code of an entry of A: used in the forward pass, updated."""

_INFINITY_KEY = 0x7F800000  # the bits of float32 infinity: any larger key is a NaN
_BITS = 11  # of a key that one histogram looks at
_OUTSIDE = 2**_BITS  # the digit of entries that a histogram leaves out
_NOT_THE_SIGN = 2**31 - 1
_PART = 2**20
_PARTS = 8  # into which longer vectors are cut
_FIRST_SHIFT = 2 * _BITS  # three digits are a key
_CANDIDATES_SHIFT = 31 - _BITS
_FIRST_DIGITS = 2 ** (31 - _FIRST_SHIFT)  # without the sign there are 31 bits


def masked(x: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """``x`` where the mask is True, and zero elsewhere, also where x is NaN or infinite.

    `tf.where` with a scalar takes eight times as long on a CPU: it broadcasts the scalar.

    Args:
      x: floating tensor.
      mask: boolean tensor in its shape.

    >>> masked(tf.constant([1.0, float("inf")]), tf.constant([True, False])).numpy()
    array([1., 0.], dtype=float32)
    """
    x = tf.convert_to_tensor(x)
    # Not before x is known: of a gradient's mask, which is known from the start, a copy
    # as large as the weight would be held through the whole step.
    with tf.control_dependencies([x]):
        return tf.math.multiply_no_nan(x, tf.cast(mask, x.dtype))


def chosen(condition: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """``x`` where the condition is True, ``y`` elsewhere.

    `tf.where` without its broadcasting, which takes five times as long on a CPU. Where
    the condition is a scalar, nothing is copied.

    Args:
      condition: boolean tensor in the shape of x, or a scalar.
      x: tensor.
      y: tensor in the shape and dtype of x.

    >>> chosen(tf.constant(False), tf.zeros(2), tf.ones(2)).numpy()
    array([1., 1.], dtype=float32)
    """
    return tf.raw_ops.Select(condition=condition, x=x, y=y)


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
    return tf.reduce_max(keys) > _INFINITY_KEY


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


def _histogram(key: tf.Tensor, floor: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    """How often each digit occurs among some keys; `_OUTSIDE` counts nowhere."""
    return _bincount(_digits(key, floor, shift), _OUTSIDE + 1)


def _bincount(digits: tf.Tensor, size: int) -> tf.Tensor:
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


def map_in_chunks(
    function: Callable[..., list[tf.Tensor]], *vectors: tf.Tensor
) -> list[list[tf.Tensor]]:
    """Applies a function to eighths of vectors, one eighth after the other.

    Not at once: what would be in memory together would take the place of the large
    tensors that come next.

    Args:
      function: of a part of each vector, gives tensors.
      *vectors: of one length.

    Returns:
      What the function gives for each part.

    >>> [[total]] = map_in_chunks(lambda part: [tf.reduce_sum(part)], tf.ones(9))
    >>> float(total)
    9.0
    """
    found: list[list[tf.Tensor]] = []
    for bounds in _bounds(vectors[0]):
        with tf.control_dependencies(found[-1] if found else []):
            found.append(function(*(x[slice(*bounds)] for x in vectors)))
    return found


def _bounds(x: tf.Tensor) -> list[tuple]:
    """Where the parts of a vector begin and end; multiples of 8 but for the last end."""
    size = x.shape[0]
    if size is not None and size <= 2 * _PART:
        return [(0, size)]
    size = tf.size(x) if size is None else size
    length = (size // _PARTS + _PARTS) // 8 * 8
    ends = [i * length for i in range(1, _PARTS)]
    return list(zip([0, *ends], [*ends, size], strict=True))


def _digits(key: tf.Tensor, floor: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    """The digit of each key among those from `floor` upwards; `_OUTSIDE` of the others."""
    key = tf.bitwise.bitwise_and(key, _NOT_THE_SIGN)
    # Unsigned, what is below the floor is far above it: one comparison instead of two.
    above = tf.bitcast(key - floor, tf.uint32)
    digit = tf.bitwise.right_shift(above, tf.cast(shift, tf.uint32))
    return tf.bitcast(tf.minimum(digit, tf.constant(_OUTSIDE, tf.uint32)), tf.int32)


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
    return _found(keys, tensors[count:], spare_memory)


def _found(
    keys: Sequence[tf.Tensor], ks: Sequence[tf.Tensor], spare_memory: bool = False
) -> list[Threshold]:
    if spare_memory or not _on_cpu_kernels():
        return _by_three_histograms(keys, ks, spare_memory)
    return _by_candidates(keys, ks)


def _on_cpu_kernels() -> bool:
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
    digits = list(map(_upper_bits, keys))
    counts = tf.add_n([_bincount(digit, _OUTSIDE) for digit in digits])
    found = []
    for k in ks:
        digit, rank = _digit_of_kth(counts, k)
        candidates = [
            _with_digit(key, each, digit)
            for key, each in zip(keys, digits, strict=True)
        ]
        found.append(_kth_candidate(candidates, rank))
    return found


def _upper_bits(key: tf.Tensor) -> tf.Tensor:
    return tf.bitwise.right_shift(key, _CANDIDATES_SHIFT)


def _digit_of_kth(counts: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The upper bits of the k-th largest key, and its rank among those that have them."""
    at_or_above = tf.cumsum(counts, reverse=True)
    digit = tf.reduce_sum(tf.cast(at_or_above >= k, tf.int32)) - 1
    digit = tf.maximum(digit, 0)  # also where there are no keys at all
    return digit, k - (tf.gather(at_or_above, digit) - tf.gather(counts, digit))


def _with_digit(key: tf.Tensor, digits: tf.Tensor, digit: tf.Tensor) -> tf.Tensor:
    return tf.gather(key, tf.reshape(tf.where(tf.equal(digits, digit)), [-1]))


def _kth_candidate(parts: Sequence[tf.Tensor], rank: tf.Tensor) -> Threshold:
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
        largest_digit = tf.where(shift < _FIRST_SHIFT, _OUTSIDE - 1, _FIRST_DIGITS - 1)
        narrowed = []
        for floor, rank, _ in found:
            parts = [histogram(key, floor, shift) for key in keys]
            counts = (tf.add_n(parts) if len(parts) > 1 else parts[0])[:_OUTSIDE]
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


def at_or_above(keys: Sequence[tf.Tensor], threshold: Threshold) -> list[tf.Tensor]:
    """Masks of exactly the keys that a threshold was found for."""
    masks = _reaching(*threshold, *keys)
    for mask, key in zip(masks, keys, strict=True):
        mask.set_shape(key.shape)
    return masks


@trace_once
def _reaching(
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
    found = _found(keys, [kept_forward, kept_backward])
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
        in_parts=any(size is not None and size > 2 * _PART for size in sizes),
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
    if in_parts and _on_cpu_kernels():
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
    return [*shaped, largest <= _INFINITY_KEY]


def _nested_in_parts(
    flat: Sequence[tf.Tensor], kept_forward: tf.Tensor, kept_backward: tf.Tensor
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """`_nested_codes` of magnitudes, part by part: two bytes an entry in place of twelve.

    Keys are made anew in each of three passes, which takes less time than to fetch them.
    """

    def counted(part: tf.Tensor) -> list[tf.Tensor]:
        key = magnitude_keys(part)
        return [_bincount(_upper_bits(key), _OUTSIDE), tf.reduce_max(key)]

    counts, largest = zip(
        *(found for x in flat for found in map_in_chunks(counted, x)), strict=True
    )
    ranked = [_digit_of_kth(tf.add_n(counts), k) for k in (kept_forward, kept_backward)]

    def candidates_of(part: tf.Tensor) -> list[tf.Tensor]:
        key = magnitude_keys(part)
        digits = _upper_bits(key)
        return [_with_digit(key, digits, digit) for digit, _ in ranked]

    candidates = zip(
        *(found for x in flat for found in map_in_chunks(candidates_of, x)), strict=True
    )
    forward, backward = (
        _kth_candidate(parts, rank)
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
