"""What the folder of a run holds, method by method, also of a run that goes on."""

import csv
import dataclasses
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from launch import data
from launch.callbacks.recorder import METRICS_FILE
from launch.config.methods import METHODS
from launch.storage import environment, report, run_folder
from launch.support.errors import UserError
from launch.tasks import metrics_of, task_of
from topkast_tf.analysis.mask_csv import COLUMNS as MASK_COLUMNS

DYNAMICS_FILE = "mask_dynamics.csv"

Row = dict[str, float]
"""A row of metrics.csv; a cell that is empty or no number is NaN."""


@dataclasses.dataclass(frozen=True)
class MaskRow:
    """A row of mask_dynamics.csv.

    Attributes:
      step: of the measurement.
      weight: path of the weight, or the name of all together.
      values: measure -> its value; NaN if there was nothing to divide by.
    """

    step: int
    weight: str
    values: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Record:
    """One method of a run.

    Attributes:
      run_dir: the folder of the run.
      method: its name, and that of its folder there.
      settings: the resolved flags.
      rows: of metrics.csv, one for each evaluation.
      masks: of mask_dynamics.csv; empty if the run kept none.
      result: the values at the end; None for a run that has not ended.
    """

    run_dir: pathlib.Path
    method: str
    settings: flags.FlagValues
    rows: tuple[Row, ...]
    masks: tuple[MaskRow, ...]
    result: dict[str, Any] | None

    @property
    def folder(self) -> pathlib.Path:
        """The folder of the method."""
        return self.run_dir / self.method

    @property
    def name(self) -> str:
        """The name of the run, without the path that leads to it."""
        return self.run_dir.resolve().name

    @property
    def seed(self) -> int:
        """Of weights, batches and sets."""
        return self.settings.seed

    @property
    def step(self) -> int:
        """Steps at the last evaluation; 0 before the first."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    @property
    def dense_steps(self) -> float:
        """What pruning before training costs, in steps of dense training."""
        return METHODS[self.method].dense_steps(self.settings)

    @property
    def total_steps(self) -> int | None:
        """Steps of the whole run; None if that depends on a text, which is not read."""
        settings = self.settings
        if settings.steps or data.find(settings.dataset).kind == "image":
            return task_of(settings).total_steps
        return None

    @property
    def progress(self) -> str:
        """A sentence on a run that has not ended; empty for one that has.

        It may be training, it may have been interrupted, or its loss may have diverged.
        """
        if self.result is not None:
            return ""
        total = self.total_steps
        of = f" of {total:,}" if total else ""
        if not self.rows:
            return f"{self.name}, {self.method}: not evaluated yet."
        return f"{self.name}, {self.method}: step {self.step:,}{of} so far."

    @property
    def flags(self) -> dict[str, str]:
        """The flags with an effect on the result, as text, without the seed."""
        found = report.arguments(self.settings, self.method)
        del found["seed"]
        return {"method": self.method, **found}

    @property
    def environments(self) -> list[environment.Environment]:
        """The versions and machines that it has been trained with."""
        return environment.recorded(self.run_dir)


def records_of(run_dir: pathlib.Path) -> list[Record]:
    """Everything that a run has recorded so far, the dense method first.

    Args:
      run_dir: the folder of the run.

    Raises:
      UserError: for files that are damaged.
    """
    settings = run_folder.flags_of(run_dir)
    metrics = metrics_of(settings).metrics
    # The methods of the flags, begun or not: a run that has just started is reported too.
    asked = {settings.method} | ({"dense"} if settings.compare_dense else set())
    return [
        Record(
            run_dir,
            method,
            settings,
            tuple(_metrics(run_dir / method / METRICS_FILE)),
            tuple(_masks(run_dir / method / DYNAMICS_FILE)),
            run_folder.finished(run_dir, method, metrics),
        )
        for method in METHODS
        if method in asked
    ]


def _metrics(path: pathlib.Path) -> Iterator[Row]:
    for cells in _table(path, ("step", "seconds")):
        row = {name: number(cell) for name, cell in cells.items()}
        # A run that is training may have written half of the last line.
        if math.isfinite(row["step"]) and math.isfinite(row["seconds"]):
            yield row


def _masks(path: pathlib.Path) -> Iterator[MaskRow]:
    for cells in _table(path, MASK_COLUMNS):
        step, _, weight, *measures = MASK_COLUMNS
        # A run that is training may have written half of the last line.
        if cells[measures[-1]] is not None and (cells[step] or "").isdigit():
            values = {name: number(cells[name]) for name in measures}
            yield MaskRow(int(cells[step]), cells[weight], values)


def _table(path: pathlib.Path, needed: Sequence[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            columns = reader.fieldnames or ()
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"Expected {path} to be a table that a run has written. Received: a damaged "
            f"file ({error})"
        ) from None
    missing = [name for name in needed if name not in columns]
    if missing and columns:
        raise UserError(
            f"Expected {path} to have the columns {', '.join(needed)}. Received: "
            f"{', '.join(columns)}"
        )
    return rows


def number(cell: Any) -> float:
    """A cell as a number; NaN if it is none.

    >>> number("0.5"), number(""), number(None)
    (0.5, nan, nan)
    """
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan
