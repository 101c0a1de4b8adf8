"""Starts a job of several workers on one host, and starts it again when one dies.

  # two processes that train together, each on its half of every batch
  python launch/multiworker.py --workers=2 -- --flagfile=launch/flagfiles/quickstart.cfg

What stands behind `--` are the flags of launch/train.py; --strategy=multiworker is added.
The chief's output is shown as it is, what the others write to stderr with their number
before it. When a worker dies, all are stopped and the job goes on from its last
checkpoint, at most --restarts times. Ctrl-C and SIGTERM are passed on, and on Linux the
workers save their step and end if this script itself is killed. The exit code is the
chief's. For several hosts see docs/distributed.md.

Flags:
  --workers [2]
      processes, each with a share of the batch; --batch_size is of all together
  --restarts [3]
      how often the job is started again after a worker has died
"""

import contextlib
import ctypes
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

if __name__ == "__main__":
    # Run as a file, Python looks for modules in launch/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags

from launch.distribute.devices import CLUSTER
from launch.support import terminal
from launch.support.errors import BAD_INPUT, LOST_WORKER, UserError

TRAIN = pathlib.Path(__file__).resolve().parent / "train.py"
_PAUSE = 0.1  # seconds between two looks at the workers
_PATIENCE = 60.0  # seconds that the others have, once the chief has ended
_LAST_WORDS = 20.0  # seconds that the others have, once one has refused its input
_SETTLE = 3.0  # seconds in which others fail for want of the one that failed first
_FORWARDED = (signal.SIGINT, signal.SIGTERM)


# Where a process can ask to be told of the death of its parent.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_PDEATHSIG = 1  # of <linux/prctl.h>


def _end_with_parent() -> None:
    """Has this process, a worker to be, asked to end if the job's script is killed."""
    _libc.prctl(_PDEATHSIG, signal.SIGTERM)


def cluster(addresses: Sequence[str], index: int) -> str:
    """TF_CONFIG of one worker.

    Args:
      addresses: HOST:PORT of each worker; the first is the chief's.
      index: of the worker.

    >>> cluster(["a:1", "b:1"], 1)
    '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'
    """
    return json.dumps(
        {
            "cluster": {"worker": list(addresses)},
            "task": {"type": "worker", "index": index},
        }
    )


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Job:
    """The workers of a job on this host.

    Args:
      command: what each runs; it finds its place in TF_CONFIG.
      count: how many.
    """

    def __init__(self, command: Sequence[str], count: int):
        addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
        self._relays: list[threading.Thread] = []
        self._workers = [self._started(command, addresses, i) for i in range(count)]
        pids = ", ".join(str(worker.pid) for worker in self._workers)
        print(f"job: {count} workers, processes {pids}", file=sys.stderr, flush=True)

    def _started(
        self, command: Sequence[str], addresses: Sequence[str], index: int
    ) -> subprocess.Popen:
        quiet: dict[str, Any] = {}
        if index:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        worker = subprocess.Popen(
            command,
            env={**os.environ, CLUSTER: cluster(addresses, index)},
            stdin=subprocess.DEVNULL,
            # So that Ctrl-C reaches a worker once, through us.
            start_new_session=True,
            preexec_fn=_end_with_parent if _libc else None,
            text=True,
            errors="replace",
            **quiet,
        )
        if index:
            relay = threading.Thread(target=_relay, args=(worker.stderr, index))
            relay.start()
            self._relays.append(relay)
        return worker

    def wait(self) -> tuple[int, int]:
        """Waits until the job has ended, or one of its workers has died.

        Returns:
          The number of the worker that decides, and its exit code: the one whose failure
          made the others fail, else the chief. Negative: the signal that killed it.
        """
        patience = float("inf")
        while True:
            codes = self._codes()
            if any(codes):
                return self._cause()
            if None not in codes or time.monotonic() > patience:
                return 0, 0
            if codes[0] == 0 and patience == float("inf"):
                patience = time.monotonic() + _PATIENCE
            time.sleep(_PAUSE)

    def _codes(self) -> list[int | None]:
        """The exit code of each worker; None: it is alive."""
        return [worker.poll() for worker in self._workers]

    def _cause(self) -> tuple[int, int]:
        """The worker that failed first, where that can be told, and its exit code.

        Those that miss it fail a moment later, and may be seen before it.
        """
        start = time.monotonic()
        while None in self._codes():
            is_refused = BAD_INPUT in self._codes()
            if time.monotonic() - start > (_LAST_WORDS if is_refused else _SETTLE):
                break
            time.sleep(_PAUSE)
        failed = [(i, code) for i, code in enumerate(self._codes()) if code]
        # TensorFlow aborts a process that others of its job have left.
        consequences = (LOST_WORKER, -signal.SIGABRT)
        return min(
            failed,
            key=lambda one: (one[1] != BAD_INPUT, one[1] in consequences, one[0]),
        )

    def wait_for_chief(self) -> int | None:
        """Waits until the chief has ended by itself; its exit code, None if it has not."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._workers[0].wait(_PATIENCE)
        return self._workers[0].returncode

    def send(self, number: int) -> None:
        """Sends a signal to all workers that are alive."""
        for worker in self._workers:
            with contextlib.suppress(ProcessLookupError):
                worker.send_signal(number)

    def stop(self) -> None:
        """Ends what is left of the job at once; what it has written is whole."""
        self.send(signal.SIGKILL)
        for worker in self._workers:
            worker.wait()
        for relay in self._relays:
            relay.join()


def run(command: Sequence[str], count: int, restarts: int) -> int:
    """Runs a job to its end, through the deaths of workers.

    A worker that ends by itself with exit code 2 has said what is wrong with its input,
    which another start would not mend; a worker that is killed or fails is different.

    Args:
      command: what each worker runs.
      count: workers.
      restarts: how often the job may be started again.

    Returns:
      The exit code: the chief's.
    """
    with _signals() as received:
        while True:
            job = Job(command, count)
            received.pass_on_to(job)
            try:
                worker, code = job.wait()
                if received.number is not None:
                    ended = job.wait_for_chief()
                    return _exit_code(-received.number if ended is None else ended)
            finally:
                job.stop()
            if code == 0 or code == BAD_INPUT:
                return code
            how = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
            left = (
                "starting again from the last checkpoint" if restarts else "giving up"
            )
            print(
                f"job: worker {worker} was {how}; {left}.", file=sys.stderr, flush=True
            )
            if not restarts:
                return _exit_code(code)
            restarts -= 1


def _exit_code(code: int) -> int:
    """What a shell calls the end of a process; negative: the signal that killed it."""
    return 128 - code if code < 0 else code


class _Received:
    """The signal that was sent to this process, and the job it is passed on to."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._job: Job | None = None

    def pass_on_to(self, job: Job) -> None:
        self._job = job
        if self.number is not None:  # it came while the job was being started
            job.send(self.number)

    def __call__(self, number: int, frame: Any) -> None:
        self.number = number
        if self._job is not None:
            self._job.send(number)


@contextlib.contextmanager
def _signals() -> Iterator[_Received]:
    received = _Received()
    before = {number: signal.signal(number, received) for number in _FORWARDED}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _relay(lines: Any, index: int) -> None:
    with lines:
        for line in lines:
            sys.stderr.write(f"worker {index}: {line}")
            sys.stderr.flush()


def _parted(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """What stands before `--`, for this script, and behind it, for the workers."""
    place = argv.index("--") if "--" in argv else len(argv)
    return argv[:place], argv[place + 1 :]


def _parse(argv: Sequence[str]) -> tuple[flags.FlagValues, Sequence[str]]:
    own, asked = _parted(argv)
    values = flags.FlagValues()
    flags.DEFINE_integer("workers", 2, "processes", 1, flag_values=values)
    flags.DEFINE_integer("restarts", 3, "starts again", 0, flag_values=values)
    misplaced = UserError(
        "Expected the flags of launch/train.py behind `--`, as in `--workers=2 -- "
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
