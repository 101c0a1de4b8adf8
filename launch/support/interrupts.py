"""SIGTERM and Ctrl-C: a run ends between two steps.

The handlers are installed only within `handled`, which `train.py` enters. While a model
trains (`defer`), a signal is recorded, and a callback reads it after the current step. At
any other time there is nothing to save, and the signal raises at once.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(KeyboardInterrupt):
    """A signal has ended the run.

    Args:
      number: number of the signal.
      step: step of the last checkpoint, if the model was being trained.
    """

    def __init__(self, number: int, step: int | None = None):
        super().__init__(number)
        self.number = number
        self.step = step

    @property
    def exit_code(self) -> int:
        """The exit code as a shell reports it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number

    def __str__(self) -> str:
        if self.step is None:
            return "interrupted: the same command resumes from the last checkpoint."
        return f"interrupted at step {self.step}: the same command resumes from there."


class _State:
    number: int | None = None
    deferred = False


_state = _State()


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Within it, SIGTERM and Ctrl-C end the run, and a second Ctrl-C ends the process.

    It does nothing outside the main thread, which alone may handle signals. The previous
    handlers are restored at the end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    _state.number, _state.deferred = None, False
    try:
        for number in _SIGNALS:
            signal.signal(number, _note)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def defer(deferred: bool) -> None:
    """Sets whether `requested` is checked after each step."""
    _state.deferred = deferred


def requested() -> int | None:
    """The signal that the run has received, or None."""
    return _state.number


def _note(number: int, frame: object) -> None:
    first, _state.number = _state.number is None, number
    # Python would handle a second one only after the current step, which may take long.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if not _state.deferred:
        raise Interrupted(number)
    if first and sys.stderr.isatty():
        # Not through Python's buffers, which may be in use when the signal arrives.
        os.write(
            sys.stderr.fileno(),
            b"\ninterrupted: saving after this step; Ctrl-C again quits at once, with "
            b"the last checkpoint.\n",
        )
