"""What the sets cost in memory, in bytes for each entry of a sparse weight.

Two figures, for a model of one square Dense kernel:

  counted   the bytes of the variables that the scope adds: the sets, one byte an entry,
            and the clocks, a few bytes a weight
  measured  resident memory of a process that has built the model and taken some steps,
            sparse less dense, each in a process of its own, over the entries

Target: at most 1 byte an entry, counted (the clocks come to nothing on a large weight).

What the figures do not say: `measured` is not the sets alone. TensorFlow's allocator
keeps for reuse whatever it has once had, so it contains the working memory of a step and
of a selection of the sets, at their highest; it is what a user sees in `top`, and depends
on --jit_compile and on the size of the largest weight, not on the number of weights
alone. `peak` is the most that was resident at any moment.

The CSV holds each round, and only grows: the same command goes on where it stopped, and
--rounds is the total.

Example: python benchmarks/memory.py --side=4096 --rounds=3
"""

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
    "side",
    "steps",
    "jit_compile",
    "round",
    "variant",
    "resident_bytes",
    "peak_bytes",
    "state_bytes",
)
VARIANTS = ("dense", "sparse")
TARGET = 1.0


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this benchmark."""
    flags.DEFINE_string(
        "csv", "memory.csv", "where the rounds are kept", flag_values=values
    )
    flags.DEFINE_float(
        "seconds", 0.0, "begin no round after so long; 0: no limit", flag_values=values
    )
    flags.DEFINE_boolean("jit_compile", True, "with XLA", flag_values=values)
    for name, default, text, least in (
        ("side", 4096, "rows and columns of the kernel", 1),
        ("steps", 3, "training steps before the measurement", 0),
        ("rounds", 3, "rounds, each of a dense and a sparse process", 1),
    ):
        flags.DEFINE_integer(name, default, text, least, flag_values=values)
    flags.DEFINE_string(
        "measure", None, "measure this process, dense or sparse, and print JSON "
        "(what the benchmark does in its own processes)", flag_values=values,
    )  # fmt: skip


def measure(variant: str, side: int, steps: int, jit_compile: bool) -> dict[str, int]:
    """Builds and trains the model in this process, and says what it takes.

    Returns:
      `resident_bytes` (0 where the system does not say), `peak_bytes`, `state_bytes`
      (of the variables that the scope adds).
    """
    import contextlib

    import keras
    import tensorflow as tf

    from topkast_tf import sparse_weights, topkast_scope

    scope = topkast_scope(0.9, 0.8, kernels="masked") if variant == "sparse" else None
    with scope or contextlib.nullcontext():
        model = keras.Sequential(
            [keras.Input((side,)), keras.layers.Dense(side, use_bias=False)]
        )
    sgd = keras.optimizers.SGD(1e-3, momentum=0.9)
    model.compile(sgd, "mse", jit_compile=jit_compile)
    data = tf.zeros([8, side])
    for _ in range(steps):
        model.train_on_batch(data, data)
    state = [v for w in sparse_weights(model) for v in (w.sets, w.counters)]
    return {
        "resident_bytes": common.resident_bytes() or 0,
        "peak_bytes": common.peak_bytes(),
        "state_bytes": sum(v.dtype.size * v.shape.num_elements() for v in state),
    }


def measure_elsewhere(variant: str, values: flags.FlagValues) -> dict[str, int]:
    """`measure` in a process of its own."""
    command = [
        sys.executable,
        __file__,
        f"--measure={variant}",
        f"--side={values.side}",
        f"--steps={values.steps}",
        f"--jit_compile={values.jit_compile}",
    ]
    return common.json_of_process(command)


def figures_of(row: Mapping[str, str]) -> dict[str, int]:
    """Figure -> bytes of a row of the CSV."""
    return {name: int(row[name]) for name in COLUMNS[5:]}


def table_of(rounds: Sequence[dict[str, dict[str, int]]], entries: int) -> str:
    """The table that is printed."""
    rows: list[Sequence[str]] = [("bytes an entry", "sparse less dense", "target")]
    for label, figure, target in (
        ("counted", "state_bytes", f"<= {TARGET:.2f}"),
        ("measured, resident", "resident_bytes", ""),
        ("measured, peak", "peak_bytes", ""),
    ):
        extra = [
            (found["sparse"][figure] - found["dense"][figure]) / entries
            for found in rounds
        ]
        rows.append((label, str(common.spread(extra)), target))
    return common.table(rows)


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = common.parse(argv, __doc__ or "", define_flags)
    if values.measure:
        if values.measure not in VARIANTS:
            common.fail(f"Expected --measure of {VARIANTS}. Received: {values.measure}")
        arguments = (values.measure, values.side, values.steps, values.jit_compile)
        print(json.dumps(measure(*arguments)))
        return
    settings = {n: getattr(values, n) for n in ("side", "steps", "jit_compile")}
    results = common.Results(values.csv, COLUMNS, settings)
    deadline = time.monotonic() + (values.seconds or float("inf"))
    done = len(results.complete_rounds(VARIANTS, figures_of))
    for number in tqdm(range(done, values.rounds), unit="round", disable=None):
        if time.monotonic() > deadline:
            break
        for variant in VARIANTS:
            found = measure_elsewhere(variant, values)
            results.add(round=number, variant=variant, **found)
    rounds = results.complete_rounds(VARIANTS, figures_of)
    if not rounds:
        print("no round yet")
        return
    print(f"{values.side}x{values.side}, {len(rounds)} rounds, median (quartiles)")
    print(table_of(rounds, values.side**2))


if __name__ == "__main__":
    main(sys.argv)
