"""The end of a run whose loss or gradient is no longer finite."""

import math

import keras

from launch.callbacks.steps import steps_taken
from launch.run import gradient_guard


class NotFinite(FloatingPointError):
    """A step has met what is not finite.

    Attributes:
      step: which one, counted from 1 over the whole run.
    """

    def __init__(self, what: str, step: int):
        super().__init__(what)
        self.step = step


class StopOnNaN(keras.callbacks.Callback):
    """Ends a run at the very step whose loss or gradient is not finite.

    Keras reads the losses of a step whenever a callback listens to steps; one scalar is
    read beside. The gradient is kept away from the weights (see `gradient_guard`), so
    that they are still those with which it happened. It comes before the callback that
    writes checkpoints: none is written after such a step.

    Attributes:
      step: the step under way, counted from 1 over the whole run.

    Raises:
      NotFinite: after such a step.
    """

    def __init__(self):
        super().__init__()
        self.step = 0

    def on_train_begin(self, logs=None):
        # `fit` compiles the step later, when it takes the first one.
        self._unusable = gradient_guard.guard(self.model)
        self._counted = int(self._unusable.numpy())
        self.step = steps_taken(self.model)

    def on_train_batch_begin(self, batch, logs=None):
        self.step += 1

    def on_train_batch_end(self, batch, logs=None):
        # Read first: with several workers that is an operation that all take part in.
        unusable = int(self._unusable.numpy()) != self._counted
        # The mean over the round so far: not finite from the bad step on.
        if not math.isfinite(logs["loss"]):
            raise NotFinite(f"the loss is {logs['loss']}", self.step)
        if unusable:
            raise NotFinite("the gradient is not finite", self.step)

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise NotFinite(f"the loss is {logs['loss']}", self.step)
