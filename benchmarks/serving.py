"""How fast a sparse model is served: the native kernels beside dense engines.

Models (--cases), whose weights are random; the sets are those of `topkast_scope`:

  mlp_512       Dense 512 -> 2048 -> 512, ReLU
  mlp_4096      Dense 4096 -> 4096
  resnet50      of `launch`, images of 224 x 224; first and last layer dense
  mobilenet_v2  of `keras.applications`, the same
  transformer_xl  of `launch`: 6 blocks of width 512, 2,048 within, bytes; the logits that
                  follow one token, from a memory of 256 positions, which each call projects
                  anew, as the model does; ONNX Runtime does not load it

in engines, all on the same --threads:

  keras    the stripped model, zeros in its kernels, as a compiled function of TensorFlow
  litert   the same, converted by TensorFlow Lite, run by its interpreter with XNNPACK
  onnx     the same, exported by Keras and run by ONNX Runtime; left out where the packages
           onnxruntime and tf2onnx are not installed
  native   `strip(model, kernels="native")`, as a compiled function

A burst of calls of each engine is measured in each round, in random order. Speed-ups are of
`native` over the fastest of the dense engines in the same round; the table has their median
and the range between their quartiles. The outputs of all engines are compared once.

The CSV holds each round, and only grows: the same command goes on where it stopped, and
--rounds is the total.

Example: python benchmarks/serving.py --cases=mlp_512,mlp_4096 --rounds=9
"""

import contextlib
import importlib.util
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

if __name__ == "__main__":
    # Run as a file, Python looks for modules in benchmarks/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags

from benchmarks import common
from launch.support.quiet import quiet_start

with quiet_start():
    import keras
    import numpy as np
    import tensorflow as tf

    from launch.models.imagenet_resnet import imagenet_resnet
    from launch.models.transformer_xl_config import TransformerXLConfig
    from launch.models.transformer_xl_core import TransformerXLCore
    from topkast_tf import strip, topkast_scope
    from topkast_tf.kernels.library import library

tf.get_logger().setLevel("ERROR")

COLUMNS = (
    *("case", "fwd", "batch", "threads", "cpu", "burst", "tensorflow", "round"),
    *("variant", "wall_ms", "cpu_ms"),
)


class Case(NamedTuple):
    """A model that is served.

    Attributes:
      build: makes it.
      inputs: those of some examples, by a generator of random numbers and their number.
      exempt: the layers that stay dense.
      without: engines that do not run it.
    """

    build: Callable[[], keras.Model]
    inputs: Callable[[np.random.Generator, int], list[np.ndarray]]
    exempt: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


def _normal(*shape: int) -> Callable[[np.random.Generator, int], list[np.ndarray]]:
    """Inputs of this shape from the normal distribution."""
    return lambda rng, batch: [rng.normal(size=(batch, *shape)).astype(np.float32)]


def _dense(*widths: int) -> Callable[[], keras.Model]:
    def build() -> keras.Model:
        layers = [keras.layers.Dense(n, activation="relu") for n in widths[1:-1]]
        last = keras.layers.Dense(widths[-1])
        return keras.Sequential([keras.Input((widths[0],)), *layers, last])

    return build


_MEMORY = 256
_TXL = TransformerXLConfig(256, 6, 512, 8, 64, 2048, memory_length=_MEMORY)


@keras.saving.register_keras_serializable("serving")
class NextToken(keras.layers.Layer):
    """The logits after one token, from the memory of each block."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.core = TransformerXLCore(_TXL)
        self.logits = keras.layers.Dense(_TXL.vocabulary)

    def build(self, input_shape):
        self.core.build()
        self.logits.build((None, self.core.config.d_model))

    def call(self, inputs):
        tokens, memory = inputs
        hidden, _ = self.core(tokens, tf.unstack(memory, axis=1))
        return self.logits(hidden[:, -1])


def _transformer_xl() -> keras.Model:
    tokens = keras.Input((1,), dtype="int32")
    memory = keras.Input((_TXL.layers, _MEMORY, _TXL.d_model))
    return keras.Model([tokens, memory], NextToken()([tokens, memory]))


def _token_and_memory(rng: np.random.Generator, batch: int) -> list[np.ndarray]:
    [memory] = _normal(_TXL.layers, _MEMORY, _TXL.d_model)(rng, batch)
    return [rng.integers(0, _TXL.vocabulary, (batch, 1), np.int32), memory]


_IMAGE = (224, 224, 3)
CASES = {
    "mlp_512": Case(_dense(512, 2048, 512), _normal(512)),
    "mlp_4096": Case(_dense(4096, 4096), _normal(4096)),
    "resnet50": Case(
        lambda: imagenet_resnet(50, 1, _IMAGE, 1000),
        _normal(*_IMAGE),
        ("first", "last"),
    ),
    "mobilenet_v2": Case(
        lambda: keras.applications.MobileNetV2(
            _IMAGE, weights=None, classifier_activation=None
        ),
        _normal(*_IMAGE),
        ("first", "last"),
    ),
    # ONNX Runtime does not load what Keras exports of it.
    "transformer_xl": Case(_transformer_xl, _token_and_memory, without=("onnx",)),
}
DENSE = ("keras", "litert", "onnx")


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this benchmark."""
    for kind, name, default, text in (
        ("list", "cases", list(CASES), "which models"),
        ("list", "sparsities", ["0.8", "0.9", "0.95"], "forward sparsities"),
        ("list", "batches", ["1", "32"], "examples of a call"),
        ("string", "csv", "serving.csv", "where the rounds are kept"),
        ("float", "seconds", 0.0, "begin no round after so long; 0: no limit"),
    ):
        define = getattr(flags, f"DEFINE_{kind}")
        define(name, default, text, flag_values=values)
    for name, default, text in (
        ("rounds", 7, "rounds, each of all engines"),
        ("burst", 15, "calls that count of each engine in a round"),
        ("threads", 1, "threads of each engine"),
    ):
        flags.DEFINE_integer(name, default, text, 1, flag_values=values)


def engines() -> tuple[str, ...]:
    """Those that are installed."""
    packages = ("onnxruntime", "tf2onnx")
    has_onnx = all(map(importlib.util.find_spec, packages))
    return (*(name for name in DENSE if name != "onnx" or has_onnx), "native")


class Served:
    """A model in each engine, made when it is asked for.

    Args:
      case: which model.
      fwd: its forward sparsity.
      batch: examples of a call.
      threads: of each engine.
    """

    def __init__(self, case: Case, fwd: float, batch: int, threads: int):
        keras.utils.set_random_seed(0)
        with topkast_scope(fwd, fwd, exempt=case.exempt):
            model = case.build()
        self._plain, self._native = strip(model), strip(model, kernels="native")
        self._inputs = case.inputs(np.random.default_rng(0), batch)
        self._threads = threads

    def call(self, engine: str) -> Callable[[], np.ndarray]:
        """A call of an engine, whose outputs are those of the others."""
        made: Callable[[], np.ndarray] = getattr(self, f"_by_{engine}")()
        expected = np.asarray(self._plain(_given(self._inputs)))
        error = np.abs(made() - expected).max() / np.abs(expected).max()
        if not error < 1e-3:
            common.fail(f"Expected the outputs of the others from {engine}: {error}")
        return made

    def _compiled(self, model: keras.Model) -> Callable[[], np.ndarray]:
        call = tf.function(lambda x: model(x, training=False))
        x = _given([tf.constant(value) for value in self._inputs])
        return lambda: call(x).numpy()

    def _by_keras(self) -> Callable[[], np.ndarray]:
        return self._compiled(self._plain)

    def _by_native(self) -> Callable[[], np.ndarray]:
        return self._compiled(self._native)

    def _by_litert(self) -> Callable[[], np.ndarray]:
        from ai_edge_litert.interpreter import Interpreter

        # Of known shapes: LiteRT has no operation that checks one.
        shapes = [tf.TensorSpec(x.shape, x.dtype) for x in self._inputs]
        archive = keras.export.ExportArchive()
        archive.track(self._plain)
        with tempfile.TemporaryDirectory() as folder, quiet_start():
            archive.add_endpoint(
                "serve", lambda *x: self._plain(_given(list(x))), shapes
            )
            archive.write_out(folder, verbose=False)
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            interpreter = Interpreter(
                model_content=converter.convert(), num_threads=self._threads
            )
        given = [
            (
                place["index"],
                next(x for x in self._inputs if x.ndim == len(place["shape"])),
            )
            for place in interpreter.get_input_details()
        ]
        [found] = interpreter.get_output_details()
        interpreter.allocate_tensors()

        def call() -> np.ndarray:
            for index, x in given:
                interpreter.set_tensor(index, x)
            interpreter.invoke()
            return interpreter.get_tensor(found["index"])

        return call

    def _by_onnx(self) -> Callable[[], np.ndarray]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/model.onnx"
            with quiet_start():
                self._plain.export(path, format="onnx", verbose=False)
            session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        names = [each.name for each in session.get_inputs()]
        given = dict(zip(names, self._inputs, strict=True))
        return lambda: session.run(None, given)[0]


def _given(inputs: list[Any]) -> Any:
    """Inputs as a Keras model takes them: one alone is no list."""
    return inputs if len(inputs) > 1 else inputs[0]


def row_of(name: str, rounds: Sequence[Mapping[str, common.Times]]) -> Sequence[str]:
    """The row of the table for a model, a sparsity and a batch."""
    dense = [engine for engine in DENSE if engine in rounds[0]]
    times = [
        f"{statistics.median(found[engine].wall for found in rounds):.3g}"
        if engine in rounds[0]
        else "-"
        for engine in (*DENSE, "native")
    ]
    gains = [
        min(found[engine].wall for engine in dense) / found["native"].wall
        for found in rounds
    ]
    return (name, *times, str(common.spread(gains)))


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = common.parse(argv, __doc__ or "", define_flags)
    for name in values.cases:
        if name not in CASES:
            common.fail(f"Expected --cases of {', '.join(CASES)}. Received: {name}")
    with contextlib.suppress(RuntimeError):  # in a process where TensorFlow runs
        tf.config.threading.set_intra_op_parallelism_threads(values.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    deadline = time.monotonic() + (values.seconds or float("inf"))
    table: list[Sequence[str]] = [
        ("ms a call", *DENSE, "native", "native over the fastest dense one")
    ]
    for name in values.cases:
        for batch in map(int, values.batches):
            for fwd in map(float, values.sparsities):
                settings: dict[str, Any] = {
                    "case": name,
                    "fwd": fwd,
                    "batch": batch,
                    "threads": values.threads,
                    "cpu": library().cpu,
                    "burst": values.burst,
                    "tensorflow": tf.__version__,
                }
                results = common.Results(values.csv, COLUMNS, settings)
                made: list[Served] = []

                def make(engine: str, made=made, name=name, fwd=fwd, batch=batch):
                    if not made:
                        made.append(Served(CASES[name], fwd, batch, values.threads))
                    return made[0].call(engine)

                title = f"{name}, batch {batch}, {fwd:.0%}"
                rounds = common.run_rounds(
                    results,
                    [each for each in engines() if each not in CASES[name].without],
                    make,
                    rounds=values.rounds,
                    deadline=deadline,
                    burst=values.burst,
                    name=title,
                )
                keras.backend.clear_session()
                if rounds:
                    table.append(row_of(title, rounds))
    if len(table) == 1:
        print("no round yet")
        return
    print(common.table(table))
    print("medians; the last column: median (quartiles) over the rounds")


if __name__ == "__main__":
    main(sys.argv)
