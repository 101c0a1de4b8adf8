"""Where the time of a training step goes: milliseconds of each type of operation.

A model of native_models.py is trained with `train_on_batch` in the variants of
benchmarks/native.py (`dense`, `masked`, `native`, `auto`), each under TensorFlow's profiler
for some steps. The time of an operation is its own, without that of operations within it,
summed over all operations of its type in a step. Types that take less than 1 % of the step
of each variant are one row, `others`; `between operations` is the rest of the time of a
step, by the clock and without the profiler.

The CSV holds a row for each type, and only grows: a variant that is there is not measured
again.

Example: python benchmarks/breakdown.py --case=transformer_xl --sparsity=0.9/0.8
"""

import collections
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

if __name__ == "__main__":
    # Run as a file, Python looks for modules in benchmarks/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags

from benchmarks import common
from launch.support.quiet import quiet_start

with quiet_start():
    import tensorflow as tf

    from benchmarks import native, native_models
    from topkast_tf.kernels.library import library

COLUMNS = (
    *("case", "fwd", "bwd", "threads", "cpu", "refresh_every", "tensorflow", "variant"),
    *("operation", "calls", "ms"),
)
VARIANTS = ("dense", "masked", "native", "auto")
STEP = "a step, by the clock"
_LEAST = 0.01


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this benchmark, and those of the models of benchmarks/native.py."""
    native.define_sizes(values)
    for kind, name, default, text in (
        ("string", "case", "transformer_xl", "the model, as in benchmarks/native.py"),
        ("string", "sparsity", "0.9/0.8", "fwd/bwd"),
        ("list", "variants", list(VARIANTS), "which variants"),
        ("string", "csv", "breakdown.csv", "where the times are kept"),
    ):
        define = getattr(flags, f"DEFINE_{kind}")
        define(name, default, text, flag_values=values)
    flags.DEFINE_integer("steps", 5, "steps of a variant", 1, flag_values=values)


def own_times(events: Sequence[tuple[int, int, str]]) -> collections.Counter[str]:
    """The time of each name that is not that of events within it.

    Args:
      events: (start, end, name) of one thread; any two are nested or apart.

    >>> own_times([(0, 10, "outer"), (2, 5, "inner"), (12, 13, "inner")])
    Counter({'outer': 7, 'inner': 4})
    """
    own: collections.Counter[str] = collections.Counter()
    around: list[tuple[int, str]] = []
    for start, end, name in sorted(events, key=lambda event: (event[0], -event[1])):
        while around and around[-1][0] <= start:
            around.pop()
        if around:
            own[around[-1][1]] -= end - start
        own[name] += end - start
        around.append((end, name))
    return own


def profiled(step: Any, steps: int) -> dict[str, tuple[float, float]]:
    """Milliseconds and calls of each type of operation in a step.

    Args:
      step: takes one step.
      steps: how many to take.
    """
    # The only reader of profiles that comes with TensorFlow.
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        for _ in range(steps):
            step()
        tf.profiler.experimental.stop()
        [path] = pathlib.Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    own: collections.Counter[str] = collections.Counter()
    calls: collections.Counter[str] = collections.Counter()
    for plane in space.planes:
        if "CPU" not in plane.name:
            continue
        for line in plane.lines:
            named = [
                (event, plane.event_metadata[event.metadata_id].name)
                for event in line.events
            ]
            # Operations are "name:Type"; of the runtime are "Step: name" and the like.
            events = [
                (e.offset_ps, e.offset_ps + e.duration_ps, name.rsplit(":", 1)[1])
                for e, name in named
                if name.count(":") == 1 and ": " not in name
            ]
            own.update(own_times(events))
            calls.update(name for _, _, name in events)
    return {name: (own[name] / 1e9 / steps, calls[name] / steps) for name in own}


def table_rows(times: dict[str, dict[str, float]]) -> list[Sequence[str]]:
    """The rows of the table, with its header.

    Args:
      times: variant -> operation -> milliseconds; `STEP` is the whole.
    """
    totals = {variant: of[STEP] for variant, of in times.items()}
    names = {name for of in times.values() for name in of if name != STEP}
    shown = [
        name
        for name in names
        if any(of.get(name, 0) >= _LEAST * totals[v] for v, of in times.items())
    ]
    shown.sort(key=lambda name: -max(of.get(name, 0) for of in times.values()))
    rows: list[Sequence[str]] = [("operations, ms a step", *times)]
    for name in shown:
        rows.append((name, *(f"{of.get(name, 0):.1f}" for of in times.values())))
    others, between = [], []
    for of in times.values():
        inside = sum(ms for name, ms in of.items() if name != STEP)
        rest = sum(ms for name, ms in of.items() if name not in (STEP, *shown))
        others.append(f"{rest:.1f}")
        between.append(f"{of[STEP] - inside:.1f}")
    rows.append(("others", *others))
    rows.append(("between operations", *between))
    rows.append((STEP, *(f"{total:.1f}" for total in totals.values())))
    return rows


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = common.parse(argv, __doc__ or "", define_flags)
    if native_models.find(values.case) is None:
        common.fail(
            f"Expected --case among {', '.join(native_models.CASES)}. "
            f"Received: {values.case}"
        )
    unknown = sorted(set(values.variants) - set(VARIANTS))
    if unknown:
        common.fail(f"Expected --variants among {list(VARIANTS)}. Received: {unknown}")
    fwd, bwd = native.sparsities_of(values.sparsity)
    native.set_up(values)
    results = common.Results(
        values.csv,
        COLUMNS,
        {
            "case": native.sized(values.case, values),
            "fwd": fwd,
            "bwd": bwd,
            "threads": values.threads,
            "cpu": library().cpu,
            "refresh_every": values.refresh_every,
            "tensorflow": tf.__version__,
        },
    )
    times = {}
    for variant in values.variants:
        if not results.where(variant=variant, operation=STEP):
            step = native.step_of(values.case, variant, fwd, bwd, values)
            whole = common.median_timed(step, values.steps).wall
            found = profiled(step, values.steps)
            for name, (ms, calls) in found.items():
                results.add(
                    variant=variant, operation=name, calls=calls, ms=f"{ms:.4f}"
                )
            # Last, as it says that the variant is whole.
            results.add(variant=variant, operation=STEP, calls=1, ms=f"{whole:.4f}")
        times[variant] = {
            row["operation"]: float(row["ms"]) for row in results.where(variant=variant)
        }
    print(common.table(table_rows(times)))


if __name__ == "__main__":
    main(sys.argv)
