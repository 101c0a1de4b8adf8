"""The flags of `launch/report.py`."""

from collections.abc import Sequence

from absl import flags

from launch.config import flags as launch_flags
from launch.config.flag import AT_LEAST_0, Flag, Groups

GROUPS: Groups = (
    (
        "Report",
        (
            Flag(
                "string",
                "out",
                None,
                "folder of index.html and the PNGs; default report/ in the first run, or "
                "beside the CSV",
            ),
            Flag(
                "string",
                "metric",
                None,
                "column of metrics.csv or of the CSV that is compared; default by data",
            ),
            Flag(
                "string",
                "baseline",
                None,
                "variant that the table of a sweep compares with; default dense, or the "
                "first one",
            ),
            Flag(
                "integer",
                "layers",
                8,
                "layers of each run with a histogram and a picture of their sets",
                AT_LEAST_0,
            ),
            Flag(
                "string",
                "data_dir",
                None,
                "the present folder of the data; default as in training",
            ),
            Flag(
                "boolean",
                "simulate",
                True,
                "simulate the cycles of a step, which takes the data and some seconds",
            ),
            Flag("boolean", "verbose", False, "do not silence TensorFlow"),
        ),
    ),
)

HEAD = """\
Writes one HTML page on runs of launch/train.py, or on a sweep, and its charts as
PNGs. The page needs no network and opens from a file.

  # one run, and its dense twin if it was trained with --compare_dense
  python launch/report.py runs/quickstart

  # several: those that differ only in the seed become a line with a band
  python launch/report.py runs/a runs/b runs/c --out=runs/compared

  # a sweep: the metric over what the runs cost, and the table
  python launch/report.py runs/sweep_digits/sweep.csv

  # another column, more layers
  python launch/report.py runs/quickstart --metric=train_loss --layers=20

The page has the metric over steps, counted FLOPs and time; sparsity and churn of
each layer over time; sparsity beside FLOPs; histograms and pictures of the sets;
a table of costs, counted, simulated and measured, dense and sparse; flags, versions and
machine. A run that has not ended gets a report so far. docs/reports.md explains
each part. Runs on one page must be on the same data.
"""


def parse(argv: Sequence[str]) -> tuple[flags.FlagValues, list[str]]:
    """Parses and checks a command line.

    Args:
      argv: the program's name, then its arguments.

    Returns:
      The flags, and the paths of runs or of a CSV.

    Raises:
      UserError: for an unknown flag, or a value out of range.
    """
    return launch_flags.known(argv, GROUPS)
