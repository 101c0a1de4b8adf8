"""The progress of an evaluation that takes long."""

from typing import TextIO

import keras
from tqdm import tqdm

from launch import terminal


class EvaluationBar(keras.callbacks.Callback):
    """A bar of the batches of `evaluate`, on a terminal; it goes when it is full.

    Args:
      name: what is evaluated.
      out: where to write.
    """

    def __init__(self, name: str, out: TextIO):
        super().__init__()
        self._name = name
        self._out = out
        self._bar: tqdm | None = None

    def on_test_begin(self, logs=None):
        if terminal.moves(self._out):
            self._bar = tqdm(
                desc=self._name,
                total=self.params.get("steps"),
                unit="batch",
                file=self._out,
                dynamic_ncols=True,
                leave=False,
                mininterval=0.25,
            )

    def on_test_batch_end(self, batch, logs=None):
        if self._bar is not None:
            self._bar.update()

    def on_test_end(self, logs=None):
        if self._bar is not None:
            self._bar.close()
            self._bar = None
