"""What a report is asked about: folders of runs, or the CSV of a sweep.

Nothing here imports TensorFlow, so that a mistake is reported before its slow import.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from launch.storage import run_folder
from launch.support.errors import UserError
from launch.sweeps import results
from launch.tasks import metrics_of
from launch.tasks.metrics import TaskMetrics

FOLDER = "report"


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the page is about; either runs or a sweep.

    Attributes:
      runs: the folders of runs, each once.
      sweep: the CSV of a sweep, or None.
      rows: of the CSV.
      metrics: of the runs; None for a sweep.
    """

    runs: tuple[pathlib.Path, ...] = ()
    sweep: pathlib.Path | None = None
    rows: tuple[results.Row, ...] = ()
    metrics: TaskMetrics | None = None

    @property
    def folder(self) -> pathlib.Path:
        """Where the page goes by default."""
        return (self.sweep.parent if self.sweep else self.runs[0]) / FOLDER


def inputs_of(given: Sequence[str]) -> Inputs:
    """Checks what is given.

    Args:
      given: folders of runs of one data set, or one CSV.

    Raises:
      UserError: for anything else.
    """
    paths = [pathlib.Path(text) for text in given]
    tables = [path for path in paths if path.suffix == ".csv" and not path.is_dir()]
    if not paths or (tables and len(paths) > 1):
        shown = " ".join(given) or "none"
        raise UserError(
            f"Expected folders of runs, or one CSV of a sweep. Received: {shown}"
        )
    if tables:
        return _sweep(tables[0])
    folders = {path.resolve(): path for path in reversed(paths)}
    return _runs(list(reversed(folders.values())))


def _sweep(path: pathlib.Path) -> Inputs:
    if not path.is_file():
        raise UserError(f"Expected the CSV of a sweep. Received: {path}, which is none")
    try:
        rows = results.read(path)
    except UnicodeDecodeError as error:
        raise UserError(
            f"Expected {path} to be the CSV of a sweep. Received: a file that is no text "
            f"({error})"
        ) from None
    if not rows:
        raise UserError(
            f"Expected {path} to have the row of a run that has ended. Received: none"
        )
    return Inputs(sweep=path, rows=tuple(rows))


def _runs(folders: Sequence[pathlib.Path]) -> Inputs:
    data_sets = {}
    for folder in folders:
        if not (folder / run_folder.FLAGS_FILE).is_file():
            raise UserError(
                f"Expected the folder of a run, which holds {run_folder.FLAGS_FILE}, or "
                f"the CSV of a sweep. Received: {folder}"
            )
        settings = run_folder.flags_of(folder)
        data_sets[settings.dataset] = metrics_of(settings)
    if len(data_sets) > 1:
        raise UserError(
            "Expected runs on the same data, to be compared. Received: --dataset="
            f"{' and --dataset='.join(data_sets)}"
        )
    return Inputs(runs=tuple(folders), metrics=next(iter(data_sets.values())))
