"""The table of the sensitivity study, from its results."""

from collections.abc import Sequence
from typing import Any

from launch.storage.report import aligned


def matching(rows: Sequence[dict], **asked: Any) -> list[dict]:
    """The rows with these values."""
    return [
        row for row in rows if all(row[name] == value for name, value in asked.items())
    ]


def accuracies(rows: Sequence[dict], **asked: Any) -> list[float]:
    """The accuracies, in percent, of the runs that have not diverged."""
    return [100 * row["test_accuracy"] for row in matching(rows, diverged=0, **asked)]


def diverged(rows: Sequence[dict], **asked: Any) -> str:
    """The number of diverged runs and of all runs; empty if none has diverged."""
    every = matching(rows, **asked)
    count = len(matching(every, diverged=1))
    return f"{count} of {len(every)}" if count else ""


def mean(values: Sequence[float]) -> float:
    """Their mean."""
    return sum(values) / len(values)


STATISTICS = (mean, min, max)
"""What is said of the seeds of a setting."""


def settings(rows: Sequence[dict]) -> list[tuple]:
    """The distinct (study, sparsity, value) of all rows, in order."""
    found = dict.fromkeys((r["study"], r["sparsity"], r["value"]) for r in rows)
    return list(found)


def table(rows: Sequence[dict]) -> str:
    """Mean and range over seeds of each setting, as text.

    Args:
      rows: from `launch.studies.results.read`.
    """
    heads = ("study", "sparsity", "seeds", "mean", "lowest", "highest")
    lost_too = bool(matching(rows, diverged=1))
    found = [(*heads, "diverged")[: None if lost_too else -1]]
    for study, sparsity, value in settings(rows):
        here = {"study": study, "sparsity": sparsity, "value": value}
        found_here = accuracies(rows, **here)
        figures = (
            [function(found_here) for function in STATISTICS] if found_here else []
        )
        cells = [
            f"{study} {value:.0f}" if value else study,
            f"{sparsity:.2f}",
            str(len(matching(rows, **here))),
            *([f"{figure:.2f}%" for figure in figures] or [""] * len(STATISTICS)),
        ]
        found.append((*cells, *([diverged(rows, **here)] if lost_too else [])))
    return "test accuracy over the seeds\n" + aligned(found)
