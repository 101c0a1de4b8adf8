"""The table at the end of a run, and the same values as CSV."""

import os
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from absl import flags

from launch import data
from launch.config import exclusive, methods
from launch.config.flag import flags_in
from launch.config.flag_table import GROUPS
from launch.storage.run_folder import FLAGS_FILE
from launch.support import files, terminal
from launch.tasks.metrics import TaskMetrics

RESULTS_FILE = "results.csv"
_FILES = ("metrics.csv", "checkpoints", "events", "model.keras")
_LAUNCH = pathlib.Path(__file__).resolve().parents[1]

_NOTE = """\
Only layers with native kernels are faster for being sparse (--kernels,
docs/kernels.md); elsewhere sparsity is simulated by masks. FLOPs are counted, not
measured: a multiply and an add are two, only products count, at the achieved
sparsities. The time of a step is the mean of the last epoch without its compilation;
the seconds of a run have that too, and the build of the kernels where they are new.
Metrics are those of the last epoch, one seed."""


def table(results: Sequence[dict[str, Any]], task_metrics: TaskMetrics) -> str:
    """A text table with a column for each method.

    Args:
      results: the results of `training.train`, that of the dense method first.
      task_metrics: the metrics of the task.
    """
    rows: list[tuple[str, list[str]]] = [("", [r["method"] for r in results])]

    def add(label, cell):
        rows.append((label, [cell(result) for result in results]))

    for metric in task_metrics.metrics:
        add(metric.label, lambda r, f=metric: f.shown(r[f.column]))
    add("sparsified layers: forward", lambda r: f"{r['forward_sparsity']:.2%}")
    add("sparsified layers: backward", lambda r: f"{r['backward_sparsity']:.2%}")
    add("whole network: forward", lambda r: f"{r['forward_sparsity_network']:.2%}")
    add("whole network: backward", lambda r: f"{r['backward_sparsity_network']:.2%}")
    add("parameters", lambda r: f"{r['parameters']:,}")
    add("parameters kept", lambda r: f"{r['kept_parameters']:,}")
    if any(r.get("empty_outputs") for r in results):  # not in runs of earlier versions
        add("outputs without a weight", lambda r: f"{r.get('empty_outputs', 0):,}")
    add(
        f"inference FLOPs per {task_metrics.unit}",
        lambda r: scaled(r["inference_flops"]),
    )
    add("  over dense", lambda r: f"{r['inference_flops_ratio']:.3f}x")
    add("training FLOPs, whole run", lambda r: scaled(r["training_flops_total"]))
    add("  over dense", lambda r: f"{r['training_flops_ratio']:.3f}x")
    if any(r.get("exploration_loss") for r in results):
        add(
            "exploration loss, at the end",
            lambda r: f"{r.get('exploration_loss', 0):.4f}",
        )
    add("optimizer steps", lambda r: f"{r['step']:,}")
    if all("step_ms" in r for r in results):  # not in runs of earlier versions
        add("milliseconds a step, measured", lambda r: f"{r['step_ms']:.1f}")
    add("seconds, with all that a run does", lambda r: f"{r['seconds']:.1f}")

    return aligned([(label, *cells) for label, cells in rows])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text, the first column left-aligned, the first row underlined.

    >>> print(aligned([("run", "a"), ("x", "10")]))
    run   a
    -------
    x    10
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def text(
    run_dir: pathlib.Path,
    results: Sequence[dict[str, Any]],
    task_metrics: TaskMetrics,
    out: TextIO = sys.stdout,
) -> str:
    """The table, a note on how to read it, the paths of the files, the next commands.

    Args:
      run_dir: the folder of the run.
      results: as for `table`.
      task_metrics: the metrics of the task.
      out: the stream that it is for; on a terminal the header is bold.
    """
    head, *rows = table(results, task_metrics).splitlines()
    here = shortest(run_dir)
    lines = ["", terminal.styled(head, "bold", out), *rows, "", _NOTE, "", "Files:"]
    lines += [f"  {quoted(here / name)}" for name in (RESULTS_FILE, FLAGS_FILE)]
    for result in results:
        lines += [f"  {quoted(here / result['method'] / name)}" for name in _FILES]
    lines += [
        _loading(results, task_metrics),
        "",
        "What next:",
        f"  python {quoted(shortest(_LAUNCH / 'report.py'))} {quoted(here)}",
        f"  python {quoted(shortest(_LAUNCH / 'evaluate.py'))} {quoted(here)}",
        f"  tensorboard --logdir {quoted(here)}",
    ]
    return "\n".join(lines)


def _loading(results: Sequence[dict[str, Any]], task_metrics: TaskMetrics) -> str:
    """What the saved models need."""
    selecting = [
        result["method"]
        for result in results
        if methods.METHODS[result["method"]].selects_outputs
    ]
    of = f", that of {', '.join(selecting)} with swat_tf imported" if selecting else ""
    return f"model.keras loads with {task_metrics.loads}{of}."


def shortest(path: pathlib.Path) -> pathlib.Path:
    """A path relative to the working directory, if it is below it.

    >>> shortest(pathlib.Path.cwd() / "runs" / "try").as_posix()
    'runs/try'
    """
    try:
        return pathlib.Path(os.path.abspath(path)).relative_to(pathlib.Path.cwd())
    except ValueError:
        return path


def quoted(path: pathlib.Path) -> str:
    """A path quoted for a shell.

    >>> quoted(pathlib.Path("my runs/a"))
    "'my runs/a'"
    """
    return shlex.quote(str(path))


def write_results(
    run_dir: pathlib.Path, results: Sequence[dict[str, Any]], settings: flags.FlagValues
) -> None:
    """Writes RUN_DIR/results.csv, a line for each method: its metrics, then its flags.

    A line identifies its run completely, so that the files of many runs form one table.
    `learning_rate` is the flag, which is the highest rate.

    Args:
      run_dir: the folder of the run.
      results: as for `table`.
      settings: the resolved flags.
    """
    rows = [{**result, **arguments(settings, result["method"])} for result in results]
    files.write_text(run_dir / RESULTS_FILE, files.csv_text(rows))


def arguments(settings: flags.FlagValues, method: str) -> dict[str, str]:
    """The flags that a method was trained with, as text; empty if without effect.

    Args:
      settings: the resolved flags.
      method: a method of the run, such as its dense twin.
    """
    without_effect = methods.without_effect(method) | exclusive.ignored_flags(settings)
    every = flags_in(GROUPS)
    if data.find(settings.dataset).kind != "text":
        without_effect |= {flag.name for flag in every if flag.data == "text"}
    return {
        flag.name: ""
        if flag.name in without_effect
        else _cell(settings[flag.name].value)
        for flag in every
        if flag.affects_result and flag.name not in ("method", "compare_dense")
    }


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def scaled(number: float) -> str:
    """A number with three decimals and a decimal unit.

    >>> scaled(81_500_000)
    '81.500 M'
    """
    for power, unit in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3f} {unit}"
    return f"{number:.0f}"
