"""Ends a run whose loss or gradient is no longer finite."""

import math

import keras

from launch.callbacks.steps import steps_taken
from launch.run import gradient_guard


class NotFinite(FloatingPointError):
    """A step has produced a non-finite value.

    Attributes:
      step: the step, counted from 1 over the whole run.
    """

    def __init__(self, what: str, step: int):
        super().__init__(what)
        self.step = step


class StopOnNaN(keras.callbacks.Callback):
    """Ends a run at the first step whose loss or gradient is not finite.

    Keras reads the losses of each step if a callback listens to steps; one more scalar is
    read here. The weights do not get such a gradient (see `gradient_guard`), so that they
    remain those that produced it. This callback must precede the one that writes
    checkpoints, so that none is written after such a step.

    Attributes:
      step: the current step, counted from 1 over the whole run.

    Raises:
      NotFinite: after such a step.
    """

    def __init__(self):
        super().__init__()
        self.step = 0

    def on_train_begin(self, logs=None):
        # `fit` compiles the training function later, in the first step.
        self._unusable = gradient_guard.guard(self.model)
        self._counted = int(self._unusable.numpy())
        self.step = steps_taken(self.model)

    def on_train_batch_begin(self, batch, logs=None):
        self.step += 1

    def on_train_batch_end(self, batch, logs=None):
        # Read first, because with several workers this is a collective operation.
        unusable = int(self._unusable.numpy()) != self._counted
        # The mean over the round so far, which is not finite from the bad step on.
        if not math.isfinite(logs["loss"]):
            raise NotFinite(f"the loss is {logs['loss']}", self.step)
        if unusable:
            raise NotFinite("the gradient is not finite", self.step)

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise NotFinite(f"the loss is {logs['loss']}", self.step)
