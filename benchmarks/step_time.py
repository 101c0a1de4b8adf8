"""A masked training step over a dense one: the compiled Keras step as users get it.

What is measured: `model.train_on_batch` (SGD with momentum) of a model built in
`topkast_scope` and of the same model built without it, in the same process. The data is
random, in memory and already on the device. Three models:

  dense_stack  512 -> 2048 -> 512, Dense layers, 2,048 positions
  resnet20     the CIFAR ResNet-20 of `launch`, batch 128
  mobilenetv2  of `keras.applications`, 32 x 32 images, batch 64: many small layers that
               compute little for each weight, the least favourable of the three

each with jit_compile=True and without, which is what Keras chooses by itself on a CPU.

How: in each round every variant takes a burst of steps, in random order; the first step
of a burst warms the caches and does not count. A ratio compares medians of one round, so
what else runs on the machine hits both sides alike; the table gives the median of the
ratios over the rounds, and the range between their quartiles. Variants:

  dense        the baseline, without weight decay
  dense_again  a second dense model: its ratio shows the noise, and would be 1
  sparse       steps that do not select the sets
  refreshing   steps that select the sets

The ratio of refresh_every=N is ((N - 1) * sparse + refreshing) / (N * dense).

Targets: at most 1.03 with refresh_every=100 and 1.20 with refresh_every=1; of
mobilenetv2, 1.08 and 1.25.

What the figures do not say: the products are masked and dense (kernels="masked");
`benchmarks/native.py` has the native ones. Input pipeline, metrics and callbacks, which
would make the ratio smaller, are left out. The dense baseline has no weight decay, which
the exploration loss stands in for. Wall time is noisy on a shared machine; `cpu` is the
time of all threads.

The CSV holds each round, and only grows: the same command goes on where it stopped, and
--rounds is the total.

Example: python benchmarks/step_time.py --cases=dense_stack --rounds=20 --seconds=300
"""

import contextlib
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence

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
    from topkast_tf import topkast_scope

# It takes the many models of one process for one that is traced again and again.
tf.get_logger().setLevel("ERROR")

COLUMNS = (
    "case",
    "jit_compile",
    "size",
    "fwd",
    "bwd",
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
    "sparse": {"refresh_every": NEVER},
    "refreshing": {"refresh_every": 1},
}
REFRESH_EVERY = (100, 1)
TARGETS = {
    "dense_stack": {100: 1.03, 1: 1.20},
    "resnet20": {100: 1.03, 1: 1.20},
    "mobilenetv2": {100: 1.08, 1: 1.25},
}
CASES = tuple(TARGETS)


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this benchmark."""
    for kind, name, default, text in (
        ("list", "cases", list(CASES), "which models"),
        ("list", "jit_compile", ["true", "false"], "with XLA, without, or both"),
        ("string", "csv", "step_time.csv", "where the rounds are kept"),
        ("float", "fwd", 0.9, "forward sparsity"),
        ("float", "bwd", 0.8, "backward sparsity"),
        ("float", "seconds", 0.0, "begin no round after so long; 0: no limit"),
    ):
        define = getattr(flags, f"DEFINE_{kind}")
        define(name, default, text, flag_values=values)
    for name, default, text in (
        ("rounds", 20, "rounds of each case"),
        ("burst", 4, "steps that count of each variant in a round"),
        ("batch", 128, "images a step of resnet20"),
        ("mobilenet_batch", 64, "images a step of mobilenetv2"),
        ("depth", 20, "layers of resnet20"),
        ("positions", 2048, "rows of dense_stack's input"),
        ("features", 512, "inputs and outputs of dense_stack"),
        ("hidden", 2048, "hidden units of dense_stack"),
    ):
        flags.DEFINE_integer(name, default, text, 1, flag_values=values)


def build(case: str, values: flags.FlagValues) -> keras.Model:
    """The model of a case, not compiled."""
    if case == "resnet20":
        return resnet.resnet(values.depth, (32, 32, 3), 10)
    if case == "mobilenetv2":
        return keras.applications.MobileNetV2(
            weights=None,
            classes=10,
            input_shape=(32, 32, 3),
            classifier_activation=None,
        )
    return keras.Sequential(
        [
            keras.Input((values.features,)),
            keras.layers.Dense(values.hidden, activation="relu"),
            keras.layers.Dense(values.features),
        ]
    )


def step_of(
    case: str, variant: str, jit_compile: bool, values: flags.FlagValues
) -> Callable[[], object]:
    """A training step of a variant, compiled and warm."""
    keras.utils.set_random_seed(0)
    sparse = VARIANTS[variant]
    scope = (
        topkast_scope(values.fwd, values.bwd, kernels="masked", **sparse)
        if sparse
        else None
    )
    with scope or contextlib.nullcontext():
        model = build(case, values)
    sgd = keras.optimizers.SGD(1e-3, momentum=0.9)
    if case != "dense_stack":
        batch = values.batch if case == "resnet20" else values.mobilenet_batch
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        x = tf.random.normal([batch, 32, 32, 3])
        y = tf.random.uniform([batch], 0, 10, tf.int32)
    else:
        loss = "mse"
        x = tf.random.normal([values.positions, values.features])
        y = tf.random.normal([values.positions, values.features])
    model.compile(sgd, loss, jit_compile=jit_compile)

    def step():
        return model.train_on_batch(x, y)

    for _ in range(2):
        step()
    return step


def size_of(case: str, values: flags.FlagValues) -> str:
    """The settings of a case that make its figures another case's."""
    if case == "resnet20":
        return f"resnet{values.depth}, batch {values.batch}"
    if case == "mobilenetv2":
        return f"mobilenetv2, batch {values.mobilenet_batch}"
    return f"{values.features}-{values.hidden}-{values.features}, {values.positions}"


def run_case(
    case: str, jit_compile: bool, values: flags.FlagValues, deadline: float
) -> list[Sequence[str]]:
    """Measures the rounds that are missing; returns the rows of the table."""
    results = common.Results(
        values.csv,
        COLUMNS,
        {
            "case": case,
            "jit_compile": jit_compile,
            "size": size_of(case, values),
            "fwd": values.fwd,
            "bwd": values.bwd,
            "burst": values.burst,
            "tensorflow": tf.__version__,
        },
    )
    name = f"{case}, jit_compile={jit_compile}"
    rounds = common.run_rounds(
        results,
        VARIANTS,
        lambda variant: step_of(case, variant, jit_compile, values),
        rounds=values.rounds,
        deadline=deadline,
        burst=values.burst,
        name=name,
    )
    return table_rows(name, rounds, TARGETS[case])


def ratio(times: dict[str, common.Times], clock: str, refresh_every: int) -> float:
    """Masked over dense, with the refreshes spread over the steps.

    >>> dense, sparse, refreshing = (common.Times(t, t) for t in (100, 102, 120))
    >>> times = {"dense": dense, "sparse": sparse, "refreshing": refreshing}
    >>> ratio(times, "wall", 1), ratio(times, "wall", 10)
    (1.2, 1.038)
    """
    dense, sparse, refreshing = (
        getattr(times[variant], clock) for variant in ("dense", "sparse", "refreshing")
    )
    every = refresh_every
    return ((every - 1) * sparse + refreshing) / (every * dense)


def table_rows(
    name: str,
    rounds: Sequence[dict[str, common.Times]],
    targets: Mapping[int, float],
) -> list[Sequence[str]]:
    """The rows of the table for one case, without the header."""
    if not rounds:
        return [(name, "no round yet", "", "", "")]
    dense = statistics.median(times["dense"].wall for times in rounds)
    noise = [
        common.spread(
            [getattr(t["dense_again"], c) / getattr(t["dense"], c) for t in rounds]
        )
        for c in common.Times._fields
    ]
    rows = [(f"{name}: dense, {dense:.1f} ms", *map(str, noise), "1", str(len(rounds)))]
    for every in REFRESH_EVERY:
        ratios = [
            common.spread([ratio(times, clock, every) for times in rounds])
            for clock in common.Times._fields
        ]
        target = f"<= {targets[every]:.2f}"
        row = (f"  refresh_every={every}", *map(str, ratios), target, str(len(rounds)))
        rows.append(row)
    return rows


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = common.parse(argv, __doc__ or "", define_flags)
    if not set(values.cases) <= set(CASES):
        common.fail(f"Expected --cases of {', '.join(CASES)}. Received: {values.cases}")
    if not values.jit_compile or not set(values.jit_compile) <= {"true", "false"}:
        common.fail(
            f"Expected --jit_compile of true, false. Received: {values.jit_compile}"
        )
    deadline = time.monotonic() + (values.seconds or float("inf"))
    header = ("masked step / dense step", "wall", "cpu", "target", "rounds")
    rows: list[Sequence[str]] = [header]
    for case in values.cases:
        for jit_compile in values.jit_compile:
            rows += run_case(case, jit_compile == "true", values, deadline)
    print(common.table(rows))
    print("median (quartiles) over the rounds; the first line of each is dense / dense")


if __name__ == "__main__":
    main(sys.argv)
