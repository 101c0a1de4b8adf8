"""Native selection and updates beside TensorFlow's operations.

Cases:

  selection    A and B of --weights entries, with tf.float32 values in memory:
               `tensorflow` (`selection.nested_sets_by_magnitude`) and `native`
  mobilenetv2  a step of `fit` of the model of `keras.applications`, SGD with momentum, on
               images of --side x --side pixels: `dense`, `dense_again`, whose ratio shows
               the noise, `masked` (kernels="masked") and `auto`, which also has native
               products where they pay; with refresh_every=--refresh_every
  plans        a step of a Transformer-XL of --layers blocks of --width on --batch segments
               of --length bytes, Adam, kernels="native": `kept`, which never selects again,
               and `renewed`, which selects and makes the plans of all layers anew in each
               step. (ratio - 1) / N is their share of a run with refresh_every=N

How: in each round each variant runs in random order, --burst calls of which the first
does not count. A ratio compares one round, to the first variant of the case; the table
gives the median of the ratios and the range between their quartiles.

What the figures do not say: wall time is noisy on a shared machine; `cpu` is the time of
all threads. Input pipeline, metrics and callbacks are part of `fit`.

Targets on one thread: 15 ms for ten million entries; at most 1.10 for mobilenetv2 with
refresh_every=1; plans at most 2 % of a run with refresh_every=100, a ratio of 3.

The CSV holds each round, and only grows: the same command goes on where it stopped, and
--rounds is the total.

Example: python benchmarks/native_refresh.py --cases=selection --rounds=10 --threads=1
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

    from benchmarks import native_models
    from topkast_tf import topkast_scope
    from topkast_tf.core import selection
    from topkast_tf.core.sparsities import kept
    from topkast_tf.kernels import training

COLUMNS = (
    *("case", "size", "fwd", "bwd", "refresh_every", "threads", "burst", "tensorflow"),
    *("round", "variant", "wall_ms", "cpu_ms"),
)
VARIANTS = {
    "selection": ("tensorflow", "native"),
    "mobilenetv2": ("dense", "dense_again", "masked", "auto"),
    "plans": ("kept", "renewed"),
}
STEPS = 8
"""Steps of one call of `fit`; the times are of one step."""


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this benchmark."""
    for kind, name, default, text in (
        ("list", "cases", list(VARIANTS), "which of them"),
        ("string", "csv", "native_refresh.csv", "where the rounds are kept"),
        ("float", "fwd", 0.9, "forward sparsity"),
        ("float", "bwd", 0.8, "backward sparsity"),
        ("float", "seconds", 0.0, "begin no round after so long; 0: no limit"),
    ):
        define = getattr(flags, f"DEFINE_{kind}")
        define(name, default, text, flag_values=values)
    for name, default, text in (
        ("rounds", 10, "rounds of each case"),
        ("burst", 3, "calls of each variant in a round, beside the first"),
        ("weights", 10_000_000, "entries to select among"),
        ("side", 96, "pixels of a side of an image"),
        ("batch", 16, "images or segments a step"),
        ("layers", 6, "blocks of plans"),
        ("width", 512, "width of plans"),
        ("length", 256, "bytes of a segment"),
        ("refresh_every", 1, "steps between selections"),
        ("threads", 1, "threads within an operation"),
    ):
        flags.DEFINE_integer(name, default, text, 1, flag_values=values)


def selection_of(variant: str, values: flags.FlagValues) -> Callable[[], object]:
    """One selection as a function without arguments, compiled and warm."""
    n = values.weights
    theta = tf.Variable(tf.random.stateless_normal([n], [0, 0]))
    sets = tf.Variable(tf.zeros([n], tf.uint8))
    sizes = kept(n, values.fwd), kept(n, values.bwd)
    pending = tf.constant([0, 1, *sizes, 0, 0, 0, 0], tf.int64)
    counters = tf.Variable(pending)

    @tf.function
    def select():
        if variant == "tensorflow":
            [codes], _ = selection.nested_sets_by_magnitude(
                [theta.read_value()], *sizes
            )
            sets.assign(codes)
        else:
            counters.assign(pending)
            training.refresh(
                [theta], [sets], [counters], every=1, stop=None, messages=["NaN"]
            )
        return sets[0]

    return lambda: select().numpy()


def steps_of(variant: str, values: flags.FlagValues) -> Callable[[], object]:
    """`STEPS` steps of `fit`, without arguments."""
    keras.utils.set_random_seed(0)
    shape = (values.side, values.side, 3)
    scope = (
        topkast_scope(
            values.fwd, values.bwd, refresh_every=values.refresh_every, kernels=variant
        )
        if not variant.startswith("dense")
        else contextlib.nullcontext()
    )
    with scope:
        model = keras.applications.MobileNetV2(
            weights=None, classes=10, input_shape=shape
        )
    loss = keras.losses.SparseCategoricalCrossentropy()
    sgd = keras.optimizers.SGD(1e-3, momentum=0.9)
    model.compile(sgd, loss, jit_compile=False)
    x = tf.random.normal([values.batch, *shape])
    y = tf.random.uniform([values.batch], 0, 10, tf.int32)
    data = tf.data.Dataset.from_tensors((x, y)).repeat(STEPS)
    return lambda: model.fit(data, verbose=0)


def planned_step_of(variant: str, values: flags.FlagValues) -> Callable[[], object]:
    """A step of the Transformer-XL, compiled and warm."""
    keras.utils.set_random_seed(0)
    of = native_models.CASES["transformer_xl"]
    every = 1 if variant == "renewed" else 10**6
    with of.scope(values.fwd, values.bwd, every, kernels="native", storage="dense"):
        model = of.build(values)
    model.compile(**of.compile(), jit_compile=False)
    x, y = of.batch(values)
    return lambda: model.train_on_batch(x, y)


def run_case(
    case: str, values: flags.FlagValues, deadline: float
) -> list[Sequence[str]]:
    """Measures the rounds that are missing; returns the rows of the table."""
    sizes = {
        "selection": f"{values.weights}",
        "mobilenetv2": f"{values.side} pixels, batch {values.batch}",
        "plans": f"{values.layers} x {values.width}, {values.batch} x {values.length}",
    }
    settings = {
        name: getattr(values, name)
        for name in ("fwd", "bwd", "refresh_every", "threads", "burst")
    }
    settings |= {"case": case, "size": sizes[case], "tensorflow": tf.__version__}
    results = common.Results(values.csv, COLUMNS, settings)
    variants = VARIANTS[case]
    make = MAKERS[case]
    steps = STEPS if case == "mobilenetv2" else 1
    rounds = common.run_rounds(
        results,
        variants,
        lambda variant: make(variant, values),
        rounds=values.rounds,
        deadline=deadline,
        burst=values.burst,
        name=case,
        units=steps,
    )
    if not rounds:
        return [(case, "no round yet", "", "", "")]
    return [
        (
            f"{case}, {sizes[case]}: {variant}",
            *(
                f"{statistics.median(getattr(t[variant], clock) for t in rounds):.1f}"
                for clock in common.Times._fields
            ),
            *(
                str(
                    common.spread(
                        [
                            getattr(t[variant], clock) / getattr(t[variants[0]], clock)
                            for t in rounds
                        ]
                    )
                )
                for clock in common.Times._fields
            ),
        )
        for variant in variants
    ]


MAKERS = {
    "selection": selection_of,
    "mobilenetv2": steps_of,
    "plans": planned_step_of,
}


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = common.parse(argv, __doc__ or "", define_flags)
    unknown = [case for case in values.cases if case not in VARIANTS]
    if unknown:
        common.fail(f"Expected --cases among {list(VARIANTS)}. Received: {unknown}")
    with contextlib.suppress(RuntimeError):  # in a process where TensorFlow runs
        tf.config.threading.set_intra_op_parallelism_threads(values.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    deadline = time.monotonic() + (values.seconds or float("inf"))
    rows: list[Sequence[str]] = [("", "wall ms", "cpu ms", "ratio: wall", "cpu")]
    for case in values.cases:
        rows += run_case(case, values, deadline)
    print(common.table(rows))
    print("median (quartiles) over the rounds, over the first variant of the case")


if __name__ == "__main__":
    main(sys.argv)
