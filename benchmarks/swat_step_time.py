"""A SWAT training step over a dense one: the Keras step as users get it.

What is measured: `model.train_on_batch` (SGD with momentum) of the CIFAR ResNet-20 of
`launch`, built in `swat_scope(0.9, exempt="first")` and without it, in the same process.
The data is random, in memory and already on the device. Variants:

  dense        the baseline
  dense_again  a second dense model: its ratio shows the noise, and would be 1
  stale        steps that use the last thresholds of weights and activations
  finding      steps that find them anew (topk_period=1)
  packed       as stale, with storage="packed"; not with --jit_compile

The ratio of topk_period=P is ((P - 1) * stale + finding) / (P * dense). Rounds, ratios
and ranges as in `benchmarks/step_time.py`.

Target: at most 1.3 with topk_period=20; packed storage has none.

What the figures do not say: nothing is faster for being sparse here, the multiplications
are dense. A GPU, where selection and multiplication cost in other proportions, was not
tried.

Example: python benchmarks/swat_step_time.py --rounds=10 --seconds=300
"""

import contextlib
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence

if __name__ == "__main__":
    # Run as a file, Python looks for modules in benchmarks/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags

from benchmarks import common
from launch.support.quiet import quiet_start

with quiet_start():
    import keras
    import tensorflow as tf

    from launch.models import resnet
    from swat_tf import swat_scope

# It takes the many models of one process for one that is traced again and again.
tf.get_logger().setLevel("ERROR")

COLUMNS = (
    "jit_compile",
    "size",
    "sparsity",
    "burst",
    "tensorflow",
    "round",
    "variant",
    "wall_ms",
    "cpu_ms",
)
NEVER = 10**9
VARIANTS = {
    "dense": None,
    "dense_again": None,
    "stale": {"topk_period": NEVER},
    "finding": {"topk_period": 1},
    "packed": {"topk_period": NEVER, "storage": "packed"},
}
TARGETS = {20: "<= 1.30", 1: ""}


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this benchmark."""
    flags.DEFINE_boolean("jit_compile", False, "with XLA", flag_values=values)
    flags.DEFINE_float(
        "sparsity", 0.9, "of all but the first layer", flag_values=values
    )
    flags.DEFINE_string(
        "csv", "swat_step_time.csv", "where the rounds are kept", flag_values=values
    )
    flags.DEFINE_float(
        "seconds", 0.0, "begin no round after so long; 0: no limit", flag_values=values
    )
    for name, default, text in (
        ("rounds", 10, "rounds, each of all variants"),
        ("burst", 4, "steps that count of each variant in a round"),
        ("batch", 128, "images a step"),
        ("depth", 20, "layers"),
    ):
        flags.DEFINE_integer(name, default, text, 1, flag_values=values)


def variants(jit_compile: bool) -> list[str]:
    """The variants that are measured; XLA cannot pack."""
    return [name for name in VARIANTS if not (jit_compile and name == "packed")]


def step_of(variant: str, values: flags.FlagValues) -> Callable[[], object]:
    """A training step of a variant, compiled and warm."""
    keras.utils.set_random_seed(0)
    how = VARIANTS[variant]
    scope = swat_scope(values.sparsity, exempt="first", **how) if how else None
    with scope or contextlib.nullcontext():
        model = resnet.resnet(values.depth, (32, 32, 3), 10)
    model.compile(
        keras.optimizers.SGD(1e-3, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=values.jit_compile,
    )
    x = tf.random.normal([values.batch, 32, 32, 3])
    y = tf.random.uniform([values.batch], 0, 10, tf.int32)

    def step():
        return model.train_on_batch(x, y)

    for _ in range(2):
        step()
    return step


def ratio(times: dict[str, common.Times], clock: str, period: int) -> float:
    """SWAT over dense, with the search for thresholds spread over the steps.

    >>> times = {n: common.Times(t, t) for n, t in
    ...          {"dense": 100, "stale": 110, "finding": 150}.items()}
    >>> ratio(times, "wall", 1), ratio(times, "wall", 20)
    (1.5, 1.12)
    """
    dense, stale, finding = (
        getattr(times[variant], clock) for variant in ("dense", "stale", "finding")
    )
    return ((period - 1) * stale + finding) / (period * dense)


def table_rows(
    name: str, rounds: Sequence[dict[str, common.Times]]
) -> list[Sequence[str]]:
    """The rows of the table, without the header."""
    if not rounds:
        return [(name, "no round yet", "", "", "")]
    count = str(len(rounds))
    dense = statistics.median(times["dense"].wall for times in rounds)

    def against_dense(variant: str) -> list[str]:
        return [
            str(
                common.spread(
                    [getattr(t[variant], c) / getattr(t["dense"], c) for t in rounds]
                )
            )
            for c in common.Times._fields
        ]

    rows: list[Sequence[str]] = [
        (f"{name}: dense, {dense:.1f} ms", *against_dense("dense_again"), "1", count)
    ]
    for period, target in TARGETS.items():
        ratios = [
            str(common.spread([ratio(times, clock, period) for times in rounds]))
            for clock in common.Times._fields
        ]
        rows.append((f"  topk_period={period}", *ratios, target, count))
    if "packed" in rounds[0]:
        rows.append(("  packed, between searches", *against_dense("packed"), "", count))
    return rows


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = common.parse(argv, __doc__ or "", define_flags)
    size = f"resnet{values.depth}, batch {values.batch}"
    results = common.Results(
        values.csv,
        COLUMNS,
        {
            "jit_compile": values.jit_compile,
            "size": size,
            "sparsity": values.sparsity,
            "burst": values.burst,
            "tensorflow": tf.__version__,
        },
    )
    names = variants(values.jit_compile)
    deadline = time.monotonic() + (values.seconds or float("inf"))
    rounds = common.run_rounds(
        results,
        names,
        lambda variant: step_of(variant, values),
        rounds=values.rounds,
        deadline=deadline,
        burst=values.burst,
    )
    header = ("SWAT step / dense step", "wall", "cpu", "target", "rounds")
    name = f"{size}, jit_compile={values.jit_compile}"
    rows = table_rows(name, rounds)
    print(common.table([header, *rows]))
    print("median (quartiles) over the rounds; the first line is dense / dense")


if __name__ == "__main__":
    main(sys.argv)
