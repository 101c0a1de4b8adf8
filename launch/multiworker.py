"""Starts a job of several workers on one host, and restarts it when a worker dies.

  # two processes that train together, each on its half of every batch
  python launch/multiworker.py --workers=2 -- --flagfile=launch/flagfiles/quickstart.cfg

The arguments after `--` are flags of launch/train.py; --strategy=multiworker is added.
The output of the chief is shown unchanged; lines that the other workers write to stderr
begin with the index of the worker. When a worker dies, all are stopped and the job
resumes from its last checkpoint, at most --restarts times. Ctrl-C and SIGTERM are passed
on to the workers. On Linux the workers save their step and end if this script itself is
killed. The exit code is that of the chief. For several hosts see docs/distributed.md.

Flags:
  --workers [2]
      processes; --batch_size is divided evenly among them
  --restarts [3]
      how often the job is restarted after a worker has died
"""

import pathlib
import sys
from collections.abc import Sequence

if __name__ == "__main__":
    # Run as a file, Python looks for modules in launch/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags

from launch.distribute.job import run
from launch.support import terminal
from launch.support.errors import BAD_INPUT, UserError

TRAIN = pathlib.Path(__file__).resolve().parent / "train.py"


def _parted(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The arguments before `--`, for this script, and after it, for the workers."""
    place = argv.index("--") if "--" in argv else len(argv)
    return argv[:place], argv[place + 1 :]


def _parse(argv: Sequence[str]) -> tuple[flags.FlagValues, Sequence[str]]:
    own, asked = _parted(argv)
    values = flags.FlagValues()
    flags.DEFINE_integer("workers", 2, "processes", 1, flag_values=values)
    flags.DEFINE_integer("restarts", 3, "restarts", 0, flag_values=values)
    misplaced = UserError(
        "Expected the flags of launch/train.py after `--`, as in `--workers=2 -- "
        f"--flagfile=...`. Received: {' '.join(argv[1:]) or 'nothing'}"
    )
    try:
        rest = values(own)[1:]
    except flags.UnrecognizedFlagError:
        raise misplaced from None
    except (flags.Error, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from None
    if rest or not asked:
        raise misplaced
    return values, asked


def main(argv: Sequence[str]) -> int:
    """Runs the command line.

    Args:
      argv: the program's name, then its arguments.

    Returns:
      The exit code.
    """
    own, _ = _parted(argv)
    if any(argument in ("-h", "-help", "--help") for argument in own[1:]):
        terminal.show(__doc__)
        return 0
    try:
        values, asked = _parse(argv)
    except UserError as error:
        terminal.error(error)
        return BAD_INPUT
    command = [sys.executable, str(TRAIN), *asked, "--strategy=multiworker"]
    return run(command, values.workers, values.restarts)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
