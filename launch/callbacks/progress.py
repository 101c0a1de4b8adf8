"""What a person sees of a run under way."""

import time
from collections.abc import Sequence
from typing import Any, TextIO

import keras
from tqdm import tqdm

from launch import terminal
from launch.callbacks.recorder import Recorder
from launch.callbacks.steps import steps_taken
from launch.pace import Pace
from launch.tasks.figures import Figure, Items

DRAW_SECONDS = 0.25
_BAR = "{desc} {percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt}{postfix}"


class Progress(keras.callbacks.Callback):
    """A progress bar on a terminal, and one line a round there and elsewhere.

    The bar has the running means of the round, which Keras has read already, and is
    drawn at most four times a second. Where nothing can be written over (a pipe, a
    file, a dumb terminal) there are the lines alone.

    Args:
      name: what is being trained.
      total_steps: length of the run.
      recorder: whose last row is shown; must come before this in the callbacks.
      items: what a step trains on.
      out: where to write.
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
        self._bar: tqdm | None = None
        self._drawn = 0.0
        self._sparsity = ""

    def on_train_begin(self, logs=None):
        if self._recorder.rows:
            self._sparsity = _sparsity(self._recorder.rows[-1])
        if self._bar is None and terminal.moves(self._out):
            self._bar = tqdm(
                total=self._total,
                initial=steps_taken(self.model),
                desc=self._name,
                file=self._out,
                bar_format=_BAR,
                dynamic_ncols=True,
                leave=False,
            )
            terminal.before_messages(self.close)

    def on_epoch_begin(self, epoch, logs=None):
        self._pace.round_begins(steps_taken(self.model))

    def on_train_batch_end(self, batch, logs=None):
        self._pace.step()
        if self._bar is not None and self._is_time():
            running = _running(logs, self._recorder.figures)
            self._draw([*running, *self._rates(), self._sparsity])

    def on_test_begin(self, logs=None):
        self._tested = 0

    def on_test_batch_end(self, batch, logs=None):
        self._tested += 1
        if self._bar is not None and self._is_time():
            self._draw([f"evaluating, batch {self._tested}"])

    def on_epoch_end(self, epoch, logs=None):
        row = self._recorder.rows[-1]
        self._sparsity = _sparsity(row)
        line = self._line(row)
        if self._bar is not None:
            self._bar.clear()
        print(line, file=self._out, flush=True)
        if self._bar is not None:
            self._draw([*self._rates(), self._sparsity])

    def on_train_end(self, logs=None):
        if self._pace.done >= self._total:
            self.close()

    def close(self) -> None:
        """Takes the bar away, whatever has ended the run; may be called again."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
            terminal.before_messages(None)

    def _line(self, row: dict[str, Any]) -> str:
        width = len(str(self._total))
        parts = [
            f"{self._name:8} step {row['step']:{width}}/{self._total}",
            f"epoch {row['epoch']:3g}",
            *_shown(row, self._recorder.figures),
            _sparsity(row),
            f"lr {row['learning_rate']:.4g}",
            *self._rates(),
            f"{terminal.duration(row['seconds'])} gone",
        ]
        return "  ".join(part for part in parts if part)

    def _rates(self) -> list[str]:
        rate, left = self._pace.steps_a_second, self._pace.seconds_left
        found = []
        if rate is not None:
            found.append(f"{_rounded(rate * self._items.a_step)} {self._items.name}/s")
        if left is not None:
            found.append(f"{terminal.duration(left)} left")
        return found

    def _is_time(self) -> bool:
        now = time.monotonic()
        if now - self._drawn < DRAW_SECONDS:
            return False
        self._drawn = now
        return True

    def _draw(self, parts: list[str]) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str("  ".join(p for p in parts if p), refresh=False)
            self._bar.n = self._pace.done
            self._bar.refresh()


def _running(logs: dict[str, float], figures: Sequence[Figure]) -> list[str]:
    """The loss on training data, and what the run is judged by on the same."""
    loss = next(figure for figure in figures if figure.column == "train_loss")
    return [
        f"{figure.column.partition('_')[2]} {figure.shown(value)}"
        for figure in (loss, figures[0])
        for value in [logs[figure.log.removeprefix("val_")]]
    ]


def _shown(row: dict[str, Any], figures: Sequence[Figure]) -> list[str]:
    """Each figure, that on training data in brackets behind its counterpart."""
    train = {f.column: f.shown(row[f.column]) for f in figures if "val_" not in f.log}
    parts = []
    for figure in figures:
        part, _, what = figure.column.partition("_")
        if part == "train":
            continue
        counterpart = train.get(f"train_{what}")
        parts.append(
            f"{part} {what} {figure.shown(row[figure.column])}"
            + (f" (train {counterpart})" if counterpart else "")
        )
    return parts


def _sparsity(row: dict[str, Any]) -> str:
    """Forward and backward sparsity; nothing for a dense model."""
    forward, backward = row["forward_sparsity"], row["backward_sparsity"]
    return f"sparsity {forward:.1%}/{backward:.1%}" if forward or backward else ""


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"
