"""What happens at each step and epoch of `fit`: rate, record, checkpoint, progress."""

import csv
import io
import math
import pathlib
import re
import time
from collections.abc import Sequence
from typing import Any, TextIO

import keras
import tensorflow as tf
from tqdm import tqdm

import topkast_tf
from launch import checkpoints, files, sparsity
from launch.schedules import Schedule
from launch.tasks.figures import Figure

METRICS_FILE = "metrics.csv"


def steps_taken(model: keras.Model) -> int:
    """Optimizer steps since the beginning of the run; survives a resume."""
    return int(model.optimizer.iterations.numpy())


class LearningRate(keras.callbacks.Callback):
    """Sets the learning rate of each step to what the schedule says.

    The optimizer holds a plain number, so a checkpoint loads without the launcher.

    Args:
      schedule: learning rate as a function of the step.
    """

    def __init__(self, schedule: Schedule):
        super().__init__()
        self._schedule = schedule

    def on_train_batch_begin(self, batch, logs=None):
        rate = self._schedule(steps_taken(self.model))
        self.model.optimizer.learning_rate.assign(rate)


class Recorder(keras.callbacks.Callback):
    """Writes a row of metrics and a checkpoint after each round.

    A round is what lies between two evaluations, an epoch of the data or the steps that
    were asked for; Keras calls it an epoch.

    The checkpoint holds all rows so far, and metrics.csv is made from them: the two
    cannot tell different stories, whenever the process dies.

    The losses among the figures are without label smoothing and penalties, so that they
    can be compared; `objective` is what was minimised, penalties included. Training
    figures are means over the round while the weights change. `epoch` is how often the
    data has been seen. `seconds` is wall time, evaluation and checkpoints included.

    Args:
      folder: of this method; gets metrics.csv, checkpoints/ and events.
      state: as a checkpoint holds it; empty for a new run. `rows`: what was recorded.
        `metrics`: the running means of a round that is under way. `seconds`: wall
        time so far.
      figures: the figures of the task.
      epoch_steps: steps in which all the data is seen once.
      round_steps: steps in a full round.
      checkpoint_steps: also checkpoint after every so many steps; 0: never.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        state: dict[str, Any],
        figures: Sequence[Figure],
        epoch_steps: int,
        round_steps: int,
        checkpoint_steps: int = 0,
    ):
        super().__init__()
        self._folder = folder
        self.figures = figures
        self._epoch_steps = epoch_steps
        self._round_steps = round_steps
        self._checkpoint_steps = checkpoint_steps
        self._under_way = state.get("metrics")
        self._before = state.get("seconds", 0.0)
        self._start = time.monotonic()
        self.rows: list[dict[str, float]] = list(state.get("rows", ()))

    @property
    def seconds(self) -> float:
        """Wall time of this run, what was spent before a resume included."""
        return self._before + time.monotonic() - self._start

    def on_train_begin(self, logs=None):
        self._events = tf.summary.create_file_writer(str(self._folder / "events"))

    def on_train_end(self, logs=None):
        self._events.close()

    def on_train_batch_end(self, batch, logs=None):
        if self._under_way is not None:
            # Keras makes these sums and counts at the first step and no sooner. What
            # was summed before is added to it afterwards: the same sum, to the bit.
            for variable, value in zip(
                self.model.metrics_variables, self._under_way, strict=True
            ):
                variable.assign_add(value)
            self._under_way = None
        step = steps_taken(self.model)
        if (
            self._checkpoint_steps
            and step % self._checkpoint_steps == 0
            and step % self._round_steps
        ):
            # Sums and counts in float32: exact as JSON numbers.
            running = [float(v.numpy()) for v in self.model.metrics_variables]
            self._save(step, running)

    def on_epoch_end(self, epoch, logs=None):
        step = steps_taken(self.model)
        forward, backward = sparsity.achieved(topkast_tf.summary(self.model))
        row = {
            "step": step,
            "epoch": _shortest(step / self._epoch_steps),
            "objective": float(logs["loss"]),
            **{f.column: float(logs[f.log]) for f in self.figures},
            "learning_rate": float(self.model.optimizer.learning_rate.numpy()),
            "forward_sparsity": forward,
            "backward_sparsity": backward,
            "seconds": round(self.seconds, 3),
        }
        self.rows.append(row)
        self._save(step, None)
        self.write_metrics()
        with self._events.as_default(step):
            for name, value in row.items():
                if name not in ("step", "epoch"):
                    tf.summary.scalar(_tag(name), value)
        self._events.flush()

    def write_metrics(self) -> None:
        """Writes metrics.csv as a whole: one row a round."""
        if not self.rows:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        files.write_text(self._folder / METRICS_FILE, text.getvalue())

    def _save(self, step: int, running: list[float] | None) -> None:
        state = {"rows": self.rows, "metrics": running, "seconds": self.seconds}
        checkpoints.save(self._folder / "checkpoints", self.model, step, state)


def _shortest(number: float) -> float:
    """A number with four decimals, or none where it is whole."""
    return int(number) if number.is_integer() else round(number, 4)


def _tag(column: str) -> str:
    """TensorBoard groups by what stands before a slash."""
    return re.sub("^(train|valid|test)_", r"\1/", column)


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


class StopOnNaN(keras.callbacks.Callback):
    """Ends a run whose loss is no longer a number, before it is recorded as progress.

    Raises:
      FloatingPointError: at the end of such an epoch; no checkpoint is written for it.
    """

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError(f"the loss is {logs['loss']}")
