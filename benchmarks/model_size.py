"""What a user takes home: the size of a model's files, and its inference time.

The CIFAR ResNet-20 of `launch`, its weights random, in three variants:

  dense     built without a scope
  sparse    built in `topkast_scope`, saved as it is: theta and the sets
  stripped  the sparse model after `strip`: alpha, with zeros in its kernels

Each is written in every format, and the bytes counted as they are and after gzip (-9):
`.keras`, `.weights.h5`, a SavedModel (`export`, as a tar), TFLite with float32 weights
and with int8 ones (dynamic range quantisation). Two files of one seed are alike but for
their random weights, so one round of sizes is enough.

Time is that of a compiled forward pass, in bursts, the variants in random order in each
round; a ratio compares medians of one round.

Target: stripped over dense at most 0.25 for TFLite after gzip, and 1.05 for the time.

What the figures do not say: the files are small only when compressed, as a download or
an app is; loaded, a stripped model takes the memory and time of a dense one. No
accuracy is given: the weights are not trained.

The CSV holds each round, and only grows: the same command goes on where it stopped, and
--rounds is the total.

Example: python benchmarks/model_size.py --rounds=10
"""

import contextlib
import functools
import gzip
import io
import pathlib
import random
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

if __name__ == "__main__":
    # Run as a file, Python looks for modules in benchmarks/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags
from tqdm import tqdm

from benchmarks import common
from launch.support.quiet import quiet_start

with quiet_start():
    import keras
    import tensorflow as tf

    from launch.models import resnet
    from topkast_tf import strip, topkast_scope

tf.get_logger().setLevel("ERROR")

VARIANTS = ("dense", "sparse", "stripped")
FORMATS = ("keras", "weights_h5", "saved_model", "tflite", "tflite_int8")
SIZES = tuple(f"{name}{kind}" for name in FORMATS for kind in ("", "_gzip"))
COLUMNS = (
    "depth",
    "fwd",
    "bwd",
    "batch",
    "burst",
    "tensorflow",
    "round",
    "variant",
    "wall_ms",
    "cpu_ms",
    *SIZES,
)
SIZE_TARGET, TIME_TARGET = 0.25, 1.05


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this benchmark."""
    for kind, name, default, text in (
        ("string", "csv", "model_size.csv", "where the rounds are kept"),
        ("float", "fwd", 0.9, "forward sparsity"),
        ("float", "bwd", 0.8, "backward sparsity"),
        ("float", "seconds", 0.0, "begin no round after so long; 0: no limit"),
    ):
        define = getattr(flags, f"DEFINE_{kind}")
        define(name, default, text, flag_values=values)
    for name, default, text in (
        ("rounds", 10, "rounds of inference, each of all variants"),
        ("burst", 5, "passes that count of each variant in a round"),
        ("batch", 128, "images a pass"),
        ("depth", 20, "layers of the network"),
    ):
        flags.DEFINE_integer(name, default, text, 1, flag_values=values)


def build(values: flags.FlagValues) -> dict[str, keras.Model]:
    """Variant -> model."""
    models = {}
    for variant in ("dense", "sparse"):
        keras.utils.set_random_seed(0)
        sparse = variant == "sparse"
        scope = topkast_scope(values.fwd, values.bwd) if sparse else None
        with scope or contextlib.nullcontext():
            models[variant] = resnet.resnet(values.depth, (32, 32, 3), 10)
    return {**models, "stripped": strip(models["sparse"])}


def sizes_of(model: keras.Model, formats: Sequence[str] = FORMATS) -> dict[str, int]:
    """Column -> bytes; of a SavedModel, of a tar of its folder."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in formats:
            content = _WRITERS[name](model, pathlib.Path(folder))
            found[name] = len(content)
            found[f"{name}_gzip"] = len(gzip.compress(content, 9, mtime=0))
    return found


def _keras(model: keras.Model, folder: pathlib.Path) -> bytes:
    model.save(folder / "model.keras")
    return (folder / "model.keras").read_bytes()


def _weights_h5(model: keras.Model, folder: pathlib.Path) -> bytes:
    model.save_weights(folder / "model.weights.h5")
    return (folder / "model.weights.h5").read_bytes()


def _saved_model(model: keras.Model, folder: pathlib.Path) -> bytes:
    model.export(folder / "saved", verbose=False)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.add(folder / "saved", "saved")
    return tar.getvalue()


def _tflite(model: keras.Model, folder: pathlib.Path, int8: bool = False) -> bytes:
    with quiet_start():
        model.export(folder / "converted", verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "converted"))
        if int8:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        return converter.convert()


_WRITERS: dict[str, Callable[[keras.Model, pathlib.Path], bytes]] = {
    "keras": _keras,
    "weights_h5": _weights_h5,
    "saved_model": _saved_model,
    "tflite": _tflite,
    "tflite_int8": functools.partial(_tflite, int8=True),
}


def inference_of(model: keras.Model, batch: int) -> Callable[[], object]:
    """A forward pass, compiled and warm."""
    images = tf.random.stateless_normal([batch, 32, 32, 3], [0, 0])
    call = tf.function(lambda: model(images, training=False))
    call()
    return lambda: call().numpy()


def read(row: Mapping[str, str]) -> dict[str, float]:
    """Figure -> value of a row of the CSV."""
    return {name: float(row[name]) for name in ("wall_ms", "cpu_ms", *SIZES)}


def table_of(rounds: Sequence[dict[str, dict[str, float]]]) -> str:
    """The table that is printed: kilobytes, gzipped ones, ratios."""
    last = rounds[-1]
    header = ("kB, raw / gzipped", *VARIANTS, "stripped / dense", "target")
    rows: list[Sequence[str]] = [header]
    for name in FORMATS:
        cells = [
            f"{last[each][name] / 1e3:,.0f} / {last[each][f'{name}_gzip'] / 1e3:,.0f}"
            for each in VARIANTS
        ]
        gzipped = f"{name}_gzip"
        ratio = last["stripped"][gzipped] / last["dense"][gzipped]
        target = f"<= {SIZE_TARGET:.2f}" if name.startswith("tflite") else ""
        rows.append((name, *cells, f"{ratio:.3f}", target))
    for clock in ("wall_ms", "cpu_ms"):
        times = [
            f"{statistics.median(found[each][clock] for found in rounds):.1f}"
            for each in VARIANTS
        ]
        ratio = common.spread(
            [f["stripped"][clock] / f["dense"][clock] for f in rounds]
        )
        label = f"a pass, {clock.replace('_', ', ')}"
        target = f"<= {TIME_TARGET:.2f}" if clock == "wall_ms" else ""
        rows.append((label, *times, str(ratio), target))
    return common.table(rows)


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = common.parse(argv, __doc__ or "", define_flags)
    names = ("depth", "fwd", "bwd", "batch", "burst")
    settings = {name: getattr(values, name) for name in names}
    results = common.Results(
        values.csv, COLUMNS, {**settings, "tensorflow": tf.__version__}
    )
    deadline = time.monotonic() + (values.seconds or float("inf"))
    done = len(results.complete_rounds(VARIANTS, read))
    passes: dict[str, Callable[[], object]] = {}
    sizes: dict[str, dict[str, int]] = {}
    for number in tqdm(range(done, values.rounds), unit="round", disable=None):
        if time.monotonic() > deadline:
            break
        for variant, model in (build(values) if not passes else {}).items():
            sizes[variant] = sizes_of(model)
            passes[variant] = inference_of(model, values.batch)
        for variant in random.sample(VARIANTS, len(VARIANTS)):
            passes[variant]()
            times = common.median_timed(passes[variant], values.burst)
            results.add(
                round=number,
                variant=variant,
                wall_ms=f"{times.wall:.3f}",
                cpu_ms=f"{times.cpu:.3f}",
                **sizes[variant],
            )
    rounds = results.complete_rounds(VARIANTS, read)
    if not rounds:
        print("no round yet")
        return
    print(table_of(rounds))
    print(
        f"ResNet-{values.depth}, {len(rounds)} rounds; ratios of gzipped sizes, and of"
    )
    print("times: median (quartiles) over the rounds")


if __name__ == "__main__":
    main(sys.argv)
