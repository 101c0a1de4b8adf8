"""The end of a run whose loss is no longer a number."""

import math

import keras


class StopOnNaN(keras.callbacks.Callback):
    """Ends a run whose loss is no longer a number, before it is recorded as progress.

    Raises:
      FloatingPointError: at the end of such an epoch; no checkpoint is written for it.
    """

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError(f"the loss is {logs['loss']}")
