"""SIGTERM and Ctrl-C: a run that is asked to end does so between two steps.

The handlers are there only within `handled`, which `train.py` enters. While a model
trains (`defer`) a signal is noted, for a callback to find after the step under way. At
any other time there is nothing to save and it raises at once.
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
      number: of the signal.
      step: the step that the last checkpoint is of, if training was under way.
    """

    def __init__(self, number: int, step: int | None = None):
        super().__init__(number)
        self.number = number
        self.step = step

    @property
    def exit_code(self) -> int:
        """What a shell calls it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number

    def __str__(self) -> str:
        if self.step is None:
            return "interrupted: the same command goes on from the last checkpoint."
        return f"interrupted at step {self.step}: the same command goes on from there."


class _State:
    number: int | None = None
    deferred = False


_state = _State()


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Within it SIGTERM and Ctrl-C end the run, and a second Ctrl-C the process.

    Elsewhere than in the main thread, which alone may handle signals, it does nothing.
    What was there before is put back.
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
    """Whether somebody looks at `requested` after each step."""
    _state.deferred = deferred


def requested() -> int | None:
    """The signal that has asked the run to end, or None."""
    return _state.number


def _note(number: int, frame: object) -> None:
    first, _state.number = _state.number is None, number
    # Python would handle a second one only after the step under way, which may be long.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if not _state.deferred:
        raise Interrupted(number)
    if first and sys.stderr.isatty():
        # Past Python's buffers, in the midst of whose use this may come.
        os.write(
            sys.stderr.fileno(),
            b"\ninterrupted: saving after this step; Ctrl-C again quits at once, with "
            b"the last checkpoint.\n",
        )
