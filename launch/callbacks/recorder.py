"""The record of a run: a row of metrics and a checkpoint after each round."""

import contextlib
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import keras

import topkast_tf
from launch.callbacks.steps import steps_taken
from launch.distribute import replicas
from launch.run import sparsity
from launch.storage import checkpoints, diagnosis
from launch.storage.snapshots import can_be_saved_apart, snapshot
from launch.support import files
from launch.support.errors import UserError
from launch.support.writer import BackgroundWriter
from launch.tasks.metrics import Metric

METRICS_FILE = "metrics.csv"


class Recorder(keras.callbacks.Callback):
    """Writes a row of metrics and a checkpoint after each round.

    A round is what lies between two evaluations, an epoch of the data or the steps that
    were asked for; Keras calls it an epoch.

    The checkpoint holds all rows so far, and metrics.csv is made from them: the two
    cannot tell different stories, whenever the process dies.

    Both are written in a thread of their own, of the model as it was at that step, while
    training goes on. Where the one before is still being written it is waited for. A
    failure is raised in the next step; training ends when all is written.

    The losses among the figures are without label smoothing and penalties, so that they
    can be compared; `objective` is what was minimised, penalties included. Training
    figures and `objective` are means over the round while the weights change.
    `exploration_loss` is Top-KAST's penalty at the end of the round, which Keras counts in
    its `loss` and `val_loss`. `epoch` is how often the data has been seen. `seconds` is
    wall time, evaluation included.

    Args:
      folder: of this method; gets metrics.csv and checkpoints/.
      state: as a checkpoint holds it; empty for a new run. `rows`: what was recorded.
        `metrics`: the running means of a round that is under way. `unevaluated`: the
        training figures of a round whose evaluation is still to be made. `best`: step
        and headline figure of the best evaluation. `seconds`: wall time so far.
      metrics: the figures of the task, the headline first.
      epoch_steps: steps in which all the data is seen once.
      round_steps: steps in a full round.
      total_steps: steps of the whole run, which may cut the last round short.
      checkpoint_steps: also checkpoint after every N steps; 0: never.
      keep_checkpoints: how many of the newest to keep, beside the best.

    Raises:
      UserError: in training, if a checkpoint could not be written.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        state: dict[str, Any],
        metrics: Sequence[Metric],
        epoch_steps: int,
        round_steps: int,
        total_steps: int,
        checkpoint_steps: int = 0,
        keep_checkpoints: int = checkpoints.KEPT,
    ):
        super().__init__()
        self._folder = folder
        self.metrics = metrics
        self._epoch_steps = epoch_steps
        self._round_steps = round_steps
        self._total_steps = total_steps
        self._checkpoint_steps = checkpoint_steps
        self._kept = keep_checkpoints
        self._under_way = state.get("metrics")
        self.unevaluated: dict[str, float] | None = state.get("unevaluated")
        self._best: dict[str, Any] | None = state.get("best")
        self._before = state.get("seconds", 0.0)
        self._start = time.monotonic()
        self._saved_step: int | None = None
        self._writer = BackgroundWriter()
        self.rows: list[dict[str, float]] = list(state.get("rows", ()))

    @property
    def seconds(self) -> float:
        """Wall time of this run, what was spent before a resume included."""
        return self._before + time.monotonic() - self._start

    def on_train_end(self, logs=None):
        self._writer.wait()

    def on_train_batch_begin(self, batch, logs=None):
        # Before the step, which may add to the sums more than once. Keras's own step adds
        # once, but makes these sums only then: there it is the same sum afterwards.
        under_way = self._under_way
        if under_way and len(self.model.metrics_variables) == len(under_way):
            self._restore_totals()

    def on_train_batch_end(self, batch, logs=None):
        self._writer.check()
        self._restore_totals()
        step = steps_taken(self.model)
        if (
            self._checkpoint_steps
            and step % self._checkpoint_steps == 0
            and not self._ends_round(step)
        ):
            self._write(step, metrics=replicas.running_totals(self.model))

    def on_test_begin(self, logs=None):
        # Evaluation has the same sums and counts, and begins by clearing them.
        if self.unevaluated is None:
            self.unevaluated = self._training_metrics()

    def on_epoch_end(self, epoch, logs=None):
        step = steps_taken(self.model)
        forward, backward = sparsity.achieved(topkast_tf.summary(self.model))
        row = {
            "step": step,
            "epoch": _shortest(step / self._epoch_steps),
            "objective": float(logs["loss"]),
            **{f.column: float(logs[f.log]) for f in self.metrics},
            "exploration_loss": sparsity.exploration_loss(self.model),
            "learning_rate": float(self.model.optimizer.learning_rate.numpy()),
            "forward_sparsity": forward,
            "backward_sparsity": backward,
            "seconds": round(self.seconds, 3),
        }
        self.rows.append(row)
        self.unevaluated = None
        headline = self.metrics[0]
        value = row[headline.column]
        if self._best is None or headline.is_better(value, self._best["value"]):
            self._best = {"step": step, "figure": headline.column, "value": value}
        self._write(step)

    def save(self) -> None:
        """Has a checkpoint of the last step on the disk before it returns.

        Within a round it holds the running means; between the last step of a round and
        its evaluation, and during that, the training figures.
        """
        step = steps_taken(self.model)
        if self._saved_step != step:
            if not self._ends_round(step):
                self._write(step, metrics=replicas.running_totals(self.model))
            else:
                metrics = self.unevaluated or self._training_metrics()
                self._write(step, unevaluated=metrics)
        self._writer.wait()

    def settle(self) -> None:
        """Waits until nothing is being written; a failure to write is not raised."""
        with contextlib.suppress(Exception):
            self._writer.wait()

    def write_metrics(self) -> None:
        """Writes metrics.csv as a whole: one row a round."""
        self._write_table(self.rows)

    def _write_table(self, rows: Sequence[dict[str, Any]]) -> None:
        if rows:
            files.write_text(self._folder / METRICS_FILE, files.csv_text(rows))

    def _restore_totals(self) -> None:
        if self._under_way is not None:
            replicas.add_totals(self.model, self._under_way)
            self._under_way = None

    def _ends_round(self, step: int) -> bool:
        return step % self._round_steps == 0 or step == self._total_steps

    def _training_metrics(self) -> dict[str, float]:
        return {
            name: float(value)
            for name, value in self.model.get_metrics_result().items()
        }

    def _write(self, step: int, **state: Any) -> None:
        rows = list(self.rows)
        state |= {"rows": rows, "best": self._best, "seconds": self.seconds}
        diagnosis.check_finite(self.model)
        # Before the memory of a second snapshot is taken.
        self._writer.wait()
        replicas.prepare_to_save(self.model)
        taken = snapshot(self.model)
        self._writer.start(lambda: self._write_files(taken, step, state))
        if not can_be_saved_apart():
            self._writer.wait()
        self._saved_step = step

    def _write_files(self, taken, step: int, state: dict[str, Any]) -> None:
        folder = self._folder / "checkpoints"
        try:
            checkpoints.write(folder, taken, step, state, self._kept)
            self._write_table(state["rows"])
        except OSError as error:
            raise UserError(
                f"the checkpoint of step {step} could not be written to {folder} "
                f"({error.strerror or error}): once that is mended, the same command "
                "goes on from the last checkpoint."
            ) from error


def _shortest(number: float) -> float:
    """A number with four decimals, or none where it is whole."""
    return int(number) if number.is_integer() else round(number, 4)
