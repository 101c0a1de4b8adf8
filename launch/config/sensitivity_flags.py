"""The flags of `launch/sensitivity.py`: those of training, and which runs to make."""

from absl import flags

from launch.config import flag_table
from launch.config import flags as launch_flags
from launch.config.flag import AT_LEAST_1, Flag, Groups
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
        "which ones, of " + ", ".join(STUDIES),
        choices=tuple(STUDIES),
    ),
    Flag(
        "list",
        "sparsities",
        ["0.5", "0.6", "0.7", "0.8", "0.9"],
        "of the figures, fractions of zeros",
    ),
    Flag("list", "ablation_sparsities", ["0.9"], "of the ablations"),
    Flag("list", "freeze_at", ["1"], "steps from which `freeze` keeps what is active"),
    Flag("list", "periods", ["10", "100"], "steps a threshold serves for, in `period`"),
    Flag("list", "seeds", ["0", "1", "2"], "of weights and batches"),
    Flag(
        "integer",
        "topk_period",
        1,
        "steps a threshold serves for, elsewhere",
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
        for title, group in (flag_table.TRAINED, flag_table.LENGTH, flag_table.RUN)
    ),
)

HEAD = """\
Trains one network many times to see what sparsity harms where (Figures 1 and 2
of the SWAT paper, and its ablations), and draws the accuracies with their range
over seeds.

  # on the bundled digits, some minutes
  python launch/sensitivity.py \\
      --flagfile=launch/flagfiles/sensitivity_digits.cfg

  # on CIFAR-10 that tensorflow-datasets has prepared in DIR
  python launch/sensitivity.py --data_dir=DIR \\
      --flagfile=launch/flagfiles/sensitivity_cifar10.cfg

  # only two studies, one seed, on a network of one's choice
  python launch/sensitivity.py --dataset=digits --model=resnet20 --epochs=5 \\
      --studies=dense,backward_errors --seeds=0 --run_dir=runs/errors

results.csv in the run's folder gets a line after each run, with its seed and
the arguments of its scope; the same command goes on after the last one.
figures.png and ablations.png are drawn from it: a run that has diverged, whose
accuracy is nan, is a cross there, and in no mean.
"""


def numbers(values: flags.FlagValues, name: str, kind: type) -> list:
    """A list flag as numbers.

    Raises:
      UserError: for an item that is no such number.
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
    """The parsed flags of a study, with what they say of it checked.

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
