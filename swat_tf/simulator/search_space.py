"""The places from which a lane may take a value: look-ahead and look-aside."""

from __future__ import annotations

SHAPES = ("T", "L")


def search_space(look_ahead: int, look_aside: int, shape: str) -> list[tuple[int, int]]:
    """The places that a multiplier can take a value from, besides its own.

    ``L``: (+1..h, 0), and (+1, -1..-d).
    ``T``: (+1..h, 0), and d places (+1, +1), (+1, -1), (+2, +2), (+2, -2), (+3, +3), ...
    whose time starts again at +1 after +h.

    Args:
      look_ahead: h, lines ahead of the one that is computed, at least 0.
      look_aside: d, places in other lanes, at least 0; 0 if h is 0.
      shape: ``"T"`` or ``"L"``.

    Returns:
      (lines ahead, lanes aside) of each place, sorted, the order in which the scheduler
      looks. Lanes wrap around.

    >>> search_space(2, 5, "T")
    [(1, -1), (1, 0), (1, 1), (1, 3), (2, -2), (2, 0), (2, 2)]

    Source: Bit-Tactical (ASPLOS 2019) as in its authors' simulator DNNsim; with h = 2 and
    d = 5, T is the published interconnect of TensorDash (MICRO 2020): with the lane's own
    value, 8 inputs of each multiplier.
    """
    ahead = [(time, 0) for time in range(1, look_ahead + 1)]
    if shape == "L":
        return sorted([*ahead, *((1, -lane) for lane in range(1, look_aside + 1))])
    aside = []
    for place in range(look_aside):
        pair, is_left = divmod(place, 2)
        lane = pair + 1
        aside.append((pair % look_ahead + 1, -lane if is_left else lane))
    return sorted([*ahead, *aside])
