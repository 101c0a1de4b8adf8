"""Runs that differ in nothing but the seed, as one group with means and ranges."""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence

from launch.plots.colours import NEUTRAL, Style, style_of
from launch.plots.curves import Line
from launch.reports.records import Record, Row

_UNSAID = ("evaluate_every", "checkpoint_steps", "dynamics_every", "deterministic")
"""Flags of the records: a label names them last, and runs compare without them."""


@dataclasses.dataclass(frozen=True)
class Group:
    """The runs of one setting.

    Attributes:
      label: its method, with the flags in which it differs from others on the page.
      style: how its lines are drawn.
      records: its runs, by seed.
    """

    label: str
    style: Style
    records: tuple[Record, ...]

    @property
    def method(self) -> str:
        """Its method."""
        return self.records[0].method

    @property
    def flags(self) -> dict[str, str]:
        """The flags with an effect, without the seed."""
        return self.records[0].flags

    @property
    def is_dense(self) -> bool:
        """Whether it is what sparse runs are compared with."""
        return self.method == "dense"

    @property
    def longest(self) -> Record:
        """The run that has gone furthest, the first of those that have."""
        return max(self.records, key=lambda record: record.step)

    @property
    def seeds(self) -> str:
        """Its seeds, as text."""
        return ", ".join(str(record.seed) for record in self.records)

    def final(self, column: str) -> list[float]:
        """The last value of a column in each run, where it is a finite number.

        Args:
          column: of metrics.csv, or of the result at the end.
        """
        found = []
        for record in self.records:
            value = (record.result or {}).get(column)
            if value is None and record.rows:
                value = record.rows[-1].get(column)
            if value is not None and math.isfinite(value):
                found.append(float(value))
        return found

    def mean(self, column: str) -> float | None:
        """The mean of `final`; None if no run has the column."""
        values = self.final(column)
        return statistics.fmean(values) if values else None

    def line(
        self, column: str, x: Callable[[Row], float], factor: float = 1.0
    ) -> Line | None:
        """A column over something, as a line with the range over the seeds.

        Args:
          column: of metrics.csv.
          x: the place of a row; a point is at the mean of its runs.
          factor: on the values.

        Returns:
          None if there is no finite point.
        """
        by_step: dict[float, list[Row]] = {}
        for record in self.records:
            for row in record.rows:
                by_step.setdefault(row["step"], []).append(row)
        points = []
        for _, rows in sorted(by_step.items()):
            rows = [r for r in rows if math.isfinite(r.get(column, math.nan))]
            values = [factor * row[column] for row in rows]
            places = [x(row) for row in rows]
            if values and all(map(math.isfinite, places)):
                mean = statistics.fmean(values)
                points.append(
                    (statistics.fmean(places), mean, min(values), max(values))
                )
        if not points:
            return None
        columns = [list(part) for part in zip(*points, strict=True)]
        return Line(self.label, self.style, *columns, has_band=len(self.records) > 1)


def groups_of(records: Iterable[Record]) -> list[Group]:
    """The groups, those of dense runs first, else in the order of the runs.

    >>> groups_of([])
    []
    """
    found: dict[tuple, list[Record]] = {}
    for record in records:
        found.setdefault(tuple(record.flags.items()), []).append(record)
    members = sorted(found.values(), key=lambda own: own[0].method != "dense")
    labels = _labels([own[0].flags for own in members])
    made, coloured = [], 0
    for own, label in zip(members, labels, strict=True):
        if own[0].method == "dense":
            dashes = "-" if not made else ":"
            style = Style(NEUTRAL, "o", dashes)
        else:
            style = style_of(coloured)
            coloured += 1
        own = sorted(own, key=lambda record: record.seed)
        made.append(Group(label, style, tuple(own)))
    return made


def dense_of(group: Group, groups: Sequence[Group]) -> Group | None:
    """The dense group that a group is compared with.

    It was trained with the same flags but for those of methods. None if there is none.

    Args:
      group: a group.
      groups: all of the page.
    """
    if group.is_dense:
        return group
    for other in groups:
        if other.is_dense and all(
            group.flags[name] == value
            for name, value in other.flags.items()
            # Flags of methods are empty in a dense run.
            if name not in ("method", *_UNSAID) and value
        ):
            return other
    return None


def differing(groups: Sequence[Group]) -> list[str]:
    """The flags in which groups differ, in the order of the help, with the method.

    Groups of different methods differ in the flags that have an effect in both.
    """
    found = set()
    for one, other in itertools.combinations([group.flags for group in groups], 2):
        alike = one["method"] == other["method"]
        found |= {
            name
            for name in _differing([one, other])
            if alike or (one.get(name) and other.get(name))
        }
    return [name for name in groups[0].flags if name in found]


def _differing(every: Sequence[dict[str, str]]) -> list[str]:
    names = dict.fromkeys(name for flags in every for name in flags)
    return [name for name in names if len({flags.get(name) for flags in every}) > 1]


def _labels(every: Sequence[dict[str, str]]) -> list[str]:
    """The method, and the flags in which those of the same method differ."""
    found = []
    for flags in every:
        same = [other for other in every if other["method"] == flags["method"]]
        names = sorted(_differing(same), key=lambda name: name in _UNSAID)
        parts = [f"{name}={flags[name]}" for name in names if flags.get(name)]
        found.append(" ".join([flags["method"], *parts]))
    return found
