"""What all plots share: panels side by side with a grid, bands over seeds, files."""

import io
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from launch.plots.colours import GRID, INK, ON_BLACK, SERIES, Style

DOTS_PER_INCH = 120
WIDTH, HEIGHT = 4.6, 3.1
"""Of a panel of a page in inches; its text is legible on a narrow screen."""
STEPS = (1, 2, 2.5, 5, 10)
"""Distances of the ticks of an axis, times a power of ten."""
_FEW, _MANY = 3, 100
"""Ratio of values from which an axis is logarithmic, and has labels of powers alone."""
_STYLE = {
    "font.size": 10,
    "font.family": ["DejaVu Sans"],
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    # Text stays text, in the font of the page.
    "svg.fonttype": "none",
    "svg.hashsalt": "launch.plots",
}


def panels(
    count: int = 1, size: tuple[float, float] = (6, 3.6), *, same_y: bool = False
) -> tuple[Any, list[Any]]:
    """A figure, and its panels from left to right, with grids.

    Args:
      count: number of panels.
      size: width and height of each, in inches.
      same_y: whether all have the y axis of the first.
    """
    # When something is drawn, and not before: it takes a second.
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    width, height = size
    with plt.rc_context({**_STYLE, "axes.prop_cycle": plt.cycler(color=SERIES)}):
        figure, axes = plt.subplots(
            1,
            count,
            figsize=(width * count, height),
            sharey=same_y,
            layout="constrained",
            squeeze=False,
        )
    for each in axes[0]:
        each.grid(color=GRID)
    return figure, list(axes[0])


def band(
    axes: Any,
    x: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    color: Any,
) -> None:
    """The range over seeds: between two lines, or at a single point a stroke."""
    if len(x) > 1:
        axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
    else:
        axes.vlines(x, low, high, color=color, lw=1)


def powers(axes: Any, name: str, values: Sequence[float]) -> None:
    """Makes an axis logarithmic if its values differ by much, with short labels.

    Args:
      axes: the panel.
      name: of the axis, `x` or `y`.
      values: all that are drawn; an axis with one that is not above 0 stays linear.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = min(values), max(values)
    if low <= 0 or high < _FEW * low:
        return
    getattr(axes, f"set_{name}scale")("log")
    axis = getattr(axes, f"{name}axis")
    # Between powers of ten only as many as can stand side by side.
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < _MANY * low else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: magnitude(value)))


def magnitude(value: float) -> str:
    """A number with a decimal unit where it is large.

    >>> magnitude(20000.0), magnitude(3e12), magnitude(0.05), magnitude(5e3)
    ('20 k', '3 T', '0.05', '5000')
    """
    for power, unit in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        # From ten thousand on; smaller ones are as short without a unit.
        if abs(value) >= max(10**power, 10**4):
            return f"{value / 10**power:.3g} {unit}"
    return f"{value:.4g}"


def save(figure: Any, path: str | pathlib.Path) -> pathlib.Path:
    """Writes a figure as it is, and frees it."""
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(figure)
    return pathlib.Path(path)


class Entry(NamedTuple):
    """One entry of a legend.

    Attributes:
      label: its text.
      style: of its line.
      opacity: of the area, if it is of bars and not of a line; else None.
    """

    label: str
    style: Style
    opacity: float | None = None


def legend_of(figure: Any) -> list[Entry]:
    """The entries of the legend that a figure would have, each label once."""
    from matplotlib.colors import to_hex
    from matplotlib.lines import Line2D

    found = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if isinstance(handle, Line2D):
                marker = str(handle.get_marker())
                colour = to_hex(handle.get_color())
                style = Style(colour, marker, str(handle.get_linestyle()))
                found.setdefault(label, Entry(label, style))
            else:
                patch = getattr(handle, "patches", [handle])[0]
                style = Style(to_hex(patch.get_facecolor()))
                opacity = patch.get_alpha() or 1.0
                found.setdefault(label, Entry(label, style, opacity))
    return list(found.values())


def png(figure: Any) -> bytes:
    """A figure as a PNG with its legend below the panels; frees the figure."""
    import matplotlib.pyplot as plt

    _add_legend(figure)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DOTS_PER_INCH)
    plt.close(figure)
    return out.getvalue()


def _add_legend(figure: Any) -> None:
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        made = figure.legend(
            found.values(),
            found.keys(),
            loc="outside lower center",
            ncols=min(3, len(found)),
            fontsize=8,
            frameon=False,
        )
        plain(made)


def plain(legend: Any) -> None:
    """Shows the labels of a legend as they are: flags and names may have a `$`."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def svg(figure: Any, name: str) -> str:
    """A figure as an SVG element of a page, whose colours follow those of the page.

    Each colour of `launch.plots.colours` becomes a variable, such as `var(--c0072b2)`,
    which the page defines for white and black; see `variables`.

    Args:
      figure: drawn with those colours; it is not changed.
      name: of letters, digits and hyphens; the ids in the element begin with it, so that
        those of several elements do not collide.
    """
    import matplotlib.pyplot as plt

    out = io.StringIO()
    with plt.rc_context(_STYLE):
        figure.savefig(
            out,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r' (xmlns(:\w+)?|version)="[^"]*"', "", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    # The page sets the font.
    text = re.sub(r"font: ([^;\"]*?)px [^;\"]*", r"font-size: \1px", text)
    for colour in ON_BLACK:
        text = re.sub(colour, f"var({variable(colour)})", text, flags=re.I)
    return text.strip()


def variable(colour: str) -> str:
    """The name of the variable of a colour.

    >>> variable("#0072b2")
    '--c0072b2'
    """
    return f"--c{colour[1:]}"


def variables(is_black: bool) -> str:
    """The definitions of all colours on a white or a black page, in CSS."""
    return "".join(
        f"{variable(colour)}:{other if is_black else colour};"
        for colour, other in ON_BLACK.items()
    )
