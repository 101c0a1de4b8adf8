"""The flags of `launch/sweep.py`: which runs, how they are run, and those of all runs."""

from collections.abc import Sequence

from absl import flags

from launch.config import flags as launch_flags
from launch.config.flag import AT_LEAST_0, AT_LEAST_1, Flag, Groups, flags_in
from launch.support.errors import UserError

_OF_EACH_RUN = frozenset(("method", "compare_dense", "seed", "run_dir"))
"""Flags of the launcher that the sweep gives."""

_RUNS: tuple[Flag, ...] = (
    Flag(
        "list",
        "methods",
        [],
        "variants that are a method with its defaults, at --sparsity of the sweep",
    ),
    Flag(
        "multi_string",
        "variant",
        [],
        "NAME: FLAGS, once for each; {sparsity} is that of the sweep, {sparsity-0.1} is "
        "less, {2*sparsity-1} twice the density. Without it a variant runs once a seed",
    ),
    Flag("list", "sparsities", ["0.9"], "fractions of zeros"),
    Flag("list", "seeds", ["0", "1", "2"], "seeds of weights and batches"),
)
_HOW: tuple[Flag, ...] = (
    Flag("string", "sweep_dir", "runs/sweep", "the folder of all runs"),
    Flag("string", "csv", None, "one row a run; default sweep.csv in --sweep_dir"),
    Flag("integer", "parallel", 1, "runs at the same time", AT_LEAST_1),
    Flag(
        "integer",
        "threads",
        0,
        "threads within an operation, of each run; 0: all of the machine",
        AT_LEAST_0,
    ),
    Flag("integer", "retries", 1, "how often a failed run is begun again", AT_LEAST_0),
    Flag("boolean", "dry_run", False, "show the runs and what they cost, and end"),
    Flag("boolean", "report_only", False, "make plot and tables of the CSV, and end"),
    Flag("string", "metric", None, "column that is compared; default by data"),
    Flag(
        "string",
        "baseline",
        None,
        "variant that the others are compared with; default the first one",
    ),
)
_OWN = frozenset(flag.name for flag in (*_RUNS, *_HOW))
GROUPS: Groups = (
    ("The runs", _RUNS),
    ("The sweep", _HOW),
    *(
        (title, tuple(flag for flag in group if flag.name not in _OF_EACH_RUN))
        for title, group in launch_flags.GROUPS
    ),
)

HEAD = """\
Trains methods x sparsities x seeds, each by launch/train.py in a process and a
folder of its own, and compares them.

  # three methods at two sparsities, two seeds, on the bundled digits
  python launch/sweep.py --dataset=digits --steps=200 --seeds=0,1 \\
      --methods=dense,static,set --sparsities=0.9,0.95 \\
      --variant='topkast: --method=topkast --fwd={sparsity} --bwd={sparsity-0.1}'

  # what it would run, and what that costs
  python launch/sweep.py --flagfile=FILE --dry_run

A run that is in the CSV is skipped, one that was interrupted goes on from its
last checkpoint, one that failed is begun again and then passed over. The folder
gets a log of each run, the CSV with a row for each, pareto.png (the metric over
counted training FLOPs, kept parameters and processor seconds), variants.png (the
metric of each variant, with its range over seeds), and table.md and table.tex with
means, deviations and paired differences to a baseline.
"""


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """Parses and checks a command line; the flags of the runs are checked with each run.

    Raises:
      UserError: for an unknown flag, or a value out of range.
    """
    values, rest = launch_flags.known(argv, GROUPS)
    if rest:
        raise UserError(f"Expected flags alone. Received: {' '.join(rest)}")
    return values


def of_runs(values: flags.FlagValues) -> tuple[str, ...]:
    """The arguments that were given and are of every run, in the order of the help."""
    return tuple(
        values[flag.name].serialize()
        for flag in flags_in(GROUPS)
        if flag.name not in _OWN and values[flag.name].present
    )
