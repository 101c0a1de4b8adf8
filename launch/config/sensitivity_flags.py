"""The flags of `launch/sensitivity.py`: training, and the runs of the study."""

from absl import flags

from launch.config import flags as launch_flags
from launch.config.data_flags import TRAINED
from launch.config.flag import AT_LEAST_1, Flag, Groups
from launch.config.learning_flags import LENGTH
from launch.config.run_flags import RUN
from launch.studies.runs import STUDIES
from launch.support.errors import UserError

_LEFT_OUT = frozenset(
    (
        *("method", "compare_dense", "mixed_precision", "dynamics_every"),
        *("evaluate_every", "checkpoint_steps", "keep_checkpoints", "seed"),
    )
)

_STUDY: tuple[Flag, ...] = (
    Flag(
        "list",
        "studies",
        list(STUDIES),
        "any of " + ", ".join(STUDIES),
        choices=tuple(STUDIES),
    ),
    Flag(
        "list",
        "sparsities",
        ["0.5", "0.6", "0.7", "0.8", "0.9"],
        "fractions of zeros in the figures",
    ),
    Flag("list", "ablation_sparsities", ["0.9"], "those in the ablations"),
    Flag(
        "list", "freeze_at", ["1"], "steps at which `freeze` fixes the active weights"
    ),
    Flag("list", "periods", ["10", "100"], "steps between thresholds in `period`"),
    Flag("list", "seeds", ["0", "1", "2"], "seeds of weights and batches"),
    Flag(
        "integer",
        "topk_period",
        1,
        "steps between thresholds in the other studies",
        AT_LEAST_1,
    ),
    Flag(
        "string", "errors_per", "batch", "batch or sample", choices=("batch", "sample")
    ),
    Flag("list", "exempt", ["first"], "weights left dense, with their activations"),
)

GROUPS: Groups = (
    ("The study", _STUDY),
    *(
        (title, tuple(flag for flag in group if flag.name not in _LEFT_OUT))
        for title, group in (TRAINED, LENGTH, RUN)
    ),
)

HEAD = """\
Trains one network many times, to see which sparse operands cost accuracy in
which pass (Figures 1 and 2 of the SWAT paper, and its ablations), and plots the
accuracies with their range over seeds.

  # on the bundled digits, a few minutes
  python launch/sensitivity.py \\
      --flagfile=launch/flagfiles/sensitivity_digits.cfg

  # on CIFAR-10, prepared by tensorflow-datasets in DIR
  python launch/sensitivity.py --data_dir=DIR \\
      --flagfile=launch/flagfiles/sensitivity_cifar10.cfg

  # only two studies, one seed, on another network
  python launch/sensitivity.py --dataset=digits --model=resnet20 --epochs=5 \\
      --studies=dense,backward_errors --seeds=0 --run_dir=runs/errors

After each run, results.csv in the folder gets a line with its seed and the
arguments of its scope; the same command resumes after the last one. figures.png
and ablations.png are plotted from it: a run that has diverged has the accuracy
nan; it is plotted as a cross and left out of the means.
"""


def numbers(values: flags.FlagValues, name: str, kind: type) -> list:
    """A list flag as numbers.

    Raises:
      UserError: for an item that is not such a number.
    """
    given: list[str] = values[name].value or []
    try:
        return [kind(item) for item in given]
    except ValueError:
        meant = "whole numbers" if kind is int else "numbers"
        raise UserError(
            f"Expected --{name} to be {meant} with commas between them. "
            f"Received: {','.join(given)}"
        ) from None


def parse(argv: list[str]) -> flags.FlagValues:
    """Parses and checks a command line.

    Raises:
      UserError: as `launch.config.flags.parse`, and for a study, a sparsity or a step
        out of range.
    """
    return checked(launch_flags.parse(argv, GROUPS))


def checked(values: flags.FlagValues) -> flags.FlagValues:
    """Checks the parsed flags of a study, and returns them.

    Raises:
      UserError: as `parse`.
    """
    for name in ("sparsities", "ablation_sparsities"):
        for sparsity in numbers(values, name, float):
            if not 0 <= sparsity < 1:
                raise UserError(
                    f"Expected --{name} to be in [0, 1). Received: {sparsity}"
                )
    if not values.studies:
        raise UserError(
            f"Expected --studies to be one of {', '.join(STUDIES)}. Received: none"
        )
    seeds = numbers(values, "seeds", int)
    if len(set(seeds)) < len(seeds):
        raise UserError(
            "Expected each of --seeds once. Received: " + ",".join(map(str, seeds))
        )
    for name, least in (("freeze_at", 1), ("periods", 1), ("seeds", 0)):
        for number in numbers(values, name, int):
            if number < least:
                raise UserError(
                    f"Expected --{name} to be at least {least}. Received: {number}"
                )
    return values
