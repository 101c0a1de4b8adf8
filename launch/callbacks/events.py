"""What TensorBoard shows of a run: its metrics, its sets, its flags."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

import topkast_tf
from launch.callbacks.mask_image import LEGEND, mask_image, with_legend
from launch.callbacks.recorder import Recorder
from launch.storage import event_files

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
    "seconds": "run/seconds",
}


class Events(keras.callbacks.Callback):
    """Writes each round's row of metrics, pictures of the sets, and once the flags.

    The scalars are made from the recorder's rows. When a run goes on, events of steps
    after its checkpoint are taken away, and rows without events get theirs: TensorBoard
    shows each once. The pictures are of the first few sparse weights, with a legend (see
    `mask_image`).

    Args:
      folder: of the method; gets events/.
      recorder: whose rows are written; must come before this in the callbacks.
      flags: the resolved flags as text.
      step: where the run stands; nobody may be writing events yet.
      images: of how many weights.
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
        # Before anybody, `MaskDynamics` too, has a file open there.
        event_files.go_back(self._folder / DYNAMICS_FOLDER, step)
        self._there = event_files.go_back(self._folder, step)
        self._recorder = recorder
        self._flags = flags
        self._images = images
        self._writer: Any = None

    def on_train_begin(self, logs=None):
        if self._writer is None:  # `fit` may be called for each stretch of a run
            self._begin()

    def on_epoch_end(self, epoch, logs=None):
        row = self._recorder.rows[-1]
        self._write_scalars(row)
        self._write_images(row["step"])
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

    def _write_images(self, step: int) -> None:
        weights = topkast_tf.sparse_weights(self.model)[: self._images]
        with self._writer.as_default(step):
            for weight in weights:
                picture = with_legend(mask_image(weight.codes()))
                tf.summary.image(
                    f"sets/{weight.path}", picture[None], description=LEGEND
                )


def _tag(column: str) -> str:
    """What a column is called there: its group, then which one of it.

    TensorBoard puts what stands before a slash together, and the groups in the order of
    the alphabet: accuracy, or bits per byte, comes first.

    >>> _tag("test_accuracy"), _tag("forward_sparsity"), _tag("seconds")
    ('accuracy/test', 'sparsity/forward', 'run/seconds')
    """
    if column in _TAGS:
        return _TAGS[column]
    return re.sub("^(train|valid|test)_(.*)$", r"\2/\1", column)
