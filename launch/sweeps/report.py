"""What comes of a sweep: a plot of the metric over costs, and tables for a paper."""

import math
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from launch.support.errors import UserError
from launch.sweeps.results import Row
from launch.sweeps.running import metric_of

COSTS = (
    ("training_flops_ratio", "counted training FLOPs over dense"),
    ("kept_parameters", "kept parameters"),
    ("seconds", "measured seconds of training"),
)
"""Column of a cost -> what stands beside its axis."""


class Cell(NamedTuple):
    """The runs of a variant at a sparsity.

    Attributes:
      variant: its name.
      sparsity: as text; empty for a variant that has none.
      values: seed -> the metric, of runs that did not diverge.
      lost: how many runs have no finite metric.
      rows: all of them.
    """

    variant: str
    sparsity: str
    values: dict[str, float]
    lost: int
    rows: list[Row]


def cells(rows: Sequence[Row], metric: str) -> list[Cell]:
    """The rows by variant and sparsity, in the order of the CSV."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["variant"], row["sparsity"]), []).append(row)
    made = []
    for (variant, sparsity), own in found.items():
        values = {row["seed"]: _number(row.get(metric)) for row in own}
        finite = {seed: v for seed, v in values.items() if math.isfinite(v)}
        made.append(Cell(variant, sparsity, finite, len(own) - len(finite), own))
    return made


def paired(cell: Cell, baseline: Cell) -> list[float]:
    """The differences to a baseline, seed by seed, of the seeds that both have."""
    shared = [seed for seed in cell.values if seed in baseline.values]
    return [cell.values[seed] - baseline.values[seed] for seed in shared]


def table_rows(
    rows: Sequence[Row], metric: str, baseline: str
) -> tuple[tuple[str, ...], ...]:
    """A header and one row for each variant and sparsity.

    Each has the mean and the standard deviation over seeds, and of the differences to the
    baseline with the same seed: at the same sparsity, or the baseline that has none.
    """
    found = cells(rows, metric)
    bases = {cell.sparsity: cell for cell in found if cell.variant == baseline}
    if not bases:
        names = ", ".join(dict.fromkeys(cell.variant for cell in found))
        raise UserError(
            f"Expected --baseline to be one of {names}. Received: {baseline!r}"
        )
    factor, unit = (100, " (%)") if metric.endswith("accuracy") else (1, "")
    head = (
        *("variant", "sparsity", "seeds", f"{metric}{unit}"),
        *(f"to {baseline}", "training FLOPs", "kept", "seconds"),
    )
    lines = [head]
    for cell in found:
        base = bases.get(cell.sparsity, bases.get(""))
        difference = ""
        if base is not None and base is not cell:
            difference = _spread(paired(cell, base), factor, signed=True)
        lines.append(
            (
                cell.variant,
                cell.sparsity,
                f"{len(cell.values)}" + (f" ({cell.lost} lost)" if cell.lost else ""),
                _spread(list(cell.values.values()), factor),
                difference,
                _mean_of(cell, "training_flops_ratio", "{:.3f}"),
                _mean_of(cell, "kept_parameters", "{:,.0f}"),
                _mean_of(cell, "seconds", "{:,.0f}"),
            )
        )
    return tuple(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown.

    >>> print(markdown([("a", "b"), ("1", "2")]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body])


def latex(lines: Sequence[Sequence[str]]) -> str:
    """A table in LaTeX, for the package booktabs."""

    def row(line: Sequence[str]) -> str:
        return " & ".join(map(_escaped, line)) + r" \\"

    head, *body = lines
    return "\n".join(
        [
            rf"\begin{{tabular}}{{ll{'r' * (len(head) - 2)}}}",
            r"\toprule",
            row(head),
            r"\midrule",
            *map(row, body),
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _escaped(text: str) -> str:
    for sign in "&%_#":
        text = text.replace(sign, "\\" + sign)
    return text.replace("±", r"$\pm$")


def draw(rows: Sequence[Row], metric: str, path: pathlib.Path) -> None:
    """The metric over three costs: a line a variant over sparsities, a band over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(COSTS), figsize=(13, 4.2), sharey=True)
    found = cells(rows, metric)
    variants = list(dict.fromkeys(cell.variant for cell in found))
    factor = 100 if metric.endswith("accuracy") else 1
    colours = plt.get_cmap("tab20")
    for axes, (cost, label) in zip(panels, COSTS, strict=True):
        for number, variant in enumerate(variants):
            points = sorted(
                (_mean(each, cost), [factor * v for v in each.values.values()])
                for each in found
                if each.variant == variant and each.values
            )
            points = [point for point in points if math.isfinite(point[0])]
            if not points:
                continue
            x = [at for at, _ in points]
            colour = colours(number % 20)
            means = [statistics.fmean(values) for _, values in points]
            marker = "o" if number < 20 else "s"
            axes.plot(
                x, means, marker=marker, ms=4, lw=1.2, color=colour, label=variant
            )
            low, high = ([f(values) for _, values in points] for f in (min, max))
            if len(points) > 1:
                axes.fill_between(x, low, high, color=colour, alpha=0.15)
            else:
                axes.vlines(x, low, high, color=colour, lw=1)
        axes.set_xlabel(label)
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
    unit = " (%)" if factor == 100 else ""
    panels[0].set_ylabel(f"{metric.replace('_', ' ')}{unit}")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="center right", fontsize=8)
    figure.tight_layout(rect=(0, 0, 0.88, 1))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write(
    rows: Sequence[Row],
    folder: pathlib.Path,
    metric: str | None = None,
    baseline: str | None = None,
) -> str:
    """Writes pareto.png, table.md and table.tex; returns the table in Markdown.

    Args:
      rows: of the CSV.
      folder: where the files go.
      metric: a column; default by the columns that there are.
      baseline: a variant; default the first one.

    Raises:
      UserError: without rows, or for a metric or a baseline that they do not have.
    """
    if not rows:
        raise UserError("Expected runs that have ended. Received: a CSV without rows")
    metric = metric or metric_of(rows[0])
    if metric is None or metric not in rows[0]:
        raise UserError(
            f"Expected --metric to be one of {', '.join(rows[0])}. Received: {metric}"
        )
    lines = table_rows(rows, metric, baseline or rows[0]["variant"])
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(lines)
    (folder / "table.md").write_text(text + "\n", "utf-8")
    (folder / "table.tex").write_text(latex(lines) + "\n", "utf-8")
    draw(rows, metric, folder / "pareto.png")
    return text


def _spread(values: Sequence[float], factor: float, signed: bool = False) -> str:
    if not values:
        return "diverged"
    sign = "+" if signed else ""
    digits = 2 if factor == 100 else 4
    mean = format(factor * statistics.fmean(values), f"{sign}.{digits}f")
    if len(values) == 1:
        return mean
    return f"{mean} ± {factor * statistics.stdev(values):.{digits}f}"


def _mean_of(cell: Cell, column: str, form: str) -> str:
    mean = _mean(cell, column)
    return form.format(mean) if math.isfinite(mean) else ""


def _mean(cell: Cell, column: str) -> float:
    values = [_number(row.get(column)) for row in cell.rows]
    finite = [value for value in values if math.isfinite(value)]
    return statistics.fmean(finite) if finite else math.nan


def _number(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan
