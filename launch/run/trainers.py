"""Trains a stretch of a run: with Keras's `fit` if it can, otherwise with a loop here."""

import abc
import functools
from collections.abc import Sequence

import keras

from launch.run.loop import Loop
from launch.run.stretches import Stretch
from launch.tasks.base import Task


class Trainer(abc.ABC):
    """Trains a model on a task, with the callback protocol of Keras's `fit`.

    Args:
      model: compiled, built under its strategy.
      task: with its data loaded.
      callbacks: Keras callbacks.

    Attributes:
      callback_list: the callbacks, for events outside of `fit`.
    """

    def __init__(
        self,
        model: keras.Model,
        task: Task,
        callbacks: Sequence[keras.callbacks.Callback],
    ):
        self._model = model
        self._task = task
        self._callbacks = list(callbacks)
        self.callback_list = keras.callbacks.CallbackList(self._callbacks, model=model)

    @abc.abstractmethod
    def fit(self, stretch: Stretch, first_round: int) -> dict[str, float]:
        """Trains a stretch, with an evaluation after each round.

        Args:
          stretch: the steps to take.
          first_round: number of its first round in the run.

        Returns:
          The logs of the last round; those of its evaluation begin with `val_`.
        """

    @abc.abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Evaluates without training, and returns the metrics."""


class KerasTrainer(Trainer):
    """Keras's own `fit`, for one device."""

    def __init__(self, *args):
        super().__init__(*args)
        self._test = self._task.evaluation_batches()

    def fit(self, stretch: Stretch, first_round: int) -> dict[str, float]:
        steps = stretch.round_steps * stretch.rounds
        history = self._model.fit(
            self._task.training_batches(stretch.first_step, steps),
            validation_data=self._test,
            initial_epoch=first_round,
            epochs=first_round + stretch.rounds,
            steps_per_epoch=stretch.round_steps,
            shuffle=False,
            callbacks=self._callbacks,
            verbose=0,
        )
        return {name: values[-1] for name, values in history.history.items()}

    def evaluate(self) -> dict[str, float]:
        return self._model.evaluate(
            self._test, verbose=0, return_dict=True, callbacks=self.callback_list
        )


class LoopTrainer(Trainer):
    """A loop around `strategy.run`, for several devices or a batch in parts."""

    def __init__(self, *args):
        super().__init__(*args)
        settings = self._task.settings
        self._loop = Loop(self._model, settings.accumulate, settings.reduce == "packed")

    def fit(self, stretch: Stretch, first_round: int) -> dict[str, float]:
        steps = stretch.round_steps * stretch.rounds
        return self._loop.fit(
            functools.partial(self._task.training_batches, stretch.first_step, steps),
            self._task.evaluation_batches,
            first_round=first_round,
            rounds=stretch.rounds,
            round_steps=stretch.round_steps,
            callbacks=self._callbacks,
        )

    def evaluate(self) -> dict[str, float]:
        return self._loop.evaluate(self._task.evaluation_batches, self.callback_list)


def trainer_of(
    model: keras.Model, task: Task, callbacks: Sequence[keras.callbacks.Callback]
) -> Trainer:
    """The trainer for the devices of a task, as its flags describe them."""
    settings = task.settings
    is_single = "strategy" not in settings or (
        settings.strategy == "none" and settings.accumulate == 1
    )
    return (KerasTrainer if is_single else LoopTrainer)(model, task, callbacks)
