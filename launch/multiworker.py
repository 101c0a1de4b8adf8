"""Starts the workers of a job on this host, and restarts them when one dies.

  # two processes that train together, each on its half of every batch
  python launch/multiworker.py --workers=2 -- --flagfile=launch/flagfiles/quickstart.cfg

The arguments after `--` are flags of launch/train.py; --strategy=multiworker is added.
The output of the chief is shown unchanged; lines that the other workers write to stderr
begin with the index of the worker. When a worker dies, all are stopped and the job
resumes from its last checkpoint, at most --restarts times. Ctrl-C and SIGTERM are passed
on to the workers. On Linux the workers save their step and end if this script itself is
killed. The exit code is that of the chief.

  # one worker a host, the same on each of them but for --index; /shared is on all
  python launch/multiworker.py --hosts=host0:2222,host1:2222 --index=0 --restarts=100 -- \
      --flagfile=launch/flagfiles/quickstart.cfg --run_dir=/shared/run

With --hosts it starts the worker of this host alone. When another host is lost, the
worker ends, is restarted after five seconds, and waits for all hosts; the job then
resumes from its last checkpoint. docs/distributed.md says more.

Flags:
  --workers [2]
      processes on this host; --batch_size is divided evenly among them
  --hosts
      HOST:PORT of each worker of a job of several hosts, the chief first
  --index
      which of the --hosts this one is, from 0
  --restarts [3]
      how often the job is restarted after a worker has died
"""

import pathlib
import re
import sys
from collections.abc import Sequence

if __name__ == "__main__":
    # Run as a file, Python looks for modules in launch/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags

from launch.distribute.job import run, run_on
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
    flags.DEFINE_integer("workers", None, "processes", 1, flag_values=values)
    flags.DEFINE_list("hosts", None, "HOST:PORT of each", flag_values=values)
    flags.DEFINE_integer("index", None, "of this host", 0, flag_values=values)
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
    _check_hosts(values)
    return values, asked


def _check_hosts(values: flags.FlagValues) -> None:
    hosts, index = values.hosts, values.index
    if (hosts is None) != (index is None) or (hosts and values.workers is not None):
        raise UserError(
            "Expected --hosts and --index together, or --workers. Received: "
            f"--hosts={hosts and ','.join(hosts)}, --index={index}, "
            f"--workers={values.workers}"
        )
    if hosts is None:
        return
    wrong = [
        one for one in hosts if not re.fullmatch(r"(\[\S+\]|[^\s:]+):\d{1,5}", one)
    ]
    if wrong or len(set(hosts)) < len(hosts):
        raise UserError(
            "Expected --hosts to be HOST:PORT of each worker, each once. Received: "
            f"{','.join(hosts)}"
        )
    if index >= len(hosts):
        raise UserError(
            f"Expected --index of at most {len(hosts) - 1}, for one of {len(hosts)} "
            f"hosts. Received: --index={index}"
        )


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
    if values.hosts is not None:
        return run_on(command, values.hosts, values.index, values.restarts)
    return run(
        command, 2 if values.workers is None else values.workers, values.restarts
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
