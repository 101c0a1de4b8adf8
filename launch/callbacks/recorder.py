"""The record of a run: a row of metrics and a checkpoint after each round."""

import csv
import io
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import keras

import topkast_tf
from launch import checkpoints, diagnosis, files, sparsity
from launch.callbacks.steps import steps_taken
from launch.tasks.figures import Figure

METRICS_FILE = "metrics.csv"


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
      folder: of this method; gets metrics.csv and checkpoints/.
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
        diagnosis.check_finite(self.model)
        state = {"rows": self.rows, "metrics": running, "seconds": self.seconds}
        checkpoints.save(self._folder / "checkpoints", self.model, step, state)


def _shortest(number: float) -> float:
    """A number with four decimals, or none where it is whole."""
    return int(number) if number.is_integer() else round(number, 4)
