"""The workers of a job on this host, restarted when one of them dies."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from launch.distribute.devices import CLUSTER, cluster
from launch.support.errors import FINAL, LOST_WORKER

_PAUSE = 0.1  # seconds between two polls of the workers
_PATIENCE = 60.0  # seconds for the others to end after the chief has ended
_LAST_WORDS = 20.0  # seconds for the others to end after one has refused its input
_SETTLE = 3.0  # seconds in which others fail because the first one failed
_BETWEEN = 5.0  # seconds before a worker is restarted, for those of other hosts to end
_FORWARDED = (signal.SIGINT, signal.SIGTERM)

# Linux can signal a process when its parent dies.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_PDEATHSIG = 1  # of <linux/prctl.h>


def run(command: Sequence[str], count: int, restarts: int) -> int:
    """Runs a job on this host to its end, and restarts it when a worker dies.

    A worker that exits with code 2 has reported a mistake in its input; the job is not
    restarted then.

    Args:
      command: the command of each worker.
      count: number of workers.
      restarts: how often the job may be restarted.

    Returns:
      The exit code of the chief.
    """
    return _supervised(lambda: Job(command, _loopback(count), range(count)), restarts)


def run_on(
    command: Sequence[str], addresses: Sequence[str], index: int, restarts: int
) -> int:
    """Runs one worker of a job of several hosts, and restarts it when the job has failed.

    The same is called on each host. When a host is lost, the workers of the others end,
    and wait for it after their restart.

    Args:
      command: the command of the worker.
      addresses: HOST:PORT of each worker, the chief first.
      index: of the worker of this host.
      restarts: how often it may be restarted.

    Returns:
      The exit code of the worker.
    """
    return _supervised(
        lambda: Job(command, addresses, [index]), restarts, pause=_BETWEEN
    )


def _supervised(begin: Callable[[], "Job"], restarts: int, pause: float = 0.0) -> int:
    with _signals() as received:
        while True:
            job = begin()
            received.pass_on_to(job)
            try:
                worker, code = job.wait()
                if received.number is not None:
                    ended = job.wait_for_chief()
                    return _exit_code(-received.number if ended is None else ended)
            finally:
                job.stop()
            if code == 0 or code in FINAL:
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
            if received.waits(pause):
                return _exit_code(-(received.number or 0))


class Job:
    """The workers of a job on this host.

    Args:
      command: the command of each worker, which reads its index from TF_CONFIG.
      addresses: HOST:PORT of each worker of the job, the chief first.
      indices: of the workers on this host. The output of the first one is shown.
    """

    def __init__(
        self, command: Sequence[str], addresses: Sequence[str], indices: Sequence[int]
    ):
        self._relays: list[threading.Thread] = []
        self._indices = indices
        self._workers = [self._started(command, addresses, i) for i in indices]
        pids = ", ".join(str(worker.pid) for worker in self._workers)
        said = f"{len(indices)} workers, processes {pids}"
        if len(indices) < len(addresses):
            said = f"worker {indices[0]} of {len(addresses)}, process {pids}"
        print(f"job: {said}", file=sys.stderr, flush=True)

    def _started(
        self, command: Sequence[str], addresses: Sequence[str], index: int
    ) -> subprocess.Popen:
        quiet: dict[str, Any] = {}
        is_shown = index == self._indices[0]
        if not is_shown:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        worker = subprocess.Popen(
            command,
            env={**os.environ, CLUSTER: cluster(addresses, index)},
            stdin=subprocess.DEVNULL,
            # So that a worker gets Ctrl-C once, from this process.
            start_new_session=True,
            preexec_fn=_end_with_parent if _libc else None,
            text=True,
            errors="replace",
            **quiet,
        )
        if not is_shown:
            relay = threading.Thread(target=_relay, args=(worker.stderr, index))
            relay.start()
            self._relays.append(relay)
        return worker

    def wait(self) -> tuple[int, int]:
        """Waits until the job has ended or one of its workers has died.

        Returns:
          The index and the exit code of the worker that failed first, or of the first one
          if none has. A negative code is the signal that killed the worker.
        """
        patience = float("inf")
        while True:
            codes = self._codes()
            if any(codes):
                return self._cause()
            if None not in codes or time.monotonic() > patience:
                return self._indices[0], 0
            if codes[0] == 0 and patience == float("inf"):
                patience = time.monotonic() + _PATIENCE
            time.sleep(_PAUSE)

    def _codes(self) -> list[int | None]:
        """The exit code of each worker; None while it is alive."""
        return [worker.poll() for worker in self._workers]

    def _cause(self) -> tuple[int, int]:
        """The worker that failed first, if that can be determined, and its exit code.

        The others fail a moment later, because of the first, but may be seen before it.
        """
        start = time.monotonic()
        while None in self._codes():
            is_refused = bool(set(FINAL) & set(self._codes()))
            if time.monotonic() - start > (_LAST_WORDS if is_refused else _SETTLE):
                break
            time.sleep(_PAUSE)
        codes = zip(self._indices, self._codes(), strict=True)
        failed = [(i, code) for i, code in codes if code]
        # TensorFlow aborts the processes of a job that has lost a worker.
        consequences = (LOST_WORKER, -signal.SIGABRT)
        return min(
            failed,
            key=lambda one: (one[1] not in FINAL, one[1] in consequences, one[0]),
        )

    def wait_for_chief(self) -> int | None:
        """Waits for the chief to end; returns its exit code, or None if it is alive."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._workers[0].wait(_PATIENCE)
        return self._workers[0].returncode

    def send(self, number: int) -> None:
        """Sends a signal to all workers that are alive."""
        for worker in self._workers:
            with contextlib.suppress(ProcessLookupError):
                worker.send_signal(number)

    def stop(self) -> None:
        """Kills all workers of the job; files that they have written are complete."""
        self.send(signal.SIGKILL)
        for worker in self._workers:
            worker.wait()
        for relay in self._relays:
            relay.join()


def _loopback(count: int) -> list[str]:
    return [f"127.0.0.1:{port}" for port in free_ports(count)]


def free_ports(count: int) -> list[int]:
    """Free ports of the loopback interface."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _end_with_parent() -> None:
    """Requests SIGTERM for this process, a future worker, if its parent is killed."""
    _libc.prctl(_PDEATHSIG, signal.SIGTERM)


def _exit_code(code: int) -> int:
    """The exit code as a shell reports it; a negative code is a signal."""
    return 128 - code if code < 0 else code


class _Received:
    """The signal that this process has received, and the job that it is sent to."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._job: Job | None = None

    def waits(self, seconds: float) -> bool:
        """Waits, or until a signal comes; returns whether one has."""
        end = time.monotonic() + seconds
        while self.number is None and time.monotonic() < end:
            time.sleep(_PAUSE)
        return self.number is not None

    def pass_on_to(self, job: Job) -> None:
        self._job = job
        if self.number is not None:  # received while the job was starting
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
