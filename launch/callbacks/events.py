"""The TensorBoard events of a run: its metrics, its sets, its flags."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

import topkast_tf
from launch.callbacks.recorder import Recorder
from launch.plots.histograms import by_set
from launch.plots.sets import LEGEND, mask_image, with_legend
from launch.storage import event_files
from topkast_tf.analysis.flops import FlopReport

EVENTS_FOLDER = "events"
DYNAMICS_FOLDER = "dynamics"
IMAGES = 8
_NO_SCALARS = ("step", "epoch")
_TAGS = {
    "objective": "loss/objective",
    "exploration_loss": "loss/exploration",
    "forward_sparsity": "sparsity/forward",
    "backward_sparsity": "sparsity/backward",
    "learning_rate": "run/learning_rate",
    "step_ms": "run/step_ms",
    "seconds": "run/seconds",
    "processor_seconds": "run/processor_seconds",
}


class Events(keras.callbacks.Callback):
    """Writes the metrics and pictures of the sets after each round, and the flags once.

    The scalars are the recorder's rows. When a run resumes, events of steps after its
    checkpoint are removed, and rows without events are written, so that TensorBoard
    shows each row once. The pictures show the sets of the first few sparse weights, with
    a legend (see `mask_image`), and histograms the values of each of their sets.

    Args:
      folder: folder of the method; events/ is written in it.
      recorder: the source of the rows; must precede this callback.
      flags: the resolved flags as text.
      step: steps that the run has taken. No other events may be written before.
      images: number of weights in pictures and histograms.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        recorder: Recorder,
        flags: str,
        step: int,
        images: int = IMAGES,
    ):
        super().__init__()
        self._folder = folder / EVENTS_FOLDER
        # Before any callback, such as `MaskDynamics`, opens a file there.
        event_files.go_back(self._folder / DYNAMICS_FOLDER, step)
        self._there = event_files.go_back(self._folder, step)
        self._recorder = recorder
        self._flags = flags
        self._images = images
        self._writer: Any = None

    def on_train_begin(self, logs=None):
        if self._writer is None:  # `fit` is called for each stretch of a run
            self._begin()

    def on_epoch_end(self, epoch, logs=None):
        row = self._recorder.rows[-1]
        self._write_scalars(row)
        self._write_weights(row["step"])
        self._writer.flush()

    def on_train_end(self, logs=None):
        self._writer.flush()

    def _begin(self) -> None:
        self._writer = tf.summary.create_file_writer(str(self._folder))
        if ("flags", 0) not in self._there:
            with self._writer.as_default(0):
                tf.summary.text("flags", f"```\n{self._flags}```")
        for row in self._recorder.rows:
            if (_tag("objective"), row["step"]) not in self._there:
                self._write_scalars(row)
        self._writer.flush()

    def _write_scalars(self, row: Mapping[str, Any]) -> None:
        with self._writer.as_default(row["step"]):
            for name, value in row.items():
                if name not in _NO_SCALARS:
                    tf.summary.scalar(_tag(name), value)

    def write_counts(self, step: int, counts: FlopReport) -> None:
        """Writes the counted FLOPs of a trained model, of one example, each once.

        Args:
          step: its last step.
          counts: of the whole model and of its weights.
        """
        if self._writer is None:  # no step was left, only the end of the run
            self._begin()
        scalars = {
            "flops/inference": counts.sparse.forward,
            "flops/inference_over_dense": counts.inference_ratio,
            "flops/training": counts.run.training,
            "flops/training_over_dense": counts.run_ratio,
        }
        for row in counts.rows:
            tag = f"flops/training/{row.path}"
            scalars[tag] = scalars.get(tag, 0.0) + row.run.training
        with self._writer.as_default(step):
            for tag, value in scalars.items():
                if (tag, step) not in self._there:
                    tf.summary.scalar(tag, value)
        self._writer.flush()

    def _write_weights(self, step: int) -> None:
        weights = topkast_tf.sparse_weights(self.model)[: self._images]
        with self._writer.as_default(step):
            for weight in weights:
                codes = weight.codes()
                for name, values in by_set(weight.dense(), codes).items():
                    if values.size:
                        tag = f"weights/{name}/{weight.path}"
                        tf.summary.histogram(tag, values.astype("float32"))
                picture = with_legend(mask_image(codes))
                tf.summary.image(
                    f"sets/{weight.path}", picture[None], description=LEGEND
                )


def _tag(column: str) -> str:
    """The tag of a column: its group, then its name in the group.

    TensorBoard groups tags by the text before the slash and sorts the groups
    alphabetically, so that accuracy, or bits per byte, comes first.

    >>> _tag("test_accuracy"), _tag("forward_sparsity"), _tag("seconds")
    ('accuracy/test', 'sparsity/forward', 'run/seconds')
    """
    if column in _TAGS:
        return _TAGS[column]
    return re.sub("^(train|valid|test)_(.*)$", r"\2/\1", column)
