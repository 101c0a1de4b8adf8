"""Memory of training a Transformer-XL: dense, packed, and packed with theta in files.

Each variant builds the model and takes --steps steps with Adam in a process of its own,
with a selection of the sets after every second one:

  dense    the model without a scope
  packed   topkast_scope(fwd, bwd, storage="packed"): theta and the sets are in memory
  mapped   the same with theta_dir=--theta_dir

Three figures:

  counted   bytes of weights, gradients and Adam's slots; of the sparse variants with the
            codes of B, the plans of the kernels, and theta and the sets where they are in
            memory. All trainable variables count, also those that are dense.
  peak      the most memory that was ever resident in the process, less what was resident
            before the model was built. It has activations, the graph, and what
            TensorFlow's allocator keeps; of files what is mapped and in memory.
  in files  bytes of the files of theta and the sets

Targets: counted over dense at most 0.55, 0.30 and 0.18 at 80/60, 90/80 and 95/90, mapped.

What the figures do not say: with many positions activations are most of the memory, which
are the same in all variants.

The CSV holds each round, and only grows: the same command goes on where it stopped, and
--rounds is the total.

Example: python benchmarks/training_memory.py --width=1024 --layers=4 --theta_dir=/var/tmp
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

SIZES = ("width", "layers", "batch", "length", "steps")
COLUMNS = (
    *(*SIZES, "threads", "cpu", "tensorflow"),
    *("round", "variant", "fwd", "bwd", "parameters", "counted_bytes", "peak_bytes"),
    *("file_bytes", "step_seconds", "selection_seconds"),
)
TARGETS = {("0.8", "0.6"): 0.55, ("0.9", "0.8"): 0.30, ("0.95", "0.9"): 0.18}
VARIANTS = ("dense", "packed", "mapped")


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this benchmark."""
    for name, default, text in (
        ("csv", "training_memory.csv", "where the rounds are kept"),
        ("theta_dir", ".", "a folder on a disk, for the files of theta"),
    ):
        flags.DEFINE_string(name, default, text, flag_values=values)
    flags.DEFINE_list("variants", list(VARIANTS), "which ones", flag_values=values)
    flags.DEFINE_list(
        "sparsities", ["0.8/0.6", "0.9/0.8", "0.95/0.9"],
        "pairs fwd/bwd of sparsities", flag_values=values,
    )  # fmt: skip
    for name, default, text in (
        ("width", 1024, "width; 4 times that inside"),
        ("layers", 4, "blocks"),
        ("batch", 1, "segments a step"),
        ("length", 64, "tokens of a segment"),
        ("steps", 5, "training steps, of which the first compiles"),
        ("threads", 1, "threads within an operation"),
        ("rounds", 1, "rounds, each of a process a variant"),
    ):
        flags.DEFINE_integer(name, default, text, 1, flag_values=values)
    flags.DEFINE_string(
        "measure", None, "measure VARIANT,FWD,BWD in this process, and print JSON (what "
        "the benchmark does in its own processes)", flag_values=values,
    )  # fmt: skip


def measure(
    variant: str, fwd: float, bwd: float, values: flags.FlagValues
) -> dict[str, float]:
    """Builds and trains a model in this process.

    Returns:
      The last columns of the CSV.
    """
    import contextlib

    import keras
    import tensorflow as tf

    from benchmarks.native_models import transformer
    from topkast_tf import sparse_weights, topkast_scope
    from topkast_tf.kernels import library

    tf.config.threading.set_intra_op_parallelism_threads(values.threads)
    tokens = tf.random.uniform([values.batch, values.length], 0, 256, tf.int32)
    if variant != "dense":
        library.library()  # which may have to be built
    before = common.resident_bytes()
    if before is None:
        common.fail("Expected a system that says what is resident, in /proc/self/statm")
    scope: contextlib.AbstractContextManager = contextlib.nullcontext()
    if variant != "dense":
        scope = topkast_scope(
            fwd,
            bwd,
            refresh_every=2,
            storage="packed",
            theta_dir=values.theta_dir if variant == "mapped" else None,
        )
    with scope:
        model = transformer(values)
        model(tokens)
    model.compile(
        keras.optimizers.Adam(1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    seconds = []
    for _ in range(values.steps):
        began = time.monotonic()
        model.train_on_batch(tokens, tokens)
        seconds.append(time.monotonic() - began)
    peak = common.peak_bytes()
    weights = sparse_weights(model)
    trained = sum(v.shape.num_elements() for v in model.trainable_variables)
    # The optimizer has two slots a variable, and each step a gradient.
    counted, in_files = 16 * trained, 0
    for weight in weights:
        counted += weight.packed.size  # the codes of the entries
        counted += library.library().plan_bytes(weight.replica().plans_key)
        theta = 5 * weight.variable.shape.num_elements()
        counted += theta if variant == "packed" else 0
        in_files += theta if variant == "mapped" else 0
    whole = sum(w.variable.shape.num_elements() - w.packed.size for w in weights)
    plain, selecting = seconds[2::2], seconds[1::2]
    return {
        "parameters": trained + whole,
        "counted_bytes": counted,
        "peak_bytes": peak - before,
        "file_bytes": in_files,
        "step_seconds": round(min(plain), 3),
        "selection_seconds": round(max(min(selecting[1:]) - min(plain), 0), 3),
    }


def measure_elsewhere(
    variant: str, sparsities: str, values: flags.FlagValues
) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [
        *(sys.executable, __file__, f"--theta_dir={values.theta_dir}"),
        f"--measure={variant},{sparsities.replace('/', ',')}",
        *(f"--{name}={getattr(values, name)}" for name in (*SIZES, "threads")),
    ]
    return common.json_of_process(command)


def table_of(rows: Sequence[Mapping[str, str]]) -> str:
    """The table that is printed: medians over the rounds."""
    head = ("", "parameters", "counted", "/ dense", "target", "peak", "/ dense")
    table: list[Sequence[str]] = [(*head, "in files", "s a step", "s a selection")]
    found: dict[tuple[str, str, str], list[Mapping[str, str]]] = {}
    for row in rows:
        found.setdefault((row["variant"], row["fwd"], row["bwd"]), []).append(row)

    def median(key, column):
        figures = [float(row[column]) for row in found[key]]
        return common.spread(figures).median

    dense = next((key for key in found if key[0] == "dense"), None)
    for key in found:
        variant, fwd, bwd = key
        label = variant if variant == "dense" else f"{variant} {fwd}/{bwd}"
        cells = [label, f"{median(key, 'parameters') / 1e6:.1f} M"]
        for column in ("counted_bytes", "peak_bytes"):
            cells.append(f"{median(key, column) / 1e6:,.0f} MB")
            ratio = "" if dense is None else median(key, column) / median(dense, column)
            cells.append(ratio and f"{ratio:.3f}")
            if column == "counted_bytes":
                target = TARGETS.get((fwd, bwd)) if variant == "mapped" else None
                cells.append(f"<= {target}" if target else "")
        cells.append(f"{median(key, 'file_bytes') / 1e6:,.0f} MB")
        cells += [
            f"{median(key, f'{name}_seconds'):.2f}" for name in ("step", "selection")
        ]
        table.append(cells)
    return common.table(table)


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = common.parse(argv, __doc__ or "", define_flags)
    if values.measure:
        variant, fwd, bwd = values.measure.split(",")
        print(json.dumps(measure(variant, float(fwd), float(bwd), values)))
        return
    if values.steps < 5:
        common.fail(f"Expected --steps of at least 5. Received: {values.steps}")
    import importlib.metadata

    from topkast_tf.kernels import library

    settings = {name: getattr(values, name) for name in (*SIZES, "threads")}
    settings["cpu"] = library.library().cpu
    settings["tensorflow"] = importlib.metadata.version("tensorflow")
    results = common.Results(values.csv, COLUMNS, settings)
    due = [
        (str(number), variant, *pair.split("/"))
        for number in range(values.rounds)
        for variant in values.variants
        for pair in (values.sparsities if variant != "dense" else ["0.0/0.0"])
    ]
    done = {(r["round"], r["variant"], r["fwd"], r["bwd"]) for r in results.rows}
    for number, variant, fwd, bwd in tqdm(
        [each for each in due if each not in done], unit="process", disable=None
    ):
        found = measure_elsewhere(variant, f"{fwd}/{bwd}", values)
        results.add(round=number, variant=variant, fwd=fwd, bwd=bwd, **found)
    print(f"{values.layers} blocks of width {values.width}, medians over the rounds")
    print(table_of(results.rows))


if __name__ == "__main__":
    main(sys.argv)
