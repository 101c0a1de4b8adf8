"""The results of a study: one CSV with a line for each run, which only grows."""

import csv
import pathlib
from collections.abc import Callable
from typing import Any

from absl import flags

from launch.studies.runs import Run
from launch.support import files

RESULTS_FILE = "results.csv"
MEASURED = (
    *("study", "sparsity", "value", "seed", "steps", "test_accuracy", "test_loss"),
    *("train_loss", "weight_density", "activation_density", "diverged", "seconds"),
)
ARGUMENTS = (
    *("dataset", "train_examples", "model", "width", "batch_size", "learning_rate"),
    *("lr_schedule", "weight_decay", "exempt", "topk_period", "forward", "backward"),
    *("errors", "errors_per", "updates", "freeze_at"),
)
"""The columns that identify a run among several studies; older files lack them."""
COLUMNS = (*MEASURED, *ARGUMENTS)


def _whole(number: str) -> int:
    return int(float(number))  # older files have "0.0"


_KINDS: dict[str, Callable[[str], Any]] = {
    "study": str,
    **dict.fromkeys(("value", "seed", "steps", "diverged"), _whole),
    **dict.fromkeys(ARGUMENTS, str),
}
_OF_SCOPE = (
    *("exempt", "topk_period", "forward", "backward", "errors", "errors_per"),
    *("updates", "freeze_at"),
)


def arguments(one: Run, settings: flags.FlagValues) -> dict[str, str]:
    """`ARGUMENTS` of a run, as text; empty for the defaults of the scope."""
    scope = one.scope_arguments(settings.topk_period, settings.errors_per) or {}
    asked = {**scope, "exempt": settings.exempt} if scope else {}
    given = {name: settings[name].value for name in ARGUMENTS if name not in _OF_SCOPE}
    given |= {name: asked.get(name) for name in _OF_SCOPE}
    return {name: _cell(given[name]) for name in ARGUMENTS}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ",".join(value) or "none"
    return str(value)


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a results file, without a line that a kill has truncated."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        last = (reader.fieldnames or ["seconds"])[-1]
        # An argument may be empty; a truncated line lacks the cell.
        rows = [row for row in reader if row[last] is not None and row["seconds"]]
    return [
        {name: _KINDS.get(name, float)(row.get(name, "")) for name in COLUMNS}
        for row in rows
    ]


def append(path: pathlib.Path, row: dict[str, Any]) -> None:
    """Adds a row to a results file, which is replaced atomically."""
    files.write_text(path, files.csv_text([*read(path), row]))


def key_of(row: dict[str, Any]) -> tuple:
    """The values that identify a run within one study."""
    return row["study"], float(row["sparsity"]), int(row["value"]), int(row["seed"])
