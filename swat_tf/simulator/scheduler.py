"""How many cycles sets of rows take: bounded look-ahead, or ideal packing.

A vector of an operand is a sequence of lines of as many values as a multiplier group has
lanes. A set holds the vectors of the rows that share a stream of the other operand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

MOST_LANES = 64
"""Lanes of a line that fit the bits of one integer."""


def packed_lines(values: np.ndarray) -> np.ndarray:
    """Lines as integers: bit i is set if lane i has a value other than zero.

    Args:
      values: of shape (..., lanes) with 1 to 64 lanes; any dtype.

    Returns:
      Unsigned integers of shape (...).

    >>> packed_lines(np.array([[0, 1, 0], [2, 0, 3]]))
    array([2, 5], dtype=uint16)
    """
    lanes = values.shape[-1]
    bits = next(size for size in (16, 32, 64) if lanes <= size)
    packed = np.packbits(values != 0, axis=-1, bitorder="little")
    padding = [(0, 0)] * (packed.ndim - 1) + [(0, bits // 8 - packed.shape[-1])]
    whole = np.ascontiguousarray(np.pad(packed, padding))
    return whole.view(f"<u{bits // 8}")[..., 0]


def ideal_cycles(counts: np.ndarray, lanes: int) -> np.ndarray:
    r"""Cycles of sets whose rows pack their values without gaps.

    ``max over rows of ceil(values / lanes)``

    Args:
      counts: values other than zero, (sets, rows).
      lanes: multipliers of a row.

    Returns:
      Cycles of each set.

    >>> ideal_cycles(np.array([[5, 9], [0, 3]]), 4)
    array([3, 1])

    Source: `ideal_compute_cycles` of DNNsim's TensorDash.
    """
    return (-(-counts // lanes)).max(axis=-1)


def window_cycles(
    products: Sequence[np.ndarray],
    lanes: int,
    places: Sequence[tuple[int, int]],
    advanced: Callable[[int, int], None] = lambda *_: None,
) -> list[np.ndarray]:
    """Cycles of sets behind look-ahead and look-aside.

    Lines are computed in order. A line that is zero in every row of its set is left out,
    at most h in a row, h the depth of the places. Otherwise each row fills the zeros of
    the line: of the lanes that are zero, that with the most candidates takes the first
    one in the order of `places`, and leaves its zero there. This repeats until no zero
    has a candidate. A set takes at least ceil(lines / (h + 1)) cycles, as h + 1 lines
    is all that its buffer takes in at a time.

    Args:
      products: for each one, its sets: (sets, rows, lines) of `packed_lines`. All have
        the same rows; they are computed together only because that is faster.
      lanes: of a line, 1 to 64.
      places: of `search_space`; none: nothing is skipped.
      advanced: called with (lines done, all lines), to show progress.

    Returns:
      For each product, the cycles of each of its sets.

    One row of one lane. Line 0 takes the value of line 1, line 1 is left out:

    >>> lines = np.array([[[0, 1, 0, 1]]], np.uint16)
    >>> window_cycles([lines], 1, [(1, 0)])
    [array([2])]

    Source: the scheduler of DNNsim's BitTactical and TensorDash. **Most candidates
    first** is what that code does; the comment in it says "less flexible candidates
    first", the other way round. Ties go to the lowest lane. Departs from it in the least
    number of cycles: there the lines that are left out at the end of a vector can be
    more than the buffer takes in.
    """
    lengths = np.concatenate(
        [np.full(len(each), each.shape[-1]) for each in products]
    ).astype(np.int64)
    # Nothing is further ahead than the longest set is long.
    most = int(lengths.max(initial=0))
    places = [(time, lane) for time, lane in places if time < most]
    depth = max((time for time, _ in places), default=0)
    buffer, place_of = _buffer(products, lengths, depth)
    cycles = np.zeros(len(lengths), np.int64)
    skipped = np.zeros(len(lengths), np.int64)
    running = np.sort(lengths)
    for now in range(most):
        # The longest sets come first, so those that still run are at the front.
        open_sets = len(lengths) - int(np.searchsorted(running, now, side="right"))
        here = slice(0, open_sets)
        is_zero = ~buffer[now, here].any(axis=-1)
        left_out = is_zero & (skipped[here] < depth)
        skipped[here] = np.where(left_out, skipped[here] + 1, 0)
        cycles[here] += ~left_out
        if depth:
            _fill(buffer[now : now + depth + 1, here], ~left_out, lanes, places)
        advanced(now + 1, most)
    found = np.maximum(cycles[place_of], -(-lengths // (depth + 1)))
    return np.split(found, np.cumsum([len(each) for each in products])[:-1])


def _buffer(
    products: Sequence[np.ndarray], lengths: np.ndarray, depth: int
) -> tuple[np.ndarray, np.ndarray]:
    """All sets line by line, the longest first, and the place of each set in it.

    After the last line of a set there are zeros, which are no candidates.
    """
    order = np.argsort(-lengths, kind="stable")
    place_of = np.empty_like(order)
    place_of[order] = np.arange(len(order))
    first = products[0]
    shape = (int(lengths.max(initial=0)) + depth, len(lengths), first.shape[1])
    buffer = np.zeros(shape, first.dtype)
    begin = 0
    for each in products:
        own = place_of[begin : begin + len(each)]
        buffer[: each.shape[-1], own] = np.moveaxis(each, -1, 0)
        begin += len(each)
    return buffer, place_of


def _fill(
    window: np.ndarray,
    computed: np.ndarray,
    lanes: int,
    places: Sequence[tuple[int, int]],
) -> None:
    """Moves values into the zeros of the first line of each window, in place.

    Lanes are bits, so that one operation on an integer is one on all lanes of a row.
    """
    full = window.dtype.type((1 << lanes) - 1)
    at = np.nonzero(computed[:, None] & (window[0] != full))
    rows = [line[at] for line in window]
    # Rows whose zeros have no candidate left are taken out when they are many.
    alive = np.arange(len(at[0]))
    part = rows
    while alive.size:
        candidates = [_turned(part[time], lane, lanes) for time, lane in places]
        chosen = _most_candidates(~part[0] & full, candidates)
        moving = chosen != 0
        count = int(np.count_nonzero(moving))
        if 2 * count < alive.size:
            for line, own in zip(rows, part, strict=True):
                line[alive] = own
            alive, chosen = alive[moving], chosen[moving]
            part = [own[moving] for own in part]
            candidates = [each[moving] for each in candidates]
        if not count:
            break
        part[0] = part[0] | chosen
        for (time, lane), found in zip(places, candidates, strict=True):
            taken = chosen & found
            chosen = chosen ^ taken
            part[time] = part[time] ^ _turned(taken, -lane, lanes)
    for line, own in zip(window, rows, strict=True):
        line[at] = own


def _turned(line: np.ndarray, lanes_aside: int, lanes: int) -> np.ndarray:
    """Lane i of the result is lane i + `lanes_aside` of the line; lanes wrap around."""
    shift = lanes_aside % lanes
    if not shift:
        return line
    full = line.dtype.type((1 << lanes) - 1)
    kind = line.dtype.type
    return (line >> kind(shift)) | ((line << kind(lanes - shift)) & full)


def _most_candidates(zeros: np.ndarray, candidates: Sequence[np.ndarray]) -> np.ndarray:
    """The bit of the lowest zero lane that has the most candidates; 0 without any."""
    # Planes of a binary counter for each lane: plane k has bit k of its count.
    planes: list[np.ndarray] = []
    for carry in candidates:
        for place, plane in enumerate(planes):
            planes[place], carry = plane ^ carry, plane & carry
        planes.append(carry)
        # A counter of n candidates needs no plane that they cannot reach.
        if len(planes) > len(candidates).bit_length():
            planes.pop()
    counted = planes[0].copy()
    for plane in planes[1:]:
        counted |= plane
    best = zeros & counted
    for plane in reversed(planes):
        narrowed = best & plane
        best = np.where(narrowed != 0, narrowed, best)
    return best & (~best + best.dtype.type(1))
