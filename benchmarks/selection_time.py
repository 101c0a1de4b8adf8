"""Selecting the sets A and B of a large weight, over `tf.math.top_k` on the same tensor.

What is measured: `selection.nested_sets_by_magnitude`, which gives a code for each entry,
exact to the last tie; and `tf.math.top_k` of the magnitudes with k = |B|, whose
first |A| entries are A. Both run on a tensor that is on the device, in a `tf.function`,
without XLA and with it (`jit_compile=True`).

How: in each round each variant runs once untimed and then once timed, in random order.
The ratio of a round is to the fastest `top_k` of that round; the table gives the median
over the rounds and the range between the quartiles. Target: at most 0.2.

What the figures do not say: `top_k` gives indices, and a mask would have to be made of
them, which is not counted against it. The weights are normal random numbers; selection
takes the same time for any, but for many ties at the threshold, which take longer.

The CSV holds each round, and only grows: the same command goes on where it stopped, and
--rounds is the total.

Example: python benchmarks/selection_time.py --weights=10000000 --rounds=10
"""

import pathlib
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence

if __name__ == "__main__":
    # Run as a file, Python looks for modules in benchmarks/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags
from tqdm import tqdm

from benchmarks import common
from launch.support.quiet import quiet_start

with quiet_start():
    import tensorflow as tf

    from topkast_tf.core import selection
    from topkast_tf.core.sparsities import kept

COLUMNS = (
    "weights",
    "fwd",
    "bwd",
    "tensorflow",
    "round",
    "variant",
    "wall_ms",
    "cpu_ms",
)
VARIANTS = ("nested_sets", "nested_sets, XLA", "top_k", "top_k, XLA")
TARGET = 0.2


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this benchmark."""
    for kind, name, default, text in (
        ("string", "csv", "selection_time.csv", "where the rounds are kept"),
        ("float", "fwd", 0.9, "forward sparsity"),
        ("float", "bwd", 0.8, "backward sparsity"),
        ("float", "seconds", 0.0, "begin no round after so long; 0: no limit"),
    ):
        define = getattr(flags, f"DEFINE_{kind}")
        define(name, default, text, flag_values=values)
    for name, default, text in (
        ("weights", 10_000_000, "entries to select among"),
        ("rounds", 10, "rounds"),
    ):
        flags.DEFINE_integer(name, default, text, 1, flag_values=values)


def calls(size: int, fwd: float, bwd: float) -> dict[str, Callable[[], object]]:
    """Each variant as a call that returns when it is done."""
    theta = tf.random.stateless_normal([size], [0, 0])
    kept_forward, kept_backward = kept(size, fwd), kept(size, bwd)

    def nested_sets(theta):
        [codes], _ = selection.nested_sets_by_magnitude(
            [theta], kept_forward, kept_backward
        )
        return codes

    def top_k(theta):
        return tf.math.top_k(tf.abs(theta), kept_backward).indices

    def waiting(function, jit_compile):
        compiled = tf.function(function, jit_compile=jit_compile)
        return lambda: compiled(theta)[:1].numpy()

    functions = (nested_sets, nested_sets, top_k, top_k)
    jit = (False, True, False, True)
    return dict(zip(VARIANTS, map(waiting, functions, jit), strict=True))


def table_of(rounds: Sequence[dict[str, common.Times]]) -> str:
    """The table that is printed."""
    rows: list[Sequence[str]] = [("", "ms", "over top_k: wall", "cpu", "target")]
    rivals = [variant for variant in VARIANTS if variant.startswith("top_k")]
    for variant in VARIANTS:
        wall = statistics.median(times[variant].wall for times in rounds)
        ratios = [
            common.spread(
                [
                    getattr(times[variant], clock)
                    / min(getattr(times[rival], clock) for rival in rivals)
                    for times in rounds
                ]
            )
            for clock in common.Times._fields
        ]
        target = "" if variant in rivals else f"<= {TARGET}"
        rows.append((variant, f"{wall:.1f}", *map(str, ratios), target))
    return common.table(rows)


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = common.parse(argv, __doc__ or "", define_flags)
    settings = {name: getattr(values, name) for name in ("weights", "fwd", "bwd")}
    settings["tensorflow"] = tf.__version__
    results = common.Results(values.csv, COLUMNS, settings)
    deadline = time.monotonic() + (values.seconds or float("inf"))
    done = len(results.complete_rounds(VARIANTS, common.times_of))
    progress = tqdm(range(done, values.rounds), unit="round", disable=None)
    variants: dict[str, Callable[[], object]] = {}
    for number in progress:
        if time.monotonic() > deadline:
            break
        variants = variants or calls(values.weights, values.fwd, values.bwd)
        for variant in random.sample(VARIANTS, len(VARIANTS)):
            progress.set_postfix_str(variant)
            variants[variant]()
            times = common.timed(variants[variant])
            results.add(
                round=number,
                variant=variant,
                wall_ms=f"{times.wall:.3f}",
                cpu_ms=f"{times.cpu:.3f}",
            )
    rounds = results.complete_rounds(VARIANTS, common.times_of)
    if not rounds:
        print("no round yet")
        return
    print(f"{values.weights:,} weights, {len(rounds)} rounds, median (quartiles)")
    print(table_of(rounds))


if __name__ == "__main__":
    main(sys.argv)
