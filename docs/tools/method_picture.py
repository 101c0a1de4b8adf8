"""A picture of the steps of a method: what is zero in each product, and what is updated."""

from collections.abc import Iterator, Sequence

import numpy as np

from docs.tools.method_steps import EXAMPLES, INPUTS, OUTPUTS, Step

IN_A, OUTSIDE_A, OPERAND, EMPTY = "#005ab5", "#e0a23c", "#5a6068", "#e8eaee"
INK, PAPER = "#1f2328", "#ffffff"
PRODUCTS = ("forward", "input gradient", "weight gradient", "update")
_CELL, _GAP, _BETWEEN, _MARGIN, _LABEL, _HEAD = 9, 4, 30, 12, 74, 38
_WIDE = _CELL + _GAP + OUTPUTS * _CELL
_HIGH = INPUTS * _CELL + _GAP + _CELL
_LEGEND = (
    (IN_A, "entry of A"),
    (OUTSIDE_A, "other entry"),
    (OPERAND, "activation, error"),
    (EMPTY, "zero, or left as it is"),
)


def svg(name: str, steps: Sequence[Step], last: int) -> str:
    """The picture, one row for each step.

    Args:
      name: the method's.
      steps: at least one.
      last: the number of the last step of the run.
    """
    width = 2 * _MARGIN + _LABEL + 4 * _WIDE + 3 * _BETWEEN
    height = _HEAD + len(steps) * (_HIGH + 26) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="system-ui, sans-serif" '
        f'font-size="12" fill="{INK}">',
        f"<title>{name}: zeros in the products of a step</title>",
        f'<rect width="{width}" height="{height}" rx="6" fill="{PAPER}"/>',
    ]
    for column, product in enumerate(PRODUCTS):
        x = _left(column) + _WIDE / 2
        parts.append(f'<text x="{x:g}" y="22" text-anchor="middle">{product}</text>')
    for row, step in enumerate(steps):
        top = _HEAD + row * (_HIGH + 26)
        until = steps[row + 1].number - 1 if row + 1 < len(steps) else last
        same = f"–{until}" if len(steps) == 1 and until > step.number else ""
        parts.append(
            f'<text x="{_MARGIN}" y="{top + 12}">step {step.number}{same}</text>'
        )
        parts += _row(step, top)
    parts += _legend(height - 14)
    return "\n".join([*parts, "</svg>", ""])


def _left(column: int) -> int:
    return _MARGIN + _LABEL + column * (_WIDE + _BETWEEN)


def _row(step: Step, top: int) -> Iterator[str]:
    a, all_inputs = step.forward, np.ones(INPUTS, bool)
    panels = (
        (step.forward, all_inputs, step.outputs[0], ("x", "y")),
        (step.forward, all_inputs, step.errors[0], ("dx", "dy")),
        (step.gradient, step.activations[0], step.errors[0], ("x", "dy")),
        (step.changed, None, None, ("", "")),
    )
    for column, (entries, down, across, names) in enumerate(panels):
        left = _left(column)
        matrix = left + _CELL + _GAP
        yield _cells(entries & a, matrix, top, IN_A)
        yield _cells(entries & ~a, matrix, top, OUTSIDE_A)
        yield _cells(~entries, matrix, top, EMPTY)
        if down is None:
            continue
        bottom = top + INPUTS * _CELL + _GAP
        for used, colour in ((True, OPERAND), (False, EMPTY)):
            yield _cells((down == used)[:, None], left, top, colour)
            yield _cells((across == used)[None], matrix, bottom, colour)
        yield (
            f'<text x="{left - 3}" y="{top + 9}" text-anchor="end" '
            f'font-size="10">{names[0]}</text>'
        )
        yield (
            f'<text x="{matrix - 4}" y="{bottom + 8}" text-anchor="end" '
            f'font-size="10">{names[1]}</text>'
        )


def _cells(where: np.ndarray, left: int, top: int, colour: str) -> str:
    """A square for each true entry, in one path."""
    side = _CELL - 1
    path = "".join(
        f"M{left + column * _CELL} {top + row * _CELL}h{side}v{side}h-{side}z"
        for row, column in zip(*np.nonzero(where), strict=True)
    )
    return f'<path fill="{colour}" d="{path}"/>' if path else ""


def _legend(y: int) -> Iterator[str]:
    x = _MARGIN
    for colour, meaning in _LEGEND:
        yield f'<path fill="{colour}" d="M{x} {y - 8}h8v8h-8z"/>'
        yield f'<text x="{x + 13}" y="{y}" font-size="11">{meaning}</text>'
        x += 28 + 6 * len(meaning)


ABOUT = (
    f"A layer of {INPUTS} inputs (down) and {OUTPUTS} outputs (across) in a short run; of "
    f"the {EXAMPLES} examples of a batch, the strips show the first."
)
