"""What the benchmarks share: their flags, their CSV, their clock and their table."""

import contextlib
import csv
import io
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from absl import flags
from tqdm import tqdm

from launch.support.errors import BAD_INPUT

T = TypeVar("T")


def parse(
    argv: Sequence[str], description: str, define: Callable[[flags.FlagValues], None]
) -> flags.FlagValues:
    """Reads a command line, or prints the help and exits.

    Each benchmark has flags of its own, so that a test may import several.

    Args:
      argv: the program's name, then its arguments.
      description: what `--help` says before it lists the flags.
      define: adds the flags.

    Raises:
      SystemExit: with 0 after the help, with 2 after a mistake, explained on stderr.
    """
    values = flags.FlagValues()
    define(values)
    flags.DEFINE_boolean("help", False, "show this help", flag_values=values)
    try:
        rest = values(list(argv))
        if len(rest) > 1:
            raise flags.Error(f"Expected only flags. Received: {rest[1]!r}")
    except flags.Error as error:
        fail(str(error))
    if values.help:
        print(f"{description.strip()}\n\nFlags:")
        for name in sorted(set(values) - {"help"}):
            flag = values[name]
            print(f"  --{name}: {flag.help} (default: {flag.default_as_str})")
        raise SystemExit(0)
    return values


def fail(message: str) -> None:
    """Exits with one sentence on stderr."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(BAD_INPUT)


def json_of_process(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> Any:
    """Runs a program, and reads the JSON of the last line that it prints.

    Args:
      command: the program and its arguments.
      environment: variables that it gets beside those of this process.

    Raises:
      SystemExit: if it fails, with the end of what it wrote to stderr.
    """
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        fail(f"the process {' '.join(command[1:])} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


class Results:
    """A CSV that is only added to, one row a measurement.

    Args:
      path: of the CSV; made with its header if it is missing.
      columns: its header.
      settings: what the rows of this run have in common. Rows of the file that differ in
        these stay in it but do not count.

    Raises:
      SystemExit: for a path in a missing folder, or a file with other columns.
    """

    def __init__(self, path: str, columns: Sequence[str], settings: Mapping[str, Any]):
        self._path = pathlib.Path(path)
        self._columns = tuple(columns)
        self._settings = {name: str(value) for name, value in settings.items()}
        self.rows: list[dict[str, str]] = []
        if not self._path.parent.is_dir():
            fail(f"Expected a --csv in a folder that exists. Received: {path}")
        if self._path.exists():
            self._read()
        else:
            self._path.write_text(_line(columns), encoding="utf-8")

    def _read(self) -> None:
        text = self._path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # a kill may have cut a line short
        if whole != text:
            self._path.write_text(whole, encoding="utf-8")
        reader = csv.DictReader(io.StringIO(whole))
        if tuple(reader.fieldnames or ()) != self._columns:
            fail(
                f"Expected a --csv with the columns {','.join(self._columns)}. "
                f"Received: {self._path} with {','.join(reader.fieldnames or ())}"
            )
        mine = self._settings.items()
        self.rows = [row for row in reader if mine <= row.items()]

    def add(self, **values: Any) -> None:
        """Adds a row; the settings need not be given."""
        given = {name: str(value) for name, value in values.items()}
        row = {**self._settings, **given}
        with open(self._path, "a", encoding="utf-8", newline="") as file:
            file.write(_line([row[name] for name in self._columns]))
        self.rows.append(row)

    def where(self, **values: Any) -> list[dict[str, str]]:
        """The rows with these values."""
        given = {name: str(value) for name, value in values.items()}
        return [row for row in self.rows if given.items() <= row.items()]

    def complete_rounds(
        self, variants: Iterable[str], read: Callable[[Mapping[str, str]], T]
    ) -> list[dict[str, T]]:
        """The rounds in which every variant has been measured.

        Of a variant that was measured twice, as after a kill, the last counts.

        Args:
          variants: all there are.
          read: what is wanted of a row.

        Returns:
          For each round: variant -> what was read.
        """
        rounds: dict[str, dict[str, T]] = {}
        for row in self.rows:
            rounds.setdefault(row["round"], {})[row["variant"]] = read(row)
        return [found for found in rounds.values() if set(found) == set(variants)]


def _line(cells: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


class Spread(NamedTuple):
    """Median and range of some figures."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def spread(figures: Sequence[float]) -> Spread:
    """The median, and the range between the quartiles.

    >>> str(spread([1.0, 2.0, 3.0, 4.0, 50.0]))
    '3.000 (2.000 to 4.000)'
    """
    if len(figures) == 1:
        return Spread(figures[0], figures[0], figures[0])
    low, median, high = statistics.quantiles(figures, n=4, method="inclusive")
    return Spread(median, low, high)


class Times(NamedTuple):
    """How long something took, in milliseconds.

    Attributes:
      wall: by the clock on the wall, which other programs on the machine lengthen.
      cpu: of all threads of this process together, which they lengthen less.
    """

    wall: float
    cpu: float


def times_of(row: Mapping[str, str]) -> Times:
    """What `wall_ms` and `cpu_ms` of a row say."""
    return Times(float(row["wall_ms"]), float(row["cpu_ms"]))


def timed(call: Callable[[], Any]) -> Times:
    """The time that one call takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Times(1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu))


def median_timed(call: Callable[[], Any], count: int) -> Times:
    """The medians of the times that several calls take, one after the other."""
    each = [timed(call) for _ in range(count)]
    return Times(
        statistics.median(times.wall for times in each),
        statistics.median(times.cpu for times in each),
    )


def run_rounds(
    results: Results,
    variants: Sequence[str],
    make: Callable[[str], Callable[[], Any]],
    *,
    rounds: int,
    deadline: float,
    burst: int,
    name: str | None = None,
    units: int = 1,
) -> list[dict[str, Times]]:
    """Measures the rounds that are missing: a burst of each variant, in random order.

    Each burst follows a call that does not count.

    Args:
      results: where they are kept, with columns `round`, `variant`, `wall_ms`, `cpu_ms`.
      variants: all there are.
      make: maps a variant to the call that is measured; used at the first round, if any.
      rounds: the total number.
      deadline: of `time.monotonic()`; no round begins after it.
      burst: calls that count, of which the median is kept.
      name: of the progress bar.
      units: what one call does; times are of one unit.

    Returns:
      The complete rounds: variant -> times.
    """
    done = len(results.complete_rounds(variants, times_of))
    missing = tqdm(range(done, rounds), name, unit="round", disable=None)
    calls: dict[str, Callable[[], Any]] = {}
    for number in missing:
        if time.monotonic() > deadline:
            break
        for variant in variants if not calls else ():
            missing.set_postfix_str(f"compiling {variant}")
            calls[variant] = make(variant)
        missing.set_postfix_str("")
        for variant in random.sample(list(calls), len(calls)):
            calls[variant]()
            times = median_timed(calls[variant], burst)
            results.add(
                round=number,
                variant=variant,
                wall_ms=f"{times.wall / units:.3f}",
                cpu_ms=f"{times.cpu / units:.3f}",
            )
    return results.complete_rounds(variants, times_of)


def resident_bytes() -> int | None:
    """The memory that is resident in this process; None where the system does not say."""
    import resource  # not on every system that runs the other benchmarks

    statm = pathlib.Path("/proc/self/statm")
    if not statm.exists():
        return None
    return int(statm.read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def peak_bytes() -> int:
    """The most memory that was ever resident in this process.

    On Linux `ru_maxrss` begins with what was resident in the process that started this
    one, which may be more; the peak of /proc does not.
    """
    import resource

    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    # Linux counts in kilobytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns under a header: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
