"""The colours of all plots, legible on white and on black and to the colour-blind."""

from typing import Any, NamedTuple

INK, GRID = "#1f2328", "#d5d9de"
"""Text and axes; lines of the grid."""
NEUTRAL = "#5a6068"
"""What others are compared with, such as a dense network."""
SERIES = ("#0072b2", "#d55e00", "#008a65", "#b0558f", "#a67c00")
"""Lines and bars, told apart by colour, then by marker and dashes."""
FORWARD, BACKWARD, RESERVOIR = "#005ab5", "#b87a00", "#7d848c"
"""The sets A, B \\ A and C; as in `launch.plots.sets`, but darker, for lines."""
SEQUENTIAL = "cividis"
"""The colour map of magnitudes: its order is that of its brightness."""

ON_BLACK = {
    INK: "#e6e8eb",
    GRID: "#3a4048",
    NEUTRAL: "#a9b1ba",
    **dict(
        zip(
            SERIES, ("#5ab0ea", "#ff8f52", "#3fcfa0", "#e59ac9", "#e0bc4a"), strict=True
        )
    ),
    FORWARD: "#62a8f5",
    BACKWARD: "#ffb000",
    RESERVOIR: "#9aa1a9",
}
"""Each colour above -> the one that takes its place on a black page."""
_MARKERS = ("o", "s", "^", "D", "v")
_DASHES = ("-", "--", ":", "-.")


class Style(NamedTuple):
    """How a series is drawn.

    Attributes:
      colour: a key of `ON_BLACK`.
      marker: of its points.
      dashes: of its line.
    """

    colour: str
    marker: str = "o"
    dashes: str = "-"

    @property
    def of_lines(self) -> dict[str, Any]:
        """Arguments of matplotlib's `plot`."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": self.dashes,
            "markersize": 4,
            "linewidth": 1.6,
        }


def style_of(number: int) -> Style:
    """The style of one of many series; no two of the first twenty are equal.

    >>> style_of(0) == style_of(5), style_of(0).colour == style_of(5).colour
    (False, True)
    """
    rounds, place = divmod(number, len(SERIES))
    return Style(
        SERIES[place],
        _MARKERS[(place + rounds) % len(_MARKERS)],
        _DASHES[rounds % len(_DASHES)],
    )
