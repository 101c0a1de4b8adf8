"""The end of a run before its time."""

import contextlib
from collections.abc import Iterator

import keras

from launch.callbacks.recorder import Recorder
from launch.callbacks.steps import steps_taken
from launch.distribute import replicas
from launch.support import interrupts


class StopWhenAsked(keras.callbacks.Callback):
    """Ends the run after the step under way, with a checkpoint of it, on a signal.

    During an evaluation it ends after the batch under way; the evaluation is made anew
    when the run goes on.

    Of several workers all end after the same step, though each gets its signal at a moment
    of its own.

    Args:
      recorder: what writes the checkpoint; must come before this in the callbacks.

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
        # Training may have failed: what there is to save has been saved before.
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
    """Tells callbacks that training is over where an exception ends it.

    Keras tells them only when it ends as planned; but a bar is to be closed before an
    error is shown, and files are to be whole.

    Yields:
      An empty list for the callbacks.
    """
    called_back: list[keras.callbacks.Callback] = []
    try:
        yield called_back
    except BaseException:
        for each in called_back:
            # What ended training is what is to be told.
            with contextlib.suppress(Exception, KeyboardInterrupt):
                each.on_train_end()
        raise
