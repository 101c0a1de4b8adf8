"""What comes of a sweep: a plot of the metric over costs, and tables for a paper."""

import math
import pathlib
import statistics
from collections.abc import Sequence

from launch.plots import pareto, variants
from launch.support.errors import UserError
from launch.sweeps.cells import RATIO, Cell, cells, mean_of, over_dense, paired
from launch.sweeps.metrics import factor_of, metric_of
from launch.sweeps.results import Row


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
    factor = factor_of(metric)
    unit = " (%)" if factor == 100 else ""
    head = (
        *("variant", "sparsity", "seeds", f"{metric}{unit}"),
        *(f"to {baseline}", "training FLOPs", "kept", "processor seconds"),
    )
    lines = [head]
    for cell in found:
        base = bases.get(cell.sparsity, bases.get(""))
        difference = ""
        if base is not None and base is not cell:
            difference = spread(paired(cell, base), factor, signed=True)
        lines.append(
            (
                cell.variant,
                cell.sparsity,
                f"{len(cell.values)}" + (f" ({cell.lost} lost)" if cell.lost else ""),
                spread(list(cell.values.values()), factor),
                difference,
                _shown_mean(cell, RATIO, "{:.3f}"),
                _shown_mean(cell, "kept_parameters", "{:,.0f}"),
                _shown_mean(cell, "processor_seconds", "{:,.0f}"),
            )
        )
    return tuple(lines)


def spread(values: Sequence[float], factor: float, signed: bool = False) -> str:
    """The mean and the standard deviation; of one value alone, the value.

    >>> spread([0.5, 0.7], 100), spread([0.5], 1, signed=True), spread([], 1)
    ('60.00 ± 14.14', '+0.5000', 'diverged')
    """
    if not values:
        return "diverged"
    sign = "+" if signed else ""
    digits = 2 if factor == 100 else 4
    mean = format(factor * statistics.fmean(values), f"{sign}.{digits}f")
    if len(values) == 1:
        return mean
    return f"{mean} ± {factor * statistics.stdev(values):.{digits}f}"


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


def write(
    rows: Sequence[Row],
    folder: pathlib.Path,
    metric: str | None = None,
    baseline: str | None = None,
) -> str:
    """Writes the plots and tables of a sweep; returns the table in Markdown.

    The files are pareto.png, variants.png, table.md and table.tex.

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
    rows = over_dense(rows)
    lines = table_rows(rows, metric, baseline or rows[0]["variant"])
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(lines)
    (folder / "table.md").write_text(text + "\n", "utf-8")
    (folder / "table.tex").write_text(latex(lines) + "\n", "utf-8")
    found = cells(rows, metric)
    pareto.draw(found, metric, folder / "pareto.png")
    variants.draw(found, metric, folder / "variants.png")
    return text


def _shown_mean(cell: Cell, column: str, form: str) -> str:
    mean = mean_of(cell, column)
    return form.format(mean) if math.isfinite(mean) else ""
