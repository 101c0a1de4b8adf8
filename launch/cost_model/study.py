"""The plan of a sensitivity study, which trains one network many times."""

import dataclasses
import functools
from typing import Any

from absl import flags

from launch import sensitivity
from launch.cost_model import report
from launch.cost_model.plan import Plan, plan_of
from launch.storage.report import aligned
from launch.studies.training import scope_of
from launch.support.errors import UserError


@dataclasses.dataclass(frozen=True)
class Row:
    """The runs of a study that have the same cost.

    Attributes:
      study: its name.
      sparsity: sparsity of its operands.
      runs: number of runs.
      plan: the plan of one run.
    """

    study: str
    sparsity: float
    runs: int
    plan: Plan

    @property
    def name(self) -> str:
        """The study and its sparsity."""
        return f"{self.study}, {self.sparsity:g}" if self.sparsity else self.study


@dataclasses.dataclass(frozen=True)
class StudyPlan:
    """The cost of a study.

    Attributes:
      rows: a row for each study and sparsity.
    """

    rows: tuple[Row, ...]

    @property
    def largest(self) -> Row:
        """The row whose run needs the most memory."""
        return max(self.rows, key=lambda row: row.plan.memory.total("here"))

    def text(self) -> str:
        """A table of the runs, then the plan of the one that needs the most memory."""
        table = [("Runs", "how many", "dense twin", "sparse", "ratio")]
        sums = [0.0, 0.0]
        for row in self.rows:
            both = [row.runs * flops for flops in row.plan.flops_in_all]
            sums = [before + now for before, now in zip(sums, both, strict=True)]
            table.append(_cells(row.name, row.runs, *both))
        table.append(_cells("all", sum(row.runs for row in self.rows), *sums))
        head = f"The run that needs the most memory: {self.largest.name}"
        return "\n\n".join((aligned(table), head, report.text(self.largest.plan)))

    def as_json(self) -> dict[str, Any]:
        """The plans as numbers."""
        return {
            "runs": [
                {
                    "study": row.study,
                    "sparsity": row.sparsity,
                    "runs": row.runs,
                    "plan": report.as_json(row.plan),
                }
                for row in self.rows
            ]
        }


def study_of(settings: flags.FlagValues) -> StudyPlan:
    """Plans every run of a study.

    Raises:
      UserError: for flags that the scope refuses.
    """
    found: dict[tuple[str, float], list] = {}
    for one in sensitivity.planned(settings):
        found.setdefault((one.study, one.sparsity), []).append(one)
    rows = []
    for (name, sparsity), runs in found.items():
        method = "dense" if name == "dense" else "swat"
        scope = functools.partial(scope_of, runs[0], settings)
        try:
            plan = plan_of(settings, method, scope)
        except ValueError as error:
            raise UserError(f"{error} (study {name!r})") from error
        rows.append(Row(name, sparsity, len(runs), plan))
    return StudyPlan(tuple(rows))


def _cells(name: str, runs: int, dense: float, sparse: float) -> tuple[str, ...]:
    texts = (report.flops_text(dense), report.flops_text(sparse))
    return (name, str(runs), *texts, f"{sparse / dense if dense else 1:.3f}")
