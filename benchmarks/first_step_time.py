"""Time to the first step: masked over dense, from an empty process to a trained batch.

What is measured: building a model, compiling it and the first `fit` of one batch, which
traces the training step and has TensorFlow optimise its graph. Each measurement is a
process of its own, after the imports. Models:

  chain         --depth Dense layers of --width units
  mobilenetv2   of `keras.applications`, for 32 x 32 images

Variants: dense; sparse, in `topkast_scope(0.9, 0.8, kernels="masked")`, whose sets are
selected at every step. A ratio is of one round, whose two processes run one after the
other.

Target: at most 3 times the dense time.

What the figures do not say: the import of TensorFlow and Keras is left out (some seconds,
which would make the ratio smaller), and a saved model is not loaded. It is paid once in a
run, and again when a model is traced for other shapes. `cpu` is the time of all threads,
which other work on the machine lengthens less.

The CSV holds each round, and only grows: the same command goes on where it stopped, and
--rounds is the total.

Example: python benchmarks/first_step_time.py --cases=chain --depth=200 --rounds=3
"""

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence

if __name__ == "__main__":
    # Run as a file, Python looks for modules in benchmarks/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags
from tqdm import tqdm

from benchmarks import common

COLUMNS = (
    "case",
    "depth",
    "width",
    "batch",
    "round",
    "variant",
    "wall_ms",
    "cpu_ms",
)
VARIANTS = ("dense", "sparse")
CASES = ("chain", "mobilenetv2")
TARGET = 3.0


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this benchmark."""
    flags.DEFINE_list("cases", list(CASES), "which models", flag_values=values)
    flags.DEFINE_string(
        "csv", "first_step_time.csv", "where the rounds are kept", flag_values=values
    )
    flags.DEFINE_float(
        "seconds", 0.0, "begin no round after so long; 0: no limit", flag_values=values
    )
    for name, default, text in (
        ("depth", 50, "layers of the chain"),
        ("width", 32, "units of each layer of the chain"),
        ("batch", 64, "examples of the batch"),
        ("rounds", 3, "rounds, each of a dense and a sparse process"),
    ):
        flags.DEFINE_integer(name, default, text, 1, flag_values=values)
    flags.DEFINE_string(
        "measure", None, "measure this process, dense or sparse, and print JSON "
        "(what the benchmark does in its own processes)", flag_values=values,
    )  # fmt: skip


def measure(case: str, variant: str, values: flags.FlagValues) -> dict[str, float]:
    """Builds and trains a model for one step in this process.

    Returns:
      `wall_ms` and `cpu_ms`.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    from topkast_tf import topkast_scope

    tf.constant(0)  # TensorFlow starts its threads at its first operation

    def build() -> keras.Model:
        if case == "mobilenetv2":
            return keras.applications.MobileNetV2(
                weights=None, classes=10, input_shape=(32, 32, 3)
            )
        hidden = [
            keras.layers.Dense(values.width, activation="relu")
            for _ in range(values.depth)
        ]
        return keras.Sequential(
            [keras.Input((values.width,)), *hidden, keras.layers.Dense(10)]
        )

    def first_step() -> None:
        scope = (
            topkast_scope(0.9, 0.8, kernels="masked") if variant == "sparse" else None
        )
        with scope or contextlib.nullcontext():
            model = build()
        model.compile(
            keras.optimizers.SGD(1e-3, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        x = np.ones((values.batch, *model.input_shape[1:]), np.float32)
        model.fit(x, np.zeros(values.batch), batch_size=values.batch, verbose=0)

    times = common.timed(first_step)
    return {"wall_ms": times.wall, "cpu_ms": times.cpu}


def measure_elsewhere(
    case: str, variant: str, values: flags.FlagValues
) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [
        sys.executable,
        __file__,
        f"--measure={variant}",
        f"--cases={case}",
        *(f"--{name}={getattr(values, name)}" for name in COLUMNS[1:4]),
    ]
    return common.json_of_process(command)


def run_case(
    case: str, values: flags.FlagValues, deadline: float
) -> list[Sequence[str]]:
    """Measures the rounds that are missing; returns the rows of the table."""
    settings = {name: getattr(values, name) for name in COLUMNS[1:4]}
    if case != "chain":
        settings["depth"] = settings["width"] = ""
    results = common.Results(values.csv, COLUMNS, {"case": case, **settings})
    done = len(results.complete_rounds(VARIANTS, common.times_of))
    missing = range(done, values.rounds)
    for number in tqdm(missing, case, unit="round", disable=None):
        if time.monotonic() > deadline:
            break
        for variant in VARIANTS:
            found = measure_elsewhere(case, variant, values)
            results.add(
                round=number,
                variant=variant,
                **{name: f"{found[name]:.0f}" for name in ("wall_ms", "cpu_ms")},
            )
    name = f"{case} of {values.depth}" if case == "chain" else case
    return table_rows(name, results.complete_rounds(VARIANTS, common.times_of))


def table_rows(
    name: str, rounds: Sequence[Mapping[str, common.Times]]
) -> list[Sequence[str]]:
    """The rows of the table for one case, without the header."""
    if not rounds:
        return [(name, "no round yet", "", "", "")]
    dense, sparse = (
        common.spread([times[variant].wall / 1e3 for times in rounds]).median
        for variant in VARIANTS
    )
    ratios = [
        str(
            common.spread(
                [getattr(t["sparse"], c) / getattr(t["dense"], c) for t in rounds]
            )
        )
        for c in common.Times._fields
    ]
    return [(name, f"{dense:.1f}", f"{sparse:.1f}", *ratios)]


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = common.parse(argv, __doc__ or "", define_flags)
    unknown = [case for case in values.cases if case not in CASES]
    if unknown:
        common.fail(f"Expected --cases among {list(CASES)}. Received: {unknown}")
    if values.measure:
        if values.measure not in VARIANTS:
            common.fail(f"Expected --measure of {VARIANTS}. Received: {values.measure}")
        print(json.dumps(measure(values.cases[0], values.measure, values)))
        return
    deadline = time.monotonic() + (values.seconds or float("inf"))
    rows: list[Sequence[str]] = [
        ("", "dense s", "sparse s", f"wall, <= {TARGET:.0f}", "cpu")
    ]
    for case in values.cases:
        rows += run_case(case, values, deadline)
    print(common.table(rows))
    print("median (quartiles) over the rounds, sparse over dense")


if __name__ == "__main__":
    main(sys.argv)
