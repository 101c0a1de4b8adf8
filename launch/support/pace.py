"""The speed of a run, and the time that remains."""

import time


class Pace:
    """Steps and time of a run, without the first step, which TensorFlow compiles.

    Args:
      total: steps of the whole run.
      clock: a function that returns seconds.
    """

    def __init__(self, total: int, clock=time.monotonic):
        self._total = total
        self._clock = clock
        self._done = 0
        self._first: tuple[int, float] | None = None
        self._round: tuple[int, float] | None = None
        self._latest = 0.0

    def round_begins(self, done: int) -> None:
        """A round of training begins, after an evaluation or at the start."""
        self._done = done
        # The first round is timed from the end of its first step.
        self._round = None if self._first is None else (done, self._clock())

    def step(self) -> None:
        """A step has been taken."""
        self._done += 1
        self._latest = self._clock()
        here = (self._done, self._latest)
        self._first = self._first or here
        self._round = self._round or here

    @property
    def done(self) -> int:
        """Steps taken since the beginning of the run."""
        return self._done

    @property
    def steps_a_second(self) -> float | None:
        """Training speed in this round, without evaluation; None if not yet known."""
        if self._round is None or self._done == self._round[0]:
            return None
        elapsed = self._latest - self._round[1]
        return (self._done - self._round[0]) / elapsed if elapsed else None

    @property
    def seconds_left(self) -> float | None:
        """The time that remains, from the mean time per step since the first step.

        Evaluations and checkpoints are included. None if not yet known.
        """
        if self._first is None or self._done == self._first[0]:
            return None
        each = (self._clock() - self._first[1]) / (self._done - self._first[0])
        return each * (self._total - self._done)
