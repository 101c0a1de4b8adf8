"""Writes the tables and figures of docs/results/claims.md from the CSVs beside it.

python docs/studies.py               # after a study: copy its CSV to docs/results/claims
python docs/studies.py RUNS          # and read the sets' changes in the runs of a sweep
"""

import collections
import csv
import pathlib
import statistics
import sys
from collections.abc import Iterator, Sequence
from functools import partial

ROOT = pathlib.Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # Run as a file, Python looks for modules in docs/ and not in the project.
    sys.path[0] = str(ROOT)

from docs.tools.marked import filled, rows, table  # noqa: E402
from launch.plots import variants  # noqa: E402
from launch.sweeps import results  # noqa: E402
from launch.sweeps.cells import Cell, cells, paired  # noqa: E402
from launch.sweeps.metrics import factor_of, metric_of  # noqa: E402
from launch.sweeps.report import spread  # noqa: E402

PAGE = ROOT / "docs/results/claims.md"
FOLDER = ROOT / "docs/results/claims"
BASELINES = {
    "topkast_backward": "b_is_a",
    "topkast_backward_reason": "",
    "topkast_exploration": "none",
    "topkast_random": "",
    "topkast_stop": "never",
    "topkast_refresh": "1",
    "topkast_blocks": "single",
    "methods_digits": "static",
    "methods_text": "static",
    "words_size": "dense_whole",
    "swat_ablations": "swat",
    "swat_structured": "channel_1",
}
"""A study, which is a CSV in `FOLDER` and a flagfile -> what others are compared with."""


def of_study(name: str) -> tuple[list[Cell], str]:
    """The cells of a study, and its metric."""
    found = results.read(FOLDER / f"{name}.csv")
    metric = metric_of(found[0]) or "test_loss"
    return cells(found, metric), metric


def by_sparsity(name: str) -> str:
    """A row a variant and a column a sparsity: mean, deviation, difference to another."""
    found, metric = of_study(name)
    factor, baseline = factor_of(metric), BASELINES[name]
    sparsities = sorted({each.sparsity for each in found if each.sparsity}, key=float)
    at = {(each.variant, each.sparsity): each for each in found}

    def shown(variant: str, sparsity: str) -> str:
        cell = at.get((variant, sparsity), at.get((variant, "")))
        if cell is None:
            return ""
        text = spread(list(cell.values.values()), factor)
        if cell.lost:
            text += f", {cell.lost} diverged"
        base = at.get((baseline, sparsity))
        if base is None or base is cell or not paired(cell, base):
            return text
        return f"{text} ({spread(paired(cell, base), factor, signed=True)})"

    def body() -> Iterator[Sequence[str]]:
        for variant in dict.fromkeys(each.variant for each in found):
            yield variant, *(shown(variant, each) for each in sparsities or [""])

    heads = [f"{100 * float(each):g} %" for each in sparsities] or [metric]
    return table(("", *heads), body())


PARTS = ((1, 150), (151, 450), (451, 600))
"""Steps over which the changes of the sets are averaged."""
MASKS = FOLDER / "masks.csv"
_CHANGES = ("churn", "reservoir_used")


def collect_masks(runs: pathlib.Path) -> None:
    """Writes `MASKS`: means over the weights, of each run of a sweep and step.

    Args:
      runs: the folder of the sweep.
    """
    found = []
    for path in sorted(runs.glob("*/topkast/mask_dynamics.csv")):
        variant, sparsity, seed = path.parent.parent.name.rsplit("-", 2)
        steps = collections.defaultdict(list)
        for row in rows(path):
            if row["churn"]:
                steps[row["step"]].append([float(row[name]) for name in _CHANGES])
        for step, values in steps.items():
            means = [
                f"{statistics.fmean(each):.6g}" for each in zip(*values, strict=True)
            ]
            found.append((variant, sparsity, seed, step, *means))
    with MASKS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("variant", "sparsity", "seed", "step", *_CHANGES))
        writer.writerows(found)


def masks() -> str:
    """The percentage of A that leaves it within 30 steps, early and late."""
    parts = collections.defaultdict(list)
    for row in rows(MASKS):
        part = next(each for each in PARTS if int(row["step"]) <= each[1])
        parts[row["variant"], row["sparsity"], part].append(100 * float(row["churn"]))

    def body() -> Iterator[Sequence[str]]:
        for variant, sparsity in dict.fromkeys(key[:2] for key in parts):
            cells = [
                f"{statistics.fmean(parts[variant, sparsity, part]):.2f}"
                for part in PARTS
            ]
            yield variant, f"{100 * float(sparsity):g} %", *cells

    return table(
        ("", "", *(f"steps {first} to {last}" for first, last in PARTS)), body()
    )


def distributions() -> str:
    """Counted training FLOPs over dense, of uniform sparsities and of ERK."""
    found = rows(FOLDER / "erk_flops.csv")
    sparsities = list(dict.fromkeys(row["sparsity"] for row in found))
    ratios = {
        (row["model"], row["sparsity"], row["distribution"]): row["training_ratio"]
        for row in found
    }

    def body() -> Iterator[Sequence[str]]:
        for model, resolution in dict.fromkeys(
            (row["model"], row["resolution"]) for row in found
        ):
            cells = [
                f"{float(ratios[model, sparsity, 'uniform']):.3f} / "
                f"{float(ratios[model, sparsity, 'erk']):.3f}"
                for sparsity in sparsities
            ]
            yield model, f"{resolution} x {resolution}", *cells

    heads = [f"{100 * float(each):g} %" for each in sparsities]
    return table(("uniform / ERK", "images", *heads), body())


TABLES = {
    **{name: partial(by_sparsity, name) for name in BASELINES},
    "masks": masks,
    "distributions": distributions,
}


def main(arguments: Sequence[str]) -> None:
    """Writes the tables and the figures."""
    for folder in arguments:
        collect_masks(pathlib.Path(folder))
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), TABLES), encoding="utf-8")
    for name in BASELINES:
        variants.draw(*of_study(name), FOLDER / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
