"""What a person sees of a run under way."""

from typing import TextIO

import keras
from tqdm import tqdm

from launch.callbacks.recorder import Recorder
from launch.callbacks.steps import steps_taken


class Progress(keras.callbacks.Callback):
    """A progress bar on a terminal, one line a round elsewhere.

    Args:
      name: what is being trained.
      total_steps: length of the run.
      recorder: whose last row is shown; must come before this in the callbacks.
      out: where to write.
    """

    def __init__(self, name: str, total_steps: int, recorder: Recorder, out: TextIO):
        super().__init__()
        self._name = name
        self._total = total_steps
        self._recorder = recorder
        self._out = out
        self._bar: tqdm | None = None

    def on_train_begin(self, logs=None):
        if self._out.isatty():
            done = steps_taken(self.model)
            self._bar = tqdm(
                total=self._total,
                initial=done,
                desc=self._name,
                unit="step",
                file=self._out,
                dynamic_ncols=True,
            )

    def on_train_batch_end(self, batch, logs=None):
        if self._bar is not None:
            self._bar.update()

    def on_epoch_end(self, epoch, logs=None):
        row, figures = self._recorder.rows[-1], self._recorder.figures
        shown = "  ".join(
            f"{f.column.replace('_', ' ')} {f.shown(row[f.column])}" for f in figures
        )
        if self._bar is not None:
            self._bar.set_postfix_str(shown)
            return
        width = len(str(self._total))
        print(
            f"{self._name:8} step {row['step']:{width}}/{self._total}"
            f"  epoch {row['epoch']:3g}  {shown}"
            f"  lr {row['learning_rate']:.5f}  {row['seconds']:7.1f} s",
            file=self._out,
            flush=True,
        )

    def on_train_end(self, logs=None):
        if self._bar is not None:
            self._bar.close()
