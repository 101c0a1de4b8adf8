"""Peak memory of a training step: dense, SWAT with dense storage, SWAT with packed.

Two nets of 3x3 convolutions on images, in which activations take most of the memory:

  vgg      convolution, bias, ReLU, twelve times
  resnet   convolution, batch normalisation, ReLU, with additions: twelve convolutions

What is measured: the most memory that was resident in a process that builds the net and
takes --steps training steps by Keras (`train_on_batch`, SGD with momentum, no XLA), one
process for each variant, and what was resident before the first step: what TensorFlow
and Keras take by themselves. A ratio compares the variants of one round.

Target: packed at most 0.65 of dense at a sparsity of 0.9.

What the figures do not say: how long the step takes on a machine of its own; and what
remains: the process itself; the input images; each layer's dense activation while
it is computed and its gradient while that is; and batch normalisation, which keeps its
dense input.

Example: python benchmarks/swat_memory.py --batch=256 --rounds=3
"""

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

if __name__ == "__main__":
    # Run as a file, Python looks for modules in benchmarks/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags
from tqdm import tqdm

from benchmarks import common

COLUMNS = (
    "net",
    "batch",
    "side",
    "filters",
    "sparsity",
    "steps",
    "round",
    "variant",
    "before_bytes",
    "peak_bytes",
    "step_ms",
)
VARIANTS: dict[str, dict[str, Any] | None] = {
    "dense": None,
    "swat": {"storage": "dense"},
    "packed": {"storage": "packed"},
}
NETS = ("vgg", "resnet")
TARGET = 0.65
_LAYERS = 12


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this benchmark."""
    flags.DEFINE_list("nets", list(NETS), "which nets", flag_values=values)
    flags.DEFINE_string(
        "csv", "swat_memory.csv", "where the rounds are kept", flag_values=values
    )
    flags.DEFINE_float(
        "sparsity", 0.9, "of all but the first layer", flag_values=values
    )
    flags.DEFINE_float(
        "seconds", 0.0, "begin no round after so long; 0: no limit", flag_values=values
    )
    for name, default, text in (
        ("batch", 128, "images a step"),
        ("side", 64, "height and width of the images"),
        ("filters", 64, "channels of each layer"),
        ("steps", 3, "training steps"),
        ("rounds", 3, "rounds, each of a process for each variant"),
    ):
        flags.DEFINE_integer(name, default, text, 1, flag_values=values)
    flags.DEFINE_string(
        "measure", None, "measure this process, NET:VARIANT, and print JSON "
        "(what the benchmark does in its own processes)", flag_values=values,
    )  # fmt: skip


def build(net: str, side: int, filters: int) -> Any:
    """A net without a dense layer but the last, not compiled."""
    import keras
    from keras import layers

    inputs = keras.Input((side, side, 3))
    x = layers.Conv2D(filters, 3, padding="same", activation="relu")(inputs)
    for layer in range(1, _LAYERS):
        if net == "vgg":
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
            continue
        shortcut = x
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        if layer % 2 == 0:
            x = layers.Add()([x, shortcut])
        x = layers.ReLU()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def measure(net: str, variant: str, values: flags.FlagValues) -> dict[str, float]:
    """Trains a net in this process, and says what it took."""
    import keras
    import tensorflow as tf

    from swat_tf import swat_scope

    how = VARIANTS[variant]
    scope = swat_scope(values.sparsity, exempt="first", **how) if how else None
    keras.utils.set_random_seed(0)
    with scope or contextlib.nullcontext():
        model = build(net, values.side, values.filters)
    model.compile(
        keras.optimizers.SGD(1e-3, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    x = tf.random.normal([values.batch, values.side, values.side, 3])
    y = tf.random.uniform([values.batch], 0, 10, tf.int32)
    before = common.peak_bytes()
    times = [
        common.timed(lambda: model.train_on_batch(x, y)).wall
        for _ in range(values.steps)
    ]
    return {
        "before_bytes": before,
        "peak_bytes": common.peak_bytes(),
        "step_ms": round(min(times), 1),
    }


def measure_elsewhere(
    net: str, variant: str, values: flags.FlagValues
) -> dict[str, float]:
    """`measure` in a process of its own."""
    names = ("batch", "side", "filters", "sparsity", "steps")
    command = [
        sys.executable,
        __file__,
        f"--measure={net}:{variant}",
        *(f"--{name}={values[name].value}" for name in names),
    ]
    return common.json_of_process(command)


def figures_of(row: Mapping[str, str]) -> dict[str, float]:
    """Figure -> number of a row of the CSV."""
    return {
        name: float(row[name]) for name in ("before_bytes", "peak_bytes", "step_ms")
    }


def table_rows(
    net: str, rounds: Sequence[dict[str, dict[str, float]]]
) -> list[Sequence[str]]:
    """The rows of the table for one net, without the header."""
    if not rounds:
        return [(f"{net}: no round yet", "", "", "", "", "")]
    rows: list[Sequence[str]] = []
    for variant in VARIANTS:
        here = [found[variant] for found in rounds]
        dense = [found["dense"] for found in rounds]
        pairs = list(zip(here, dense, strict=True))
        peak = common.spread([h["peak_bytes"] / 2**20 for h in here])
        whole = common.spread([h["peak_bytes"] / d["peak_bytes"] for h, d in pairs])
        steps = common.spread([_of_steps(h) / _of_steps(d) for h, d in pairs])
        time_ratio = common.spread([h["step_ms"] / d["step_ms"] for h, d in pairs])
        rows.append(
            (
                f"{net}: {variant}",
                f"{peak.median:,.0f} MiB",
                str(whole),
                str(steps),
                str(time_ratio),
                f"<= {TARGET}" if variant == "packed" else "",
            )
        )
    return rows


def _of_steps(found: dict[str, float]) -> float:
    return found["peak_bytes"] - found["before_bytes"]


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = common.parse(argv, __doc__ or "", define_flags)
    if values.measure:
        net, _, variant = values.measure.partition(":")
        if net not in NETS or variant not in VARIANTS:
            common.fail(
                f"Expected --measure of {NETS}:{tuple(VARIANTS)}. "
                f"Received: {values.measure}"
            )
        print(json.dumps(measure(net, variant, values)))
        return
    if not values.nets or not set(values.nets) <= set(NETS):
        common.fail(f"Expected --nets of {', '.join(NETS)}. Received: {values.nets}")
    deadline = time.monotonic() + (values.seconds or float("inf"))
    header = (
        "peak memory",
        "process",
        "over dense",
        "of the steps, over dense",
        "step time",
        "target",
    )
    rows: list[Sequence[str]] = [header]
    names = ("batch", "side", "filters", "sparsity", "steps")
    for net in values.nets:
        settings = {"net": net, **{name: values[name].value for name in names}}
        results = common.Results(values.csv, COLUMNS, settings)
        done = len(results.complete_rounds(VARIANTS, figures_of))
        for number in tqdm(range(done, values.rounds), net, unit="round", disable=None):
            if time.monotonic() > deadline:
                break
            for variant in VARIANTS:
                found = measure_elsewhere(net, variant, values)
                results.add(round=number, variant=variant, **found)
        rows += table_rows(net, results.complete_rounds(VARIANTS, figures_of))
    print(common.table(rows))
    print("median (quartiles) over the rounds; `of the steps`: above what was resident")
    print("before the first one")


if __name__ == "__main__":
    main(sys.argv)
