"""Makes the page on runs or on a sweep, and writes it with its pictures."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Sequence

from launch.reports import of_layers, of_masks, of_runs, of_setting, of_sweep
from launch.reports.groups import Group, groups_of
from launch.reports.inputs import Inputs
from launch.reports.markup import runs_text
from launch.reports.page import PAGE_FILE, earlier_files, page
from launch.reports.pictures import Pictures
from launch.reports.records import Record, records_of
from launch.reports.weights import Weights, weights_of
from launch.support import files
from launch.support.errors import UserError
from launch.tasks.metrics import TaskMetrics

LARGE = 3.0
"""MiB above which a page is slow to open and to send."""


@dataclasses.dataclass(frozen=True)
class Made:
    """A page that has been made and not been written.

    Attributes:
      html: its text.
      files: name -> content of the pictures beside it.
      notices: what the page says of runs that have not ended.
    """

    html: str
    files: dict[str, bytes]
    notices: tuple[str, ...]


def made(
    inputs: Inputs,
    metric: str | None = None,
    layers: int = 8,
    *,
    data_dir: str | None = None,
    baseline: str | None = None,
    simulate: bool = True,
) -> Made:
    """Makes a page; nothing is written.

    Args:
      inputs: of `inputs_of`.
      metric: the column that is compared, or None.
      layers: number of layers of each group with a histogram and a picture.
      data_dir: the present folder of the data, or None.
      baseline: the variant that a sweep's table compares with, or None.
      simulate: whether to simulate the cycles of a step of each sparse group.

    Raises:
      UserError: for an unknown metric or baseline, and for damaged files.
    """
    pictures = Pictures()
    if inputs.sweep is not None:
        title = f"Sweep: {inputs.sweep.resolve().parent.name}"
        variants = dict.fromkeys(row["variant"] for row in inputs.rows)
        subtitle = f"{runs_text(len(inputs.rows))} of {', '.join(variants)}"
        sections = of_sweep.sections(inputs, metric, baseline, pictures)
        html = page(title, subtitle, (), sections, list(pictures.files))
        return Made(html, pictures.files, ())
    records = [record for folder in inputs.runs for record in records_of(folder)]
    for record in records:
        record.settings.data_dir = data_dir or record.settings.data_dir
    groups = groups_of(records)
    if inputs.metrics is None:
        raise ValueError("Expected inputs of runs. Received: inputs without metrics")
    # A mistake is reported before the models are read.
    column = of_runs.column_of(groups, inputs.metrics, metric)
    weights = {
        group.label: weights_of(group.longest, layers, simulate=simulate)
        for group in groups
    }
    return _of_runs(inputs.metrics, records, groups, weights, column, layers, pictures)


def _of_runs(
    metrics: TaskMetrics,
    records: Sequence[Record],
    groups: Sequence[Group],
    weights: dict[str, Weights | str],
    column: str | None,
    layers: int,
    pictures: Pictures,
) -> Made:
    read = [(group, weights[group.label]) for group in groups]
    notices = [record.progress for record in records if record.progress]
    settings = records[0].settings
    models = dict.fromkeys(str(record.settings.model) for record in records)
    title = f"{settings.dataset}, {', '.join(models)}"
    labels = ", ".join(group.label for group in groups)
    runs = {record.run_dir for record in records}
    subtitle = f"{labels}; {runs_text(len(runs))}"
    flops = {
        group.label: _flops_a_step(group, weights[group.label]) for group in groups
    }
    sections = [
        of_runs.results(groups, metrics),
        of_runs.training(groups, metrics, flops, pictures, column),
        of_setting.costs(groups, weights, metrics.unit),
        of_masks.over_time(groups, pictures),
        of_layers.by_layer(read, metrics.unit, pictures),
        of_layers.values(read, pictures),
        of_layers.pictures_of_sets(read, pictures, layers),
        of_setting.flags(groups),
        of_setting.environments_of(records),
    ]
    if notices:
        notices = ["Not all runs have ended; this is a report so far.", *notices]
    html = page(title, subtitle, notices, sections, list(pictures.files))
    return Made(html, pictures.files, tuple(notices))


def _flops_a_step(group: Group, weights: Weights | str) -> float | None:
    """Counted FLOPs of a training step: of a result, else of the last checkpoint."""
    for record in group.records:
        if record.result is not None and record.result["step"]:
            return record.result["training_flops_total"] / record.result["step"]
    if isinstance(weights, str) or weights.flops is None or not weights.units_a_step:
        return None
    return weights.flops.run.training * weights.units_a_step


def write(page_made: Made, folder: pathlib.Path) -> pathlib.Path:
    """Writes a page and its pictures; each file is replaced as a whole.

    Pictures of an earlier page in the folder that this one does not have are removed.

    Args:
      page_made: of `made`.
      folder: where the files go; created if it is missing.

    Returns:
      The path of the page.

    Raises:
      UserError: for a folder that holds a page of another program, or pictures that no
        page of this one names.
    """
    before = earlier_files(folder)
    of_others = sorted(
        name
        for name in page_made.files
        if name not in before and (folder / name).exists()
    )
    if of_others:
        raise UserError(
            f"Expected a folder without {', '.join(of_others)}, or with a page that names "
            f"them. Received: {folder}; choose another --out, or remove them"
        )
    path = folder / PAGE_FILE
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in page_made.files.items():
        with files.replacing(folder / name) as part:
            part.write_bytes(content)
    files.write_text(path, page_made.html)
    for name in before:
        # Only plain names, whatever the page says.
        if name not in page_made.files and name == pathlib.PurePath(name).name:
            with contextlib.suppress(FileNotFoundError):
                (folder / name).unlink()
    return path
