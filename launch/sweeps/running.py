"""Runs the processes of a sweep, some at a time, and says how far they are."""

import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from launch.support import terminal
from launch.support.errors import DIVERGED, UserError
from launch.sweeps import results
from launch.sweeps.metrics import metric_of
from launch.sweeps.runs import Run

TRAIN = pathlib.Path(__file__).resolve().parent.parent / "train.py"
_POLL_SECONDS = 0.2
_SHOWN_EVERY = 5.0


@dataclasses.dataclass
class _Active:
    """A run whose process is there."""

    run: Run
    process: subprocess.Popen
    begun: float
    tries: int
    is_whole: bool


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the runs of a sweep are, and how they are begun.

    Attributes:
      folder: of all runs and their logs.
      csv: the table.
      command: what trains, before its flags.
      threads: within an operation, of each run; 0 for those of the machine.
    """

    folder: pathlib.Path
    csv: pathlib.Path
    command: tuple[str, ...] = (sys.executable, str(TRAIN))
    threads: int = 0

    def folder_of(self, run: Run) -> pathlib.Path:
        """The --run_dir of a run."""
        return self.folder / run.name

    def log_of(self, run: Run) -> pathlib.Path:
        """What a run prints."""
        return self.folder / f"{run.name}.log"

    def begin(self, run: Run) -> subprocess.Popen:
        """Starts the process of a run, which goes on from a checkpoint if there is one."""
        environment = dict(os.environ)
        if self.threads:
            environment["TF_NUM_INTRAOP_THREADS"] = str(self.threads)
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.log_of(run), "a", encoding="utf-8") as log:
            return subprocess.Popen(
                (*self.command, *run.arguments, f"--run_dir={self.folder_of(run)}"),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # an interrupt is passed on by hand
            )

    def result_of(self, run: Run) -> dict[str, Any] | None:
        """The result of a run that has ended, or None."""
        path = self.folder_of(run) / run.method / "result.json"
        return json.loads(path.read_text("utf-8")) if path.exists() else None

    def step_of(self, run: Run) -> str:
        """How far a run is, by the table that it writes; empty before its first row."""
        path = self.folder_of(run) / run.method / "metrics.csv"
        if not path.exists():
            return ""
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return f"step {rows[-1]['step']}" if rows and rows[-1].get("step") else ""


class Sweep:
    """The runs of a sweep that are still to be made.

    Args:
      runs: all that have no row.
      place: where they are.
      parallel: how many run at a time.
      retries: how often a failed run is begun again.
      out: where it says what happens.

    Raises:
      UserError: by `run`, if another sweep uses the folder.

    Attributes:
      failed: runs that have failed as often as they may.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        place: Place,
        parallel: int = 1,
        retries: int = 1,
        out: TextIO = sys.stdout,
    ):
        self._waiting = [(run, 0) for run in runs]
        self._total = len(runs)
        self._place, self._parallel = place, parallel
        self._retries, self._out = retries, out
        self._active: list[_Active] = []
        self._lines, self._shown = 0, 0.0
        self.failed: list[Run] = []
        self._ended = 0

    def run(self) -> None:
        """Runs them to the end; an interrupt ends the processes, which first save."""
        try:
            with _alone(self._place.folder), _ended_by_signals():
                self._loop()
        finally:
            self._clear()

    def _loop(self) -> None:
        try:
            while self._waiting or self._active:
                self._begin()
                for active in list(self._active):
                    self._look_at(active)
                self._show()
                time.sleep(_POLL_SECONDS)
        except BaseException:
            self._stop()
            raise

    def _begin(self) -> None:
        while self._waiting and len(self._active) < self._parallel:
            run, tries = self._waiting.pop(0)
            # What has begun goes on, also after its end: launch/train.py compares the
            # flags with those of the folder.
            is_whole = not self._place.folder_of(run).exists()
            process = self._place.begin(run)
            now = time.monotonic()
            self._active.append(_Active(run, process, now, tries, is_whole))
            self._shown = 0.0

    def _look_at(self, active: _Active) -> None:
        process = active.process
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid == 0:
            return
        process.returncode = os.waitstatus_to_exitcode(status)
        self._active.remove(active)
        seconds = time.monotonic() - active.begun
        result = self._place.result_of(active.run)
        if process.returncode == 0 and result is not None:
            peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
            wall = f"{seconds:.1f}" if active.is_whole else ""
            self._note(active.run, result, wall, f"{peak:.0f}")
            return
        if process.returncode == DIVERGED:
            self._note_diverged(active.run)
            return
        why = f"exit code {process.returncode}, {self._place.log_of(active.run)}"
        if active.tries < self._retries:
            self._say(f"{active.run.name} failed ({why}): it is begun again later")
            self._waiting.append((active.run, active.tries + 1))
        else:
            self._say(f"{active.run.name} failed ({why})")
            self.failed.append(active.run)

    def _note(self, run: Run, result: dict[str, Any], wall: str, peak: str) -> None:
        results.append(self._place.csv, run, result, (wall, peak))
        self._ended += 1
        metric = metric_of(result)
        shown = f"{metric} {result[metric]:.4g}" if metric else "ended"
        took = f" in {duration(float(wall))}" if wall else ""
        self._say(f"[{self._ended}/{self._total}] {run.name}: {shown}{took}")

    def _note_diverged(self, run: Run) -> None:
        """A run that would diverge again has a row without a metric."""
        results.append(self._place.csv, run, {"method": run.method}, ("", ""))
        self._ended += 1
        log = self._place.log_of(run)
        self._say(f"[{self._ended}/{self._total}] {run.name}: diverged ({log})")

    def _stop(self) -> None:
        for active in self._active:
            active.process.send_signal(signal.SIGTERM)
        for active in self._active:
            active.process.wait()

    # What is shown.

    def _say(self, line: str) -> None:
        self._clear()
        print(line, file=self._out, flush=True)

    def _show(self) -> None:
        """A table of what runs, which is overwritten on a terminal."""
        if time.monotonic() - self._shown < _SHOWN_EVERY or not self._active:
            return
        if not terminal.moves(self._out):
            return
        self._shown = time.monotonic()
        self._clear()
        width = terminal.columns(self._out)
        lines = [
            f"  {each.run.name}  {self._place.step_of(each.run)}  "
            f"{duration(time.monotonic() - each.begun)}"
            for each in self._active
        ]
        left = len(self._waiting) + len(self._active)
        lines.append(f"  {left} runs left{self._time_left()}")
        print("\n".join(line[:width] for line in lines), file=self._out, flush=True)
        self._lines = len(lines)

    def _clear(self) -> None:
        if self._lines:
            print(f"\x1b[{self._lines}A\x1b[J", end="", file=self._out, flush=True)
            self._lines = 0

    def _time_left(self) -> str:
        seconds = seconds_left(
            [run for run, _ in self._waiting] + [each.run for each in self._active],
            results.read(self._place.csv),
            self._parallel,
        )
        return "" if seconds is None else f", about {duration(seconds)}"


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
    """Within it, no other sweep uses a folder; the system releases those of the dead."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "sweep.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Expected no other sweep in {folder}: wait for it, or name another "
                "--sweep_dir. Received: one that runs"
            ) from None
        yield


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Within it, SIGTERM and SIGHUP are interrupts, so that no process is left behind."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    kinds = (signal.SIGTERM, signal.SIGHUP) if is_main else ()
    before = {kind: signal.signal(kind, interrupt) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def seconds_left(
    runs: Sequence[Run], rows: Sequence[results.Row], parallel: int
) -> float | None:
    """How long runs will take, from those that have ended; None before any has.

    Args:
      runs: those that are left.
      rows: of the CSV: the median of a variant's times, or of all if it has none.
      parallel: how many run at a time.
    """
    times: dict[str, list[float]] = {}
    for row in rows:
        if row["wall_seconds"]:
            times.setdefault(row["variant"], []).append(float(row["wall_seconds"]))
    if not times:
        return None
    usual = statistics.median(value for each in times.values() for value in each)
    of_each = (
        statistics.median(times[run.variant]) if run.variant in times else usual
        for run in runs
    )
    return sum(of_each) / parallel


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(59), duration(3700), duration(90000)
    ('59 s', '1 h 2 min', '25 h 0 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return (
        f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
    )
