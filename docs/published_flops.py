"""Plans published networks, and writes docs/published_flops.md: their FLOPs beside ours.

    python docs/published_flops.py

Each figure is planned by `launch/plan.py` with the flags of its row, which need no data.
"""

import csv
import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping

ROOT = pathlib.Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # Run as a file, Python looks for modules in docs/ and not in the project.
    sys.path[0] = str(ROOT)

from launch import plan  # noqa: E402
from launch.config import plan_flags  # noqa: E402

TABLE, PAGE = ROOT / "docs/published_flops.csv", ROOT / "docs/published_flops.md"
WITHIN = {"reduction, %": 0.3, "x dense": 0.01}
"""Unit -> the largest difference of a reproduced figure. RigL and those who quote it print
two digits, rounded up."""

REDUCTION, SHARE = WITHIN
_SWAT = "SWAT, its README and poster"
_RIGL = "RigL, its README"
_CHASE = "Chase, the table of its README"
_IMAGENET = ("--dataset=imagenet2012", "--steps=32000", "--batch_size=4096")
_CIFAR = ("--dataset=cifar10", "--steps=100", "--batch_size=128")

FIRST_LAYER = (
    "All ten published reductions of uniform networks follow within 0.2 points if the "
    "weight gradient of the first layer counts at the 224 x 224 positions of its input "
    "(472 M multiply-adds) instead of the 112 x 112 of its output (118 M), its input "
    "gradient not at all, and all else as here. That is a guess; a test has the "
    "arithmetic. For ResNet-50's channels the poster prints WRN-50-2's 49.1, 58.9, 68.7."
)
MEASURED_SHARES = (
    "ERK shares of all layers give less. The published sparsities of activations, 52 and "
    "64 %, seem to be measured, with the zeros of ReLU among them; what else was counted "
    "is not known."
)
NOMINAL = "Published is the nominal density, as if the first layer were sparse, too."
OWN_SHARES = (
    "Training finds the shares of the layers (here they are planned as they begin), so the "
    "figure needs the trained model: `count_flops(model).training_ratio`."
)
QUESTIONED = (
    "A column of baselines that SWAT's reviewers questioned. RigL's own formula, which is "
    "planned here, and RigL's own inference figures give other values."
)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A published figure.

    Args:
      flags: of `launch/plan.py`.
      part: "inference" or "training".
      value: as printed, in `unit`.
      unit: one of `WITHIN`.
      source: who printed it.
      reason: what is thought to explain a difference; empty if none is expected.
    """

    flags: tuple[str, ...]
    part: str
    value: float
    unit: str
    source: str
    reason: str = ""

    @property
    def command(self) -> str:
        """What plans it."""
        return f"python launch/plan.py {' '.join(self.flags)}"


def _swat(model: str, data, shares: str, sparsity: float, *, structured=False):
    uniform = shares == "uniform"
    return (
        *data,
        f"--model={model}",
        "--method=swat",
        f"--sparsity={sparsity}",
        f"--distribution={shares}",
        *(("--exempt=first",) if uniform else ()),
        *(("--structured=channel",) if structured else ()),
    )


def _resnet50(method: str, sparsity: float, shares: str) -> tuple[str, ...]:
    exempt = ("--exempt=first",) if shares == "uniform" else ()
    named = (f"--method={method}", f"--sparsity={sparsity}", f"--distribution={shares}")
    return (*_IMAGENET, "--model=resnet50", *named, *exempt)


def figures() -> Iterator[Figure]:
    """All figures, those of a source together."""
    for model, shares, sparsity, inference, training in (
        ("resnet50", "uniform", 0.8, 77.7, 76.1),
        ("resnet50", "uniform", 0.9, 87.4, 85.6),
        ("resnet50", "erk", 0.8, 58.9, 60.0),
        ("resnet50", "erk", 0.9, 77.8, 79.0),
        ("wrn50_2", "uniform", 0.8, None, 78.6),
        ("wrn50_2", "uniform", 0.9, None, 88.4),
    ):
        reason = FIRST_LAYER if shares == "uniform" else MEASURED_SHARES
        flags = _swat(model, _IMAGENET, shares, sparsity)
        if inference is not None:
            yield Figure(flags, "inference", inference, REDUCTION, _SWAT, reason)
        yield Figure(flags, "training", training, REDUCTION, _SWAT, reason)
    for model, sparsity, inference, training in (
        ("resnet50", 0.5, 48.6, 47.6),
        ("resnet50", 0.6, 58.3, 57.1),
        ("resnet50", 0.7, 68.0, 66.6),
        ("wrn50_2", 0.5, None, 49.1),
        ("wrn50_2", 0.6, None, 58.9),
        ("wrn50_2", 0.7, None, 68.7),
    ):
        flags = _swat(model, _IMAGENET, "uniform", sparsity, structured=True)
        if inference is not None:
            yield Figure(flags, "inference", inference, REDUCTION, _SWAT)
        yield Figure(flags, "training", training, REDUCTION, _SWAT, FIRST_LAYER)
    for model, shares, sparsity, training in (
        ("vgg16_cifar", "uniform", 0.9, 89.7),
        ("vgg16_cifar", "erk", 0.95, 89.5),
        ("wrn16_8", "uniform", 0.9, 90.0),
        ("wrn16_8", "erk", 0.95, 91.4),
        ("densenet121_cifar", "uniform", 0.9, 89.8),
        ("densenet121_cifar", "erk", 0.9, 89.7),
    ):
        flags = _swat(model, _CIFAR, shares, sparsity)
        yield Figure(flags, "training", training, REDUCTION, _SWAT)
    for model, sparsity, training in (
        ("resnet18_cifar", 0.5, 49.9),
        ("resnet18_cifar", 0.6, 59.8),
        ("resnet18_cifar", 0.7, 69.8),
        ("densenet121_cifar", 0.5, 49.9),
        ("densenet121_cifar", 0.6, 59.9),
        ("densenet121_cifar", 0.7, 69.9),
    ):
        flags = _swat(model, _CIFAR, "uniform", sparsity, structured=True)
        yield Figure(flags, "training", training, REDUCTION, _SWAT)
    for sparsity, uniform, erk in ((0.8, 0.23, 0.42), (0.9, 0.13, 0.24)):
        for shares, value in (("uniform", uniform), ("erk", erk)):
            flags = _resnet50("static", sparsity, shares)
            for part in ("inference", "training"):
                yield Figure(flags, part, value, SHARE, _RIGL)
    yield Figure(_resnet50("static", 0.95, "erk"), "training", 0.13, SHARE, _RIGL)
    for method, shares, sparsity, training, inference, reason in (
        ("set", "uniform", 0.8, 0.23, 0.23, ""),
        ("set", "uniform", 0.9, 0.10, 0.10, NOMINAL),
        ("snfs", "erk", 0.8, 0.61, 0.42, ""),
        ("snfs", "erk", 0.9, 0.50, 0.24, ""),
        ("rigl_itop", "erk", 0.8, 0.42, 0.42, ""),
        ("rigl_itop", "erk", 0.9, 0.25, 0.24, ""),
        ("dsr", "uniform", 0.8, 0.40, 0.40, OWN_SHARES),
        ("dsr", "uniform", 0.9, 0.30, 0.30, OWN_SHARES),
    ):
        flags = _resnet50(method, sparsity, shares)
        yield Figure(flags, "training", training, SHARE, _CHASE, reason)
        yield Figure(flags, "inference", inference, SHARE, _CHASE, reason)
    for method, sparsity, training, inference in (
        ("set", 0.8, 58.1, 73.0),
        ("set", 0.9, 63.8, 82.1),
        ("snfs", 0.8, 45.8, 43.3),
        ("snfs", 0.9, 57.6, 59.7),
        ("rigl", 0.8, 67.2, 80.0),
        ("rigl", 0.9, 74.1, 90.0),
    ):
        flags = _resnet50(method, sparsity, "erk" if method == "snfs" else "uniform")
        yield Figure(flags, "training", training, REDUCTION, _SWAT, QUESTIONED)
        yield Figure(flags, "inference", inference, REDUCTION, _SWAT, QUESTIONED)


def planned(flags: tuple[str, ...], part: str) -> float:
    """The planned FLOPs of a part of a run over those of the dense network."""
    settings = plan_flags.parse(["plan.py", *flags, "--json"])
    found = json.loads(plan.run(settings))["flops"]
    if part == "inference":
        return found["inference_ratio"]
    return found["all_sparse"] / found["all_dense"]


def row(figure: Figure, ratio: float) -> dict[str, str]:
    """A line of the CSV file, for the planned ratio of a figure."""
    ours = 100 * (1 - ratio) if figure.unit == REDUCTION else ratio
    digits = 1 if figure.unit == REDUCTION else 2
    near = abs(ours - figure.value) <= WITHIN[figure.unit]
    return {
        "source": figure.source,
        "part": figure.part,
        "unit": figure.unit,
        "published": f"{figure.value:.{digits}f}",
        "ours": f"{ours:.{digits + 1}f}",
        "reproduced": "yes" if near else "no",
        "command": figure.command,
        "reason": "" if near else figure.reason,
    }


HEAD = """\
# Published FLOPs beside ours

Written by `python docs/published_flops.py`, with [a CSV](published_flops.csv). Planned by
`launch/plan.py`, whose counts the tests compare with `count_flops` of built models;
formulas are in [accounting.md](accounting.md). A reduction, in per cent, is reproduced
within 0.3 points, a share of the dense FLOPs within 0.01: RigL prints two digits, rounded
up. To their last digit, by its authors' own counting with biases and activations, RigL's
shares and sizes are tests (`tests/analysis/test_flops_resnet50.py`). Where a reduction is
of training, the first layer's input gradient counts, as in RigL; without it reductions of
ResNet-50 would be higher by 0.8 points, those of networks for CIFAR by less than 0.2.

"""
NOT_PLANNED = """
Not in the tables: SWAT-M, whose momentum shares follow from training (45.9 and 65.4 % of
training for ResNet-50); DST and STR, which learn thresholds; MEST, whose published shares
follow from its data sieve, too; the "80 %" of SWAT's abstract, beside 76.1 % in its table.
"""


def page(rows: Iterable[Mapping[str, str]]) -> str:
    """The page, made from the rows of the CSV file."""
    rows = list(rows)
    near = [each for each in rows if each["reproduced"] == "yes"]
    far = [each for each in rows if each["reproduced"] == "no"]
    parts = [HEAD, f"## Reproduced ({len(near)} of {len(rows)})\n\n", *_table(near)]
    parts += [f"\n## Not reproduced ({len(far)})\n\n", *_table(far), "\n"]
    for reason in dict.fromkeys(each["reason"] for each in far):
        marked = [str(n) for n, each in enumerate(far, 1) if each["reason"] == reason]
        parts.append(f"- {', '.join(marked)}: {reason}\n")
    parts += [NOT_PLANNED, "\n## Commands\n\nOf the rows above, in order.\n\n```\n"]
    commands = dict.fromkeys(each["command"] for each in (*near, *far))
    return "".join([*parts, *(f"{command}\n" for command in commands), "```\n"])


def _table(rows: Iterable[Mapping[str, str]]) -> Iterator[str]:
    yield "| | source | network and method | figure | published | ours |\n"
    yield "|---|---|---|---|---|---|\n"
    for number, each in enumerate(rows, 1):
        values = dict(
            flag.removeprefix("--").partition("=")[::2]
            for flag in each["command"].split()[2:]
        )
        what = " ".join(
            values[name] for name in ("model", "method", "distribution", "sparsity")
        )
        what += " channels" if "structured" in values else ""
        figure = f"{each['part']}, {each['unit']}"
        cells = (str(number), each["source"], what, figure)
        yield f"| {' | '.join((*cells, each['published'], each['ours']))} |\n"


def main() -> None:
    once = functools.cache(planned)
    rows = [row(each, once(each.flags, each.part)) for each in figures()]
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
