"""The records of a run: a row of metrics and a checkpoint after each round."""

import contextlib
import pathlib
import time
from collections.abc import Callable, Sequence
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
_CLOCKS = {"seconds": time.monotonic, "processor_seconds": time.process_time}
"""Column -> its clock."""


class _Stopwatch:
    """Seconds of a clock since now, and those before."""

    def __init__(self, clock: Callable[[], float], before: float):
        self._clock = clock
        self._zero = clock() - before

    @property
    def seconds(self) -> float:
        return self._clock() - self._zero


class Recorder(keras.callbacks.Callback):
    """Writes a row of metrics and a checkpoint after each round.

    A round is the training between two evaluations: an epoch of the data, or the number
    of steps in the flags. Keras calls it an epoch.

    The checkpoint holds all rows so far, and metrics.csv is made from them, so that the
    two agree whenever the process dies.

    Both are written in a separate thread, from a snapshot of the model, while training
    continues. A checkpoint waits for the previous one to be written. A failure is raised
    in the next step. Training ends after everything is written.

    The losses in a row exclude label smoothing and penalties, so that they can be
    compared; `objective` is the minimised loss, including penalties. Training metrics and
    `objective` are means over the round while the weights change. `exploration_loss` is
    Top-KAST's penalty at the end of the round, which Keras includes in its `loss` and
    `val_loss`. `epoch` is the number of passes over the data. `seconds` is wall time,
    including evaluation, and `processor_seconds` that of this process on all of its
    threads, which other load on the machine changes less. `step_ms` is the mean time of
    the round's training steps, with their batches, in milliseconds by the clock. The
    first step after a start, which is compiled, counts only if the round has no other.

    Args:
      folder: folder of this method, for metrics.csv and checkpoints/.
      state: the state in a checkpoint; empty for a new run. `rows`: the recorded rows.
        `metrics`: the running means of an incomplete round. `unevaluated`: the training
        metrics of a round that has not been evaluated. `best`: step and headline metric
        of the best evaluation. `seconds`: wall time so far, and
        `processor_seconds` that of the processors. `timed`: steps of the
        current round that count in `step_ms`, and their seconds.
      metrics: the metrics of the task, the headline first.
      epoch_steps: steps of one pass over the data.
      round_steps: steps in a full round.
      total_steps: steps of the whole run, which may cut the last round short.
      checkpoint_steps: also checkpoint after every N steps; 0: never.
      keep_checkpoints: number of the newest to keep, in addition to the best.

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
        self._clocks = {
            name: _Stopwatch(clock, state.get(name, 0.0))
            for name, clock in _CLOCKS.items()
        }
        self._timed = tuple(state.get("timed", (0, 0.0)))
        self._step_began = 0.0
        self._first_step: float | None = None
        self._saved_step: int | None = None
        self._writer = BackgroundWriter()
        self.rows: list[dict[str, float]] = list(state.get("rows", ()))

    @property
    def seconds(self) -> dict[str, float]:
        """Times of this run by column, including those before it was resumed."""
        return {name: watch.seconds for name, watch in self._clocks.items()}

    def on_train_end(self, logs=None):
        self._writer.wait()

    def on_train_batch_begin(self, batch, logs=None):
        # Before the step, which may add to the sums more than once. Keras's own step adds
        # once, but creates the sums only then; restoring them later gives the same sum.
        under_way = self._under_way
        if under_way and len(self.model.metrics_variables) == len(under_way):
            self._restore_totals()
        self._step_began = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        self._time_step(time.monotonic() - self._step_began)
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
        # Evaluation uses the same sums and counts, and begins by clearing them.
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
            "step_ms": round(self._step_ms(), 3),
            **{name: round(value, 3) for name, value in self.seconds.items()},
        }
        self.rows.append(row)
        self._timed = (0, 0.0)
        self.unevaluated = None
        headline = self.metrics[0]
        value = row[headline.column]
        if self._best is None or headline.is_better(value, self._best["value"]):
            self._best = {"step": step, "figure": headline.column, "value": value}
        self._write(step)

    def save(self) -> None:
        """Writes a checkpoint of the last step and waits for it.

        Within a round it holds the running means. From the last step of a round to the
        end of its evaluation it holds the training metrics.
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
        """Waits for all writing to end; does not raise a failure to write."""
        with contextlib.suppress(Exception):
            self._writer.wait()

    def write_metrics(self) -> None:
        """Writes or replaces metrics.csv, with one row per round."""
        self._write_table(self.rows)

    def _write_table(self, rows: Sequence[dict[str, Any]]) -> None:
        if rows:
            files.write_text(self._folder / METRICS_FILE, files.csv_text(rows))

    def _time_step(self, seconds: float) -> None:
        if self._first_step is None:
            self._first_step = seconds
            return
        steps, total = self._timed
        self._timed = (steps + 1, total + seconds)

    def _step_ms(self) -> float:
        steps, total = self._timed
        return 1e3 * (total / steps if steps else self._first_step or 0.0)

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
        state |= {"rows": rows, "best": self._best, "timed": self._timed}
        state |= self.seconds
        diagnosis.check_finite(self.model)
        # Before a second snapshot takes memory.
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
                f"({error.strerror or error}): fix that, and the same command resumes "
                "from the last checkpoint."
            ) from error


def _shortest(number: float) -> float:
    """A number with four decimals, or an integer if it is whole."""
    return int(number) if number.is_integer() else round(number, 4)
