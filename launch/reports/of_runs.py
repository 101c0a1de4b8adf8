"""The sections on what runs have reached: the table of results, and the curves."""

import math
import statistics
from collections.abc import Callable, Sequence

from launch.cost_model.report import seconds_text
from launch.plots import curves
from launch.reports import markup
from launch.reports.groups import Group
from launch.reports.pictures import Pictures
from launch.reports.records import Row
from launch.support.errors import UserError
from launch.tasks.metrics import Metric, TaskMetrics

_COSTLY = (
    "Counted FLOPs are spread evenly over the steps of a run; a method that grows sparser "
    "takes more of them in its first steps."
)


def results(groups: Sequence[Group], metrics: TaskMetrics) -> str:
    """The table of results, one row for each group.

    Args:
      groups: the groups.
      metrics: of their data.
    """
    shown = metrics.metrics
    heads = ("runs", "seeds", "steps", *(metric.label for metric in shown))
    rows = [(*heads, "sparsity, forward / backward", "time")]
    for group in groups:
        steps = sorted({record.step for record in group.records})
        sparsities = (
            group.mean(f"{side}_sparsity") for side in ("forward", "backward")
        )
        seconds = group.mean("seconds")
        rows.append(
            (
                group.label,
                group.seeds,
                " to ".join(
                    f"{step:,}" for step in dict.fromkeys(steps[:1] + steps[-1:])
                ),
                *(_spread(group.final(metric.column), metric) for metric in shown),
                " / ".join(f"{value:.1%}" for value in sparsities if value is not None),
                "" if seconds is None else seconds_text(seconds),
            )
        )
    several = any(len(group.records) > 1 for group in groups)
    caption = "At the last evaluation" + (
        ": mean ± standard deviation over seeds" if several else ""
    )
    return markup.section(
        "results", "Results", [markup.table(rows, caption, left=(0, 1))]
    )


def column_of(
    groups: Sequence[Group], metrics: TaskMetrics, asked: str | None = None
) -> str | None:
    """The column of metrics.csv that is compared; None before the first evaluation.

    Args:
      groups: the groups.
      metrics: of their data.
      asked: another column than the first metric.

    Raises:
      UserError: for a column that no run has.
    """
    rows = [rec.rows[0] for group in groups for rec in group.records if rec.rows]
    names = dict.fromkeys(name for row in rows for name in row)
    if not names:
        return None
    usual = [metric.column for metric in metrics.metrics]
    # A table of another version may not have the first one.
    column = asked or next((name for name in usual if name in names), usual[0])
    if column not in names:
        raise UserError(
            f"Expected --metric to be one of {', '.join(names)}. Received: {column!r}"
        )
    return column


def training(
    groups: Sequence[Group],
    metrics: TaskMetrics,
    flops_a_step: dict[str, float | None],
    pictures: Pictures,
    column: str | None,
) -> str:
    """The curves: the metric over steps and costs, and the losses over steps.

    Args:
      groups: the groups.
      metrics: of their data.
      flops_a_step: label of a group -> its counted FLOPs of a step, if they are known.
      pictures: takes the figures.
      column: of `column_of`.
    """
    if column is None:
        sentence = "No run has been evaluated yet, so there are no curves."
        return markup.section("training", "Training", [markup.paragraph(sentence)])
    evaluated = [rec for group in groups for rec in group.records if rec.rows]
    made = _Curves(groups, metrics, pictures)
    parts = [made.figure(column, "step", "optimizer step", lambda row, _: row["step"])]
    if any(flops_a_step.values()):
        parts.append(
            made.figure(
                *(column, "flops", "counted training FLOPs"),
                lambda row, label: row["step"] * (flops_a_step[label] or math.nan),
                in_powers=True,
            )
        )
    parts.append(
        made.figure(
            column, "seconds", "seconds by the clock", lambda r, _: r["seconds"]
        )
    )
    if any("processor_seconds" in rec.rows[0] for rec in evaluated):
        parts.append(
            made.figure(
                *(column, "processor-seconds", "processor seconds"),
                lambda row, _: row.get("processor_seconds", math.nan),
            )
        )
    losses = [
        metric.column
        for metric in metrics.metrics
        if metric.column.endswith("_loss") and metric.column != column
    ]
    parts += [
        made.figure(loss, "step", "optimizer step", lambda row, _: row["step"])
        for loss in losses
    ]
    notes = [_COSTLY] if any(flops_a_step.values()) else []
    unknown = [label for label, count in flops_a_step.items() if not count]
    if unknown:
        notes.append(f"FLOPs are not known of: {', '.join(unknown)}.")
    if any(len(group.records) > 1 for group in groups):
        notes.append("Lines are means over seeds, bands the range of all seeds.")
    body = [
        pictures.legend(),
        markup.grid([part for part in parts if part]),
        markup.paragraph(" ".join(notes), "note") if notes else "",
        markup.folded("The numbers of the first chart", made.numbers(column)),
    ]
    return markup.section("training", "Training", body)


class _Curves:
    """The curves of groups."""

    def __init__(
        self, groups: Sequence[Group], metrics: TaskMetrics, pictures: Pictures
    ):
        self._groups = groups
        self._pictures = pictures
        self._metrics = {metric.column: metric for metric in metrics.metrics}

    def figure(
        self,
        column: str,
        name: str,
        x_label: str,
        x: Callable[[Row, str], float],
        *,
        in_powers: bool = False,
    ) -> str:
        """A figure as HTML; empty if there is nothing to draw.

        Args:
          column: of metrics.csv.
          name: of what it is drawn over, in that of the file.
          x_label: the same, beside the axis.
          x: of a row and the label of its group.
          in_powers: as for `curves.draw`.
        """
        label, factor = self._label(column)
        lines = [
            line
            for group in self._groups
            if (line := group.line(column, lambda r, g=group: x(r, g.label), factor))
        ]
        if not lines:
            return ""
        ends = "; ".join(f"{line.label} ends at {line.mean[-1]:.4g}" for line in lines)
        return self._pictures.drawn(
            curves.draw(lines, x_label, label, in_powers=in_powers),
            f"{column.replace('_', '-')}-over-{name}",
            f"{label} over {x_label}: {ends}.",
        )

    def numbers(self, column: str) -> str:
        """The values of a column at each evaluation, as a table."""
        _, factor = self._label(column)
        lines = [
            group.line(column, lambda r: r["step"], factor) for group in self._groups
        ]
        lines = [line for line in lines if line]
        steps = sorted({step for line in lines for step in line.x})
        rows = [("step", *(line.label for line in lines))]
        for step in steps:
            cells = []
            for line in lines:
                at = dict(zip(line.x, _points(line), strict=True))
                if step not in at:
                    cells.append("")
                elif line.has_band:
                    cells.append("{:.4g} ({:.4g} to {:.4g})".format(*at[step]))
                else:
                    cells.append(f"{at[step][0]:.4g}")
            rows.append((f"{step:,.0f}", *cells))
        return markup.table(rows, f"{self._label(column)[0]} at each evaluation")

    def _label(self, column: str) -> tuple[str, float]:
        """What stands beside the axis, and the factor to its unit."""
        metric = self._metrics.get(column)
        if metric is None:
            return column.replace("_", " "), 1.0
        if metric.higher_is_better:
            return f"{metric.label} (%)", 100.0
        return metric.label, 1.0


def _points(line: curves.Line) -> list[tuple[float, float, float]]:
    return list(zip(line.mean, line.low, line.high, strict=True))


def _spread(values: Sequence[float], metric: Metric) -> str:
    if not values:
        return ""
    mean = metric.shown(statistics.fmean(values))
    if len(values) == 1:
        return mean
    return f"{mean.removesuffix('%')} ± {metric.shown(statistics.stdev(values))}"
