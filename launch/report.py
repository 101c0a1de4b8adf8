"""The table at the end of a run, and the same figures as CSV."""

import csv
import io
import pathlib
from collections.abc import Sequence
from typing import Any

from launch import files
from launch.tasks.figures import Judged

RESULTS_FILE = "results.csv"

_NOTE = """\
Sparsity is simulated: dense kernels are multiplied by masks, so the seconds are those
of masked training and no gain in speed. FLOPs are counted, not measured: a multiply
and an add are two, products only, at the achieved sparsities. Figures are of the last
epoch, one seed."""


def table(results: Sequence[dict[str, Any]], judged: Judged) -> str:
    """A text table with a column for each method.

    Args:
      results: what `training.train` returned for each method, the dense one first.
      judged: by which figures.
    """
    rows: list[tuple[str, list[str]]] = [("", [r["method"] for r in results])]

    def add(label, cell):
        rows.append((label, [cell(result) for result in results]))

    for figure in judged.figures:
        add(figure.label, lambda r, f=figure: f.shown(r[f.column]))
    add("sparsified layers: forward", lambda r: f"{r['forward_sparsity']:.2%}")
    add("sparsified layers: backward", lambda r: f"{r['backward_sparsity']:.2%}")
    add("whole network: forward", lambda r: f"{r['forward_sparsity_network']:.2%}")
    add("whole network: backward", lambda r: f"{r['backward_sparsity_network']:.2%}")
    add("parameters", lambda r: f"{r['parameters']:,}")
    add("parameters kept", lambda r: f"{r['kept_parameters']:,}")
    add(f"inference FLOPs per {judged.unit}", lambda r: scaled(r["inference_flops"]))
    add("  over dense", lambda r: f"{r['inference_flops_ratio']:.3f}x")
    add("training FLOPs, whole run", lambda r: scaled(r["training_flops_total"]))
    add("  over dense", lambda r: f"{r['training_flops_ratio']:.3f}x")
    add("optimizer steps", lambda r: f"{r['step']:,}")
    add("seconds", lambda r: f"{r['seconds']:.1f}")

    return aligned([(label, *cells) for label, cells in rows])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text: the first column to the left, a line under the first row.

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
    run_dir: pathlib.Path, results: Sequence[dict[str, Any]], judged: Judged
) -> str:
    """The table, how to read it, and where the files lie."""
    lines = [f"\n{table(results, judged)}\n\n{_NOTE}\n\nFiles:"]
    lines.append(f"  {run_dir}/{RESULTS_FILE}  flags.cfg")
    for result in results:
        lines.append(
            f"  {run_dir}/{result['method']}/metrics.csv  events/  checkpoints/  "
            "model.keras"
        )
    lines.append(f"events/ is for TensorBoard; model.keras loads with {judged.loads}.")
    return "\n".join(lines)


def write_results(run_dir: pathlib.Path, results: Sequence[dict[str, Any]]) -> None:
    """Writes RUN_DIR/results.csv, a line for each method."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(results[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(results)
    files.write_text(run_dir / RESULTS_FILE, out.getvalue())


def scaled(number: float) -> str:
    """A number with three decimals and a decimal unit.

    >>> scaled(81_500_000)
    '81.500 M'
    """
    for power, unit in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3f} {unit}"
    return f"{number:.0f}"
