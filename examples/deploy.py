"""Trains a small network sparse, and serves it in four ways: size, time and accuracy.

    python examples/deploy.py                      # digits: no download, half a minute
    python examples/deploy.py --dataset=cifar10 --data_dir=DIR --model=resnet20 --width=1

The network is trained at 90/80, then written as

  Keras          a SavedModel of the plain model, zeros in its kernels
  native         a SavedModel that holds the entries alone, for this library's kernels
  LiteRT         a file with sparse encoding, which is made whole when it is loaded
  ONNX Runtime   Keras's export (if onnxruntime and tf2onnx are installed)

and loaded again. Times are medians of calls on one thread, beside each other in turns; on a
busy machine compare the columns, not the figures of two runs.
"""

import argparse
import gzip
import importlib.util
import io
import pathlib
import statistics
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import keras
import numpy as np
import tensorflow as tf

from launch import data, models
from launch.data import pipeline
from launch.run.schedules import learning_rate
from topkast_tf import export_litert, strip, summary, topkast_scope

Call = Callable[[np.ndarray], np.ndarray]
"""Maps images to logits."""


def trained(settings: argparse.Namespace) -> tuple[keras.Model, data.ImageData]:
    """A sparse network, and its data."""
    source = data.find(settings.dataset, "image")
    source.check(settings.data_dir)
    images = source.open(settings.data_dir)
    keras.utils.set_random_seed(0)
    with topkast_scope(0.9, 0.8, exempt=("first", "last"), refresh_every=20):
        model = models.find(settings.model)(
            source.image_shape, source.classes, settings.width
        )
    schedule = learning_rate("cosine", 0.1, settings.steps)

    class Rate(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.model.optimizer.learning_rate = schedule(batch)

    model.compile(
        keras.optimizers.SGD(momentum=0.9),
        keras.losses.CategoricalCrossentropy(from_logits=True),
    )
    model.fit(
        pipeline.training_batches(
            images, batch_size=128, seed=0, first_step=0, steps=settings.steps
        ),
        steps_per_epoch=settings.steps,
        callbacks=[Rate()],
        shuffle=False,
        verbose=1 if sys.stdout.isatty() else 0,
    )
    return model, images


def saved_model(model: keras.Model, folder: pathlib.Path) -> Call:
    """Writes a SavedModel and loads it."""
    model.export(folder, verbose=False)
    loaded = tf.saved_model.load(folder)
    return lambda x: loaded.serve(tf.constant(x)).numpy()


def litert(model: keras.Model, folder: pathlib.Path) -> Call:
    """Writes a file for LiteRT and loads it."""
    path = export_litert(model, folder / "model.tflite")
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    [given], [found] = interpreter.get_input_details(), interpreter.get_output_details()
    allocated = []

    def call(x):
        if allocated != [x.shape]:
            interpreter.resize_tensor_input(given["index"], x.shape)
            interpreter.allocate_tensors()
            allocated[:] = [x.shape]
        interpreter.set_tensor(given["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(found["index"])

    return call


def onnx(model: keras.Model, folder: pathlib.Path) -> Call:
    """Writes a file for ONNX Runtime and loads it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = str(folder / "model.onnx")
    model.export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def size_of(folder: pathlib.Path) -> tuple[int, int]:
    """Bytes of the files in a folder, and of a compressed archive of them."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(folder, ".")
    files = [path for path in folder.rglob("*") if path.is_file()]
    raw = sum(path.stat().st_size for path in files)
    return raw, len(gzip.compress(archive.getvalue(), 9))


def milliseconds(calls: dict[str, Call], x: np.ndarray) -> dict[str, float]:
    """The median time of a call of each, measured in turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call(x)
    for _ in range(40):
        for name, call in calls.items():
            start = time.perf_counter()
            call(x)
            found[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> None:
    """Trains, exports and prints the table."""
    settings = parsed()
    warnings.simplefilter("ignore")  # of the converters
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model, images = trained(settings)
    found = summary(model)
    print(f"{found.kept_parameters:,} of {found.dense_parameters:,} parameters kept")
    batches = list(pipeline.evaluation_batches(images).as_numpy_iterator())
    plain = strip(model)
    ways: dict[str, Callable[[pathlib.Path], Call]] = {
        "Keras": lambda folder: saved_model(plain, folder),
        "native": lambda folder: saved_model(strip(model, kernels="native"), folder),
        "LiteRT": lambda folder: litert(model, folder),
    }
    if all(map(importlib.util.find_spec, ("onnxruntime", "tf2onnx"))):
        ways["ONNX Runtime"] = lambda folder: onnx(plain, folder)
    with tempfile.TemporaryDirectory() as root:
        calls, sizes = {}, {}
        for number, (name, way) in enumerate(ways.items()):
            folder = pathlib.Path(root) / str(number)
            folder.mkdir()
            calls[name], sizes[name] = way(folder), size_of(folder)
        one, many = (
            milliseconds(calls, np.asarray(batches[0][0][:count])) for count in (1, 32)
        )
        print("              kB  gzipped   ms, 1 image   ms, 32   accuracy")
        for name, call in calls.items():
            right = sum(
                (call(np.asarray(x)).argmax(-1) == np.asarray(y).argmax(-1)).sum()
                for x, y in batches
            )
            raw, zipped = (size / 1e3 for size in sizes[name])
            print(
                f"{name:12} {raw:6,.0f} {zipped:8,.0f} {one[name]:12.2f} "
                f"{many[name]:9.2f} {right / sum(len(x) for x, _ in batches):10.2%}"
            )


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="digits", help="digits or cifar10")
    parser.add_argument("--data_dir", help="where tensorflow-datasets has prepared it")
    parser.add_argument("--model", default="resnet8", help="as for launch/train.py")
    parser.add_argument("--width", type=float, default=4, help="a factor on its widths")
    parser.add_argument("--steps", type=int, default=150, help="of training")
    return parser.parse_args()


if __name__ == "__main__":
    main()
