"""The sections on a sweep: its table, the metric over costs, its flags, its machines."""

import pathlib
import shlex
import statistics
from collections.abc import Sequence

from launch.plots import pareto
from launch.reports import markup, of_setting
from launch.reports.inputs import Inputs
from launch.reports.markup import runs_text
from launch.reports.pictures import Pictures
from launch.reports.records import number
from launch.storage import environment
from launch.support.errors import UserError
from launch.sweeps import report
from launch.sweeps.cells import cells, over_dense
from launch.sweeps.metrics import metric_of
from launch.sweeps.results import KEY, Row
from launch.sweeps.runs import name_of


def sections(
    inputs: Inputs, asked: str | None, baseline: str | None, pictures: Pictures
) -> list[str]:
    """The sections on a sweep.

    Args:
      inputs: with the rows of the CSV.
      asked: the column that is compared; None: by the columns that there are.
      baseline: the variant that the table compares with; None: the dense network, or
        the first one.
      pictures: takes the figures.

    Raises:
      UserError: for a column or a variant that the CSV does not have.
    """
    rows = over_dense(inputs.rows)
    text = (*KEY, "method", "arguments")
    columns = dict.fromkeys(name for row in rows for name in row)
    names = [name for name in columns if name not in text]
    metric = asked or metric_of(rows[0])
    if metric is None or metric not in names:
        raise UserError(
            f"Expected --metric to be one of {', '.join(names)}. Received: {metric}"
        )
    return [
        _results(rows, metric, baseline),
        _tradeoffs(rows, metric, pictures),
        _flags(rows),
        _environments(rows, (inputs.sweep or pathlib.Path()).parent),
    ]


def _results(rows: Sequence[Row], metric: str, baseline: str | None) -> str:
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    base = baseline or ("dense" if "dense" in variants else variants[0])
    # A CSV is in the order in which the runs ended.
    ordered = sorted(
        rows,
        key=lambda row: (
            row["variant"] != base,
            variants.index(row["variant"]),
            number(row["sparsity"]),
        ),
    )
    lines = report.table_rows(ordered, metric, base)
    seeds = {row["seed"] for row in rows}
    spread = ": mean ± standard deviation over seeds" if len(seeds) > 1 else ""
    caption = f"{runs_text(len(rows))}{spread}"
    return markup.section(
        "results", "Results", [markup.table(lines, caption, left=(0, 1))]
    )


def _tradeoffs(rows: Sequence[Row], metric: str, pictures: Pictures) -> str:
    found = cells(rows, metric)
    means = [
        (statistics.fmean(cell.values.values()), cell) for cell in found if cell.values
    ]
    figures = []
    # Runs that have all diverged leave nothing to draw.
    for cost, label in pareto.COSTS if means else ():
        figure = pareto.panel(found, metric, cost)
        if figure is None:
            continue
        best = max if metric.endswith("accuracy") else min
        value, cell = best(means, key=lambda pair: pair[0])
        alt = (
            f"{metric} over {label} of {len(found)} variants and sparsities; best "
            f"{cell.variant} {cell.sparsity} with {value:.4g}; the table has the numbers."
        )
        figures.append(pictures.drawn(figure, f"pareto-{cost.replace('_', '-')}", alt))
    if not figures:
        sentence = "No run of this table has a finite metric and a cost."
        body = [markup.paragraph(sentence)]
    else:
        note = "A point is a variant at a sparsity."
        if any(len(cell.values) > 1 for cell in found):
            note += " It is the mean over seeds; bands are their range."
        body = [
            pictures.legend(),
            markup.grid(figures),
            markup.paragraph(note, "note"),
        ]
    return markup.section("tradeoffs", "Accuracy or loss over costs", body)


def _flags(rows: Sequence[Row]) -> str:
    """The flags of the first run of each variant, but for those of all runs."""
    by_variant: dict[str, list[str]] = {}
    for row in rows:
        by_variant.setdefault(row["variant"], _split(row["arguments"]))
    shared = [
        flag
        for flag in next(iter(by_variant.values()))
        if all(flag in flags for flags in by_variant.values())
    ]
    shared = [flag for flag in shared if not flag.startswith("--seed")]
    lines = [("variant", "flags of its first run")]
    for variant, flags in by_variant.items():
        own = [f for f in flags if f not in shared and not f.startswith("--seed")]
        lines.append((variant, " ".join(own)))
    common = [("flag", "value")]
    common += [(name, value) for name, _, value in (f.partition("=") for f in shared)]
    parts = [markup.table(lines, "Flags of each variant", left=(0, 1))]
    if len(common) > 1:
        table = markup.table(common, "Flags of all runs", left=(0, 1))
        parts.append(markup.folded(f"{len(common) - 1} flags of all runs", table))
    return markup.section("flags", "Flags", parts)


def _split(arguments: str) -> list[str]:
    """The arguments of a run, without paths, which say nothing of a result."""
    try:
        found = shlex.split(arguments)
    except ValueError:
        found = arguments.split()
    return [
        f for f in found if not f.lstrip("-").startswith(("data_dir", "text_cache"))
    ]


def _environments(rows: Sequence[Row], folder: pathlib.Path) -> str:
    names = [name_of(row[part] for part in KEY) for row in rows]
    return of_setting.environments(
        (name, environment.recorded(folder / name)) for name in names
    )
