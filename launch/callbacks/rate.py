"""The learning rate of each step."""

import keras

from launch.callbacks.steps import steps_taken
from launch.run.schedules import Schedule


class LearningRate(keras.callbacks.Callback):
    """Sets the learning rate of each step from a schedule.

    The optimizer holds a plain number, so that checkpoints load without the launcher.

    Args:
      schedule: learning rate as a function of the step.
    """

    def __init__(self, schedule: Schedule):
        super().__init__()
        self._schedule = schedule

    def on_train_batch_begin(self, batch, logs=None):
        rate = self._schedule(steps_taken(self.model))
        self.model.optimizer.learning_rate.assign(rate)
