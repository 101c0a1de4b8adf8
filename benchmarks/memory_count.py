"""Counted memory of training (`topkast_tf.count_memory`) beside measured memory.

Fifteen configurations: dense, Top-KAST masked, native and packed, static masks, RigL,
gradual pruning, SWAT with dense and packed activations; SGD with momentum and Adam; dense
layers, 3x3 convolutions with batch normalisation, and a Transformer-XL. Each takes --steps
training steps by Keras (`train_on_batch`, no XLA) in a process of its own, with one thread.

  measured  the most memory that was ever resident in the process, less what was resident
            before the model was built; less the same of a twin: the same layers and
            flags with about a sixteenth of the width, and one example. What the twin takes
            is the graph of the step and what TensorFlow needs to run it: it does not depend
            on sizes, and nobody counts it.
  counted   `count_memory(model, ...).peak` of a model that was not run, less the same of
            the twin.

Target: counted over measured between 0.9 and 1.1 in each.

The C library is told to return memory of 128 KiB and more when it is freed
(MALLOC_MMAP_THRESHOLD_), so that what is measured is what is in use. Without
(--noreturn_memory) it keeps some of it for later, and the process has more.

What the figures do not say: memory of an accelerator; of steps with several threads, which
run in another order; or compiled by XLA.

The CSV holds each round, and only grows: the same command goes on where it stopped, and
--rounds is the total.

Example: python benchmarks/memory_count.py --configurations=mlp_dense,mlp_packed --rounds=3
"""

import contextlib
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

if __name__ == "__main__":
    # Run as a file, Python looks for modules in benchmarks/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags
from tqdm import tqdm

from benchmarks import common

TARGET = (0.9, 1.1)
_RETURNS = {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024)}
_TWIN_FACTOR = 16


class Configuration(NamedTuple):
    """What is trained.

    Attributes:
      net: one of `NETS`.
      scope: one of `SCOPES`.
      optimizer: ``"sgd"``, with momentum, or ``"adam"``.
      batch: examples a step.
      width: of the net.
    """

    net: str
    scope: str
    optimizer: str
    batch: int
    width: int


CONFIGURATIONS: dict[str, Configuration] = {
    "mlp_dense": Configuration("mlp", "dense", "adam", 2048, 1024),
    "mlp_masked": Configuration("mlp", "masked", "adam", 2048, 1024),
    "mlp_native": Configuration("mlp", "native", "adam", 2048, 1024),
    "mlp_packed": Configuration("mlp", "packed", "adam", 2048, 1024),
    "mlp_dense_sgd": Configuration("mlp", "dense", "sgd", 512, 1024),
    "mlp_static": Configuration("mlp", "static", "sgd", 512, 1024),
    "mlp_rigl": Configuration("mlp", "rigl", "sgd", 512, 1024),
    "mlp_pruning": Configuration("mlp", "pruning", "adam", 512, 1024),
    "resnet_dense": Configuration("resnet", "dense", "sgd", 64, 64),
    "resnet_masked": Configuration("resnet", "masked", "adam", 64, 64),
    "resnet_native": Configuration("resnet", "native", "sgd", 96, 64),
    "vgg_swat": Configuration("vgg", "swat", "sgd", 64, 64),
    "vgg_swat_packed": Configuration("vgg", "swat_packed", "sgd", 128, 64),
    "transformer_dense": Configuration("transformer", "dense", "adam", 8, 512),
    "transformer_packed": Configuration("transformer", "packed", "adam", 8, 512),
}
COLUMNS = (
    *("steps", "returns_memory", "cpu", "tensorflow", "round", "configuration", "size"),
    *("measured_bytes", "counted_bytes"),
)
SIZES = ("full", "twin")
_SIDE, _LENGTH = 32, 128


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this benchmark."""
    flags.DEFINE_list(
        "configurations", list(CONFIGURATIONS), "which ones", flag_values=values
    )
    flags.DEFINE_string(
        "csv", "memory_count.csv", "where the rounds are kept", flag_values=values
    )
    flags.DEFINE_boolean(
        "return_memory", True, "whether the C library returns what is freed",
        flag_values=values,
    )  # fmt: skip
    for name, default, text in (
        ("steps", 2, "training steps"),
        ("rounds", 1, "rounds, each of two processes a configuration"),
    ):
        flags.DEFINE_integer(name, default, text, 1, flag_values=values)
    flags.DEFINE_string(
        "measure", None, "measure CONFIGURATION:SIZE in this process, and print JSON "
        "(what the benchmark does in its own processes)", flag_values=values,
    )  # fmt: skip


def _mlp(width: int) -> Any:
    from keras import Input, Sequential, layers

    inner = [layers.Dense(4 * width if i % 2 == 0 else width, "relu") for i in range(6)]
    return Sequential([Input((width,)), *inner, layers.Dense(10)])


def _transformer(width: int) -> Any:
    from benchmarks.native_models import transformer

    class Sizes:
        layers, length = 4, _LENGTH

    Sizes.width = width
    return transformer(Sizes)


def _images(net: str) -> Callable[[int], Any]:
    def build(width: int) -> Any:
        from benchmarks import swat_memory

        return swat_memory.build(net, _SIDE, width)

    return build


NETS: dict[str, Callable[[int], Any]] = {
    "mlp": _mlp,
    "resnet": _images("resnet"),
    "vgg": _images("vgg"),
    "transformer": _transformer,
}


def _scope(name: str) -> contextlib.AbstractContextManager:
    from swat_tf import swat_scope
    from topkast_tf import sparse_scope, topkast_scope

    if name in ("masked", "native"):
        return topkast_scope(0.9, 0.8, refresh_every=100, kernels=name)
    if name == "packed":
        return topkast_scope(0.9, 0.8, refresh_every=100, storage="packed")
    if name.startswith("swat"):
        storage = "packed" if name == "swat_packed" else "dense"
        return swat_scope(0.9, exempt="first", storage=storage, kernels="masked")
    if name == "dense":
        return contextlib.nullcontext()
    length = {} if name == "static" else {"total_steps": 10_000}
    return sparse_scope(name, sparsity=0.9, kernels="masked", **length)


SCOPES = (
    "dense",
    "masked",
    "native",
    "packed",
    "static",
    "rigl",
    "pruning",
    "swat",
    "swat_packed",
)


def built(configuration: Configuration) -> Any:
    """A compiled model."""
    import keras

    with _scope(configuration.scope):
        model = NETS[configuration.net](configuration.width)
        if configuration.net == "transformer":
            model(batch_of(configuration)[0])
    optimizer = (
        keras.optimizers.Adam(1e-4)
        if configuration.optimizer == "adam"
        else keras.optimizers.SGD(1e-3, momentum=0.9)
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    return model


def batch_of(configuration: Configuration) -> tuple[Any, Any]:
    """Inputs and targets of a step."""
    import tensorflow as tf

    batch, net = configuration.batch, configuration.net
    if net == "transformer":
        tokens = tf.random.uniform([batch, _LENGTH], 0, 256, tf.int32)
        return tokens, tokens
    shape = (configuration.width,) if net == "mlp" else (_SIDE, _SIDE, 3)
    return (
        tf.random.normal([batch, *shape]),
        tf.random.uniform([batch], 0, 10, tf.int32),
    )


def twin(configuration: Configuration) -> Configuration:
    """The same graph, with next to no tensors."""
    least = 16 if configuration.net == "transformer" else 4
    width = max(least, configuration.width // _TWIN_FACTOR)
    return configuration._replace(batch=1, width=width)


def measure(name: str, size: str, steps: int) -> dict[str, int]:
    """Trains a model in this process; then counts another one that was not run.

    Returns:
      `measured_bytes` and `counted_bytes`.
    """
    import tensorflow as tf

    from topkast_tf import count_memory
    from topkast_tf.kernels import library

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    configuration = CONFIGURATIONS[name]
    if size == "twin":
        configuration = twin(configuration)
    x, y = batch_of(configuration)
    library.is_available()  # which may have to be built
    before = common.resident_bytes()
    if before is None:
        common.fail("Expected a system that says what is resident, in /proc/self/statm")
    model = built(configuration)
    for _ in range(steps):
        model.train_on_batch(x, y)
    measured = common.peak_bytes() - before
    counted = count_memory(built(configuration), x, y).peak
    return {"measured_bytes": measured, "counted_bytes": counted}


def measure_elsewhere(name: str, size: str, values: flags.FlagValues) -> dict[str, int]:
    """`measure` in a process of its own."""
    command = [
        *(sys.executable, __file__, f"--measure={name}:{size}"),
        f"--steps={values.steps}",
    ]
    return common.json_of_process(command, _RETURNS if values.return_memory else {})


def ratios(rows: Sequence[Mapping[str, str]]) -> list[tuple[float, float]]:
    """(measured, counted) bytes of a configuration, round by round, less its twin's."""
    of: dict[str, dict[str, Mapping[str, str]]] = {}
    for row in rows:
        of.setdefault(row["round"], {})[row["size"]] = row
    found = []
    for pair in of.values():
        if set(pair) == set(SIZES):
            measured, counted = (
                int(pair["full"][name]) - int(pair["twin"][name])
                for name in ("measured_bytes", "counted_bytes")
            )
            found.append((measured, counted))
    return found


def table_rows(results: common.Results, names: Sequence[str]) -> list[Sequence[str]]:
    """The table that is printed."""
    head = ("", "optimizer", "batch", "twin", "measured", "counted")
    table: list[Sequence[str]] = [(*head, "counted / measured", "target")]
    for name in names:
        rows = results.where(configuration=name)
        pairs = ratios(rows)
        if not pairs:
            continue
        measured, counted = (common.spread([p[i] / 1e6 for p in pairs]) for i in (0, 1))
        small = [int(r["measured_bytes"]) / 1e6 for r in rows if r["size"] == "twin"]
        ratio = common.spread([c / m for m, c in pairs])
        met = TARGET[0] <= ratio.median <= TARGET[1]
        table.append(
            (
                name,
                CONFIGURATIONS[name].optimizer,
                str(CONFIGURATIONS[name].batch),
                f"{common.spread(small).median:,.0f} MB",
                f"{measured.median:,.0f} MB",
                f"{counted.median:,.0f} MB",
                str(ratio),
                "met" if met else "MISSED",
            )
        )
    return table


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = common.parse(argv, __doc__ or "", define_flags)
    if values.measure:
        name, _, size = values.measure.partition(":")
        if name not in CONFIGURATIONS or size not in SIZES:
            common.fail(
                f"Expected --measure of {tuple(CONFIGURATIONS)}:{SIZES}. "
                f"Received: {values.measure}"
            )
        print(json.dumps(measure(name, size, values.steps)))
        return
    names = values.configurations
    if not names or not set(names) <= set(CONFIGURATIONS):
        common.fail(
            f"Expected --configurations of {', '.join(CONFIGURATIONS)}. Received: {names}"
        )
    import importlib.metadata

    from topkast_tf.kernels import library

    settings = {
        "steps": values.steps,
        "returns_memory": values.return_memory,
        "cpu": library.fastest(),
        "tensorflow": importlib.metadata.version("tensorflow"),
    }
    results = common.Results(values.csv, COLUMNS, settings)
    done = {(r["round"], r["configuration"], r["size"]) for r in results.rows}
    due = [
        each
        for each in (
            (str(number), name, size)
            for number in range(values.rounds)
            for name in names
            for size in SIZES
        )
        if each not in done
    ]
    for number, name, size in tqdm(due, unit="process", disable=None):
        found = measure_elsewhere(name, size, values)
        results.add(round=number, configuration=name, size=size, **found)
    print(common.table(table_rows(results, names)))
    print("medians (quartiles) over the rounds, without what the twin takes")


if __name__ == "__main__":
    main(sys.argv)
