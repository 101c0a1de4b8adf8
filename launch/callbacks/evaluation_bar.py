"""The progress of a long evaluation."""

import time
from typing import TextIO

import keras

from launch.support import terminal


class EvaluationBar(keras.callbacks.Callback):
    """Shows how many batches `evaluate` has completed.

    On a terminal it is a bar, which is removed at the end. Elsewhere it is a line at
    construction, every ten seconds, and at the end of the evaluation.

    Args:
      name: what is evaluated.
      out: the stream to write to.
    """

    def __init__(self, name: str, out: TextIO):
        super().__init__()
        self._name = name
        self._out = out
        # Before `evaluate`, whose compilation may take long.
        self._status = terminal.Status(out)
        self._status.draw(f"{name}: begins")

    def on_test_begin(self, logs=None):
        self._begin = time.monotonic()
        self._done = 0
        if terminal.moves(self._out):
            self._draw()

    def on_test_batch_end(self, batch, logs=None):
        self._done += 1
        if self._status.is_due:
            self._draw()

    def on_test_end(self, logs=None):
        if terminal.moves(self._out):
            self._status.clear()
        else:
            self._draw()

    def _draw(self) -> None:
        total = self.params.get("steps")
        of = f"/{total}" if total else ""
        share = terminal.bar(self._done / total, self._out) if total else ""
        gone = terminal.duration(time.monotonic() - self._begin)
        self._status.draw(
            f"{self._name}: {share}".rstrip(": "),
            f"batch {self._done}{of}",
            f"{gone} gone",
        )
