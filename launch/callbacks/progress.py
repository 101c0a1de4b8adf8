"""The progress of a run, on a terminal or in lines."""

from collections.abc import Sequence
from typing import Any, TextIO

import keras

from launch.callbacks.recorder import Recorder
from launch.callbacks.steps import steps_taken
from launch.support import terminal
from launch.support.pace import Pace
from launch.tasks.metrics import Items, Metric


class Progress(keras.callbacks.Callback):
    """A progress bar on a terminal, and one line per round.

    The bar shows the running means of the round, which Keras has already read. It is
    drawn at most four times per second. If text cannot be overwritten (a pipe, a file, a
    dumb terminal), there are only the lines. Both are cut to the width of the terminal,
    elsewhere to 100 columns; metrics.csv has everything.

    Args:
      name: what is being trained.
      total_steps: length of the run.
      recorder: the source of the rows; must precede this callback.
      items: what a step trains on.
      out: the stream to write to.
    """

    def __init__(
        self,
        name: str,
        total_steps: int,
        recorder: Recorder,
        items: Items,
        out: TextIO,
    ):
        super().__init__()
        self._name = name
        self._total = total_steps
        self._recorder = recorder
        self._items = items
        self._out = out
        self._pace = Pace(total_steps)
        self._bar: terminal.Status | None = None
        self._sparsity = ""

    def on_train_begin(self, logs=None):
        if self._recorder.rows:
            self._sparsity = _sparsity(self._recorder.rows[-1])
        if self._bar is None and terminal.moves(self._out):
            self._bar = terminal.Status(self._out)
            terminal.before_messages(self.close)

    def on_epoch_begin(self, epoch, logs=None):
        self._pace.round_begins(steps_taken(self.model))

    def on_train_batch_end(self, batch, logs=None):
        self._pace.step()
        if self._bar is not None and self._bar.is_due:
            running = _running(logs, self._recorder.metrics)
            self._draw([*running, self._left(), self._rate(), self._sparsity])

    def on_test_begin(self, logs=None):
        self._tested = 0

    def on_test_batch_end(self, batch, logs=None):
        self._tested += 1
        if self._bar is not None and self._bar.is_due:
            self._draw([f"evaluating, batch {self._tested}"])

    def on_epoch_end(self, epoch, logs=None):
        row = self._recorder.rows[-1]
        self._sparsity = _sparsity(row)
        line = self._line(row)
        if self._bar is not None:
            self._bar.clear()
        print(line, file=self._out, flush=True)
        if self._bar is not None:
            self._draw([self._left(), self._rate(), self._sparsity])

    def on_train_end(self, logs=None):
        if self._pace.done >= self._total:
            self.close()

    def close(self) -> None:
        """Removes the bar, however the run has ended; may be called again."""
        if self._bar is not None:
            self._bar.clear()
            self._bar = None
            terminal.before_messages(None)

    def _line(self, row: dict[str, Any]) -> str:
        width = len(str(self._total))
        headline, loss, *others = _shown(row, self._recorder.metrics)
        # (rank, text), in the order in which they are printed.
        parts = [
            (0, f"{self._name:7}  step {row['step']:{width}}/{self._total}"),
            (6, f"epoch {row['epoch']:g}"),
            (1, headline),
            (3, loss),
            *((9, other) for other in others),
            (5, _sparsity(row)),
            (7, f"lr {row['learning_rate']:.4g}"),
            (4, self._rate()),
            (2, self._left()),
            (8, f"{terminal.duration(row['seconds'])} gone"),
        ]
        most = terminal.columns(self._out)
        return terminal.fitted([part for part in parts if part[1]], most)

    def _rate(self) -> str:
        rate = self._pace.steps_a_second
        if rate is None:
            return ""
        return f"{_rounded(rate * self._items.a_step)} {self._items.name}/s"

    def _left(self) -> str:
        left = self._pace.seconds_left
        return "" if left is None else f"{terminal.duration(left)} left"

    def _draw(self, parts: list[str]) -> None:
        if self._bar is not None:
            done = self._pace.done
            self._bar.draw(
                f"{self._name} {terminal.bar(done / self._total, self._out)} "
                f"{done}/{self._total}",
                *parts,
            )


def _running(logs: dict[str, float], metrics: Sequence[Metric]) -> list[str]:
    """The loss and the headline metric on training data."""
    loss = next(metric for metric in metrics if metric.column == "train_loss")
    return [
        f"{metric.column.partition('_')[2]} {metric.shown(value)}"
        for metric in (loss, metrics[0])
        for value in [logs[metric.log.removeprefix("val_")]]
    ]


def _shown(row: dict[str, Any], metrics: Sequence[Metric]) -> list[str]:
    """Each metric, headline and loss first, with that on training data in brackets.

    Only the first metric names its part, and only the first bracket says `train`.
    """
    train = {f.column: f.shown(row[f.column]) for f in metrics if "val_" not in f.log}
    tested = [metric for metric in metrics if metric.column not in train]
    tested.sort(key=lambda f: (f is not metrics[0], not f.column.endswith("_loss")))
    parts = []
    of_training = "train "
    for metric in tested:
        part, _, what = metric.column.partition("_")
        name = what if parts else f"{part} {what}"
        counterpart = train.get(f"train_{what}")
        parts.append(
            f"{name} {metric.shown(row[metric.column])}"
            + (f" ({of_training}{counterpart})" if counterpart else "")
        )
        of_training = "" if counterpart else of_training
    return parts


def _sparsity(row: dict[str, Any]) -> str:
    """Forward and backward sparsity; nothing for a dense model."""
    forward, backward = row["forward_sparsity"], row["backward_sparsity"]
    return f"sparsity {forward:.1%}/{backward:.1%}" if forward or backward else ""


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"
