"""When things happen, in optimizer steps. Pure functions of the step."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class RefreshSchedule:
    """Re-select at steps 0, N, 2N, ...; explore until a given step.

    ``due(t) = (t mod N == 0) or (t == stop)``, ``explores(t) = t < stop``. The step may
    be a Python integer or an integer tensor.

    Attributes:
      every: N, in steps, at least 1.
      stop_exploring_at: the first step without exploration, at least 0, or None.

    Raises:
      ValueError: for a period or a step out of range.

    >>> schedule = RefreshSchedule(every=100, stop_exploring_at=250)
    >>> [t for t in range(301) if schedule.due(t)]
    [0, 100, 200, 250, 300]
    >>> schedule.explores(249), schedule.explores(250)
    (True, False)
    """

    every: int = 1
    stop_exploring_at: int | None = None

    def __post_init__(self) -> None:
        if not _is_integer(self.every) or self.every < 1:
            raise ValueError(
                "`refresh_every` must be a number of steps, an integer of at least 1. "
                f"Received: refresh_every={self.every!r}"
            )
        stop = self.stop_exploring_at
        if stop is not None and (not _is_integer(stop) or stop < 0):
            raise ValueError(
                "`stop_exploring_at` must be None or a step, an integer of at least 0. "
                f"Received: stop_exploring_at={stop!r}"
            )

    def due(self, step: Any) -> Any:
        """Whether the sets are selected anew at this step."""
        # Orders and not equalities: in a TensorFlow 1 graph `==` compares objects.
        due = step % self.every < 1
        if self.stop_exploring_at is None:
            return due
        stop = self.stop_exploring_at
        return due | ((step >= stop) & (step <= stop))

    def explores(self, step: Any) -> Any:
        """Whether B is larger than A at this step."""
        return True if self.stop_exploring_at is None else step < self.stop_exploring_at


def _is_integer(value: object) -> bool:
    # Steps are counted in 64 bits.
    return isinstance(value, int) and not isinstance(value, bool) and value < 2**62
