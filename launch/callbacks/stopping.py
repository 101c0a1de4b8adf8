"""Ends a run early, when a signal asks for it."""

import contextlib
from collections.abc import Iterator

import keras

from launch.callbacks.recorder import Recorder
from launch.callbacks.steps import steps_taken
from launch.distribute import replicas
from launch.support import interrupts


class StopWhenAsked(keras.callbacks.Callback):
    """On a signal, ends the run after the current step and writes a checkpoint.

    During an evaluation it ends after the current batch; a resumed run repeats the
    evaluation.

    Several workers all end after the same step, although they receive their signals at
    different times.

    Args:
      recorder: writes the checkpoint; must precede this callback.

    Raises:
      Interrupted: when `launch.support.interrupts` has noted a signal.
    """

    def __init__(self, recorder: Recorder):
        super().__init__()
        self._recorder = recorder

    def on_train_begin(self, logs=None):
        interrupts.defer(True)

    def on_train_batch_end(self, batch, logs=None):
        self._stop_if_asked()

    def on_test_batch_end(self, batch, logs=None):
        self._stop_if_asked()

    def on_epoch_end(self, epoch, logs=None):
        self._stop_if_asked()

    def on_train_end(self, logs=None):
        interrupts.defer(False)
        # Training may have failed; everything that can be saved was saved before.
        number = interrupts.requested()
        if number is not None:
            raise interrupts.Interrupted(number, steps_taken(self.model))

    def _stop_if_asked(self) -> None:
        number = replicas.agreed(self.model, interrupts.requested())
        if number is not None:
            self._recorder.save()
            raise interrupts.Interrupted(number, steps_taken(self.model))


@contextlib.contextmanager
def ended() -> Iterator[list[keras.callbacks.Callback]]:
    """Calls `on_train_end` of callbacks if an exception ends training.

    Keras calls it only after normal training. But a bar must be closed before an error is
    shown, and files must be complete.

    Yields:
      An empty list, to be filled with the callbacks.
    """
    called_back: list[keras.callbacks.Callback] = []
    try:
        yield called_back
    except BaseException:
        for each in called_back:
            # Only the exception that ended training is reported.
            with contextlib.suppress(Exception, KeyboardInterrupt):
                each.on_train_end()
        raise
