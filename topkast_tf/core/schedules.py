"""Schedules in optimizer steps. Pure functions of the step."""

import dataclasses
import functools
import math
import re
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

_LATE = 2**62
"""A step that no training reaches."""


@dataclasses.dataclass(frozen=True)
class RefreshSchedule:
    """Re-select at steps 0, N, 2N, ...; explore until a given step.

    ``due(t) = (t mod N == 0 or t == stop) and not (t == T and N > 1)``, ``explores(t) =
    t < stop``. The step may be a Python integer or an integer tensor.

    Sets of step t are selected at the end of step t - 1. Those of step T would be
    evaluated and never trained; with N = 1 they differ little from those before.

    Attributes:
      every: N, in steps, at least 1.
      stop_exploring_at: the first step without exploration, at least 0, or None.
      total_steps: T, the length of training, at least 1, or None if it is not known.

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
    total_steps: int | None = None

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
        check_total_steps(self.total_steps)

    @property
    def skipped(self) -> int | None:
        """The step at which no sets are selected, though N divides it; None without one."""
        return self.total_steps if self.every > 1 else None

    def due(self, step: Any) -> Any:
        """Whether the sets are reselected at this step."""
        # Inequalities only: in a TensorFlow 1 graph `==` compares objects.
        due = step % self.every < 1
        stop = self.stop_exploring_at
        if stop is not None:
            due |= (step >= stop) & (step <= stop)
        skipped = self.skipped
        return due if skipped is None else due & ((step < skipped) | (step > skipped))

    def count_before(self, step: int) -> int:
        """The number of due steps before this one.

        >>> RefreshSchedule(every=100, stop_exploring_at=250).count_before(300)
        4
        """
        count = -(-step // self.every)
        stop, skipped = self.stop_exploring_at, self.skipped
        if stop is not None and stop < step:
            count += stop % self.every > 0
        if skipped is not None and skipped < step:
            count -= skipped % self.every < 1 or skipped == stop
        return count

    def explores(self, step: Any) -> Any:
        """Whether B is larger than A at this step."""
        return True if self.stop_exploring_at is None else step < self.stop_exploring_at


@dataclasses.dataclass(frozen=True)
class UpdateSchedule:
    """Update at steps F, F + N, F + 2N, ... up to and including L.

    ``due(t) = F <= t <= L and (t - F) mod N == 0``.

    Attributes:
      every: N, in steps, at least 1.
      first: F, a step of at least 0.
      last: L, a step, or None for no end.

    Raises:
      ValueError: for a period or a step out of range.

    >>> [t for t in range(99) if UpdateSchedule(every=10, first=5, last=30).due(t)]
    [5, 15, 25]
    """

    every: int
    first: int = 0
    last: int | None = None

    def __post_init__(self) -> None:
        if not _is_integer(self.every) or self.every < 1:
            raise ValueError(
                "`update_every` must be a number of steps, an integer of at least 1. "
                f"Received: update_every={self.every!r}"
            )
        if not _is_integer(self.first) or self.first < 0:
            raise ValueError(
                "`update_from` must be a step, an integer of at least 0. "
                f"Received: update_from={self.first!r}"
            )

    def due(self, step: Any) -> Any:
        """Whether the sets are updated at this step."""
        within = step >= self.first
        if self.last is not None:
            within &= step <= self.last
        return within & ((step - self.first) % self.every < 1)

    def count_before(self, step: int) -> int:
        """The number of due steps before this one.

        >>> UpdateSchedule(every=10, first=5, last=30).count_before(16)
        2
        """
        end = step if self.last is None else min(step, self.last + 1)
        return max(0, -(-(end - self.first) // self.every))

    def latest(self, step: int) -> int | None:
        """The latest due step that is not after this one; None before the first.

        >>> UpdateSchedule(every=10, first=5, last=30).latest(16)
        15
        """
        count = self.count_before(step + 1)
        return self.first + (count - 1) * self.every if count else None


@dataclasses.dataclass(frozen=True)
class Never:
    """No step is due: the sets keep their initial value.

    >>> bool(Never().due(7))
    False
    """

    every: ClassVar[int] = 1

    def due(self, step: Any) -> Any:
        """False, in the step's shape."""
        return step < 0


@functools.lru_cache
def updates_a_step(schedule: Any, total_steps: int | None = None) -> float:
    """How many updates a schedule has a step, averaged over training.

    Args:
      schedule: one of this module, or one with `due` and a period `every`.
      total_steps: the length of training; None for one without an end, in which updates
        that end at some step have no part.

    >>> updates_a_step(RefreshSchedule(every=100)), updates_a_step(Never())
    (0.01, 0.0)
    >>> updates_a_step(UpdateSchedule(every=10, first=10, last=30), total_steps=60)
    0.05
    """
    if total_steps is None:
        # Of a training without an end: of one period, long after the last update.
        return float(np.mean(schedule.due(_LATE + np.arange(schedule.every))))
    if hasattr(schedule, "count_before"):
        return float(schedule.count_before(total_steps) / total_steps)
    return float(np.mean(schedule.due(np.arange(total_steps))))


def resolved_end(
    until: int | float | None, total_steps: int | None, argument: str = "update_until"
) -> int | None:
    """The last step of a schedule, given as a step or as a fraction of training.

    Args:
      until: a step; a fraction in (0, 1] of `total_steps`; or None for no end.
      total_steps: the length of training, in steps, or None if it is unknown.
      argument: the name of `until` in error messages.

    Raises:
      ValueError: for a fraction of an unknown length, or a value out of range.

    >>> resolved_end(0.75, 1000), resolved_end(500, None), resolved_end(None, None)
    (750, 500, None)
    """
    if until is None:
        return None
    if _is_integer(until) and until >= 0:
        return int(until)
    if not isinstance(until, float) or not 0 < until <= 1:
        raise ValueError(
            f"`{argument}` must be a step, an integer of at least 0; a fraction of "
            f"`total_steps`, in (0, 1]; or None. Received: {argument}={until!r}"
        )
    if total_steps is None:
        raise ValueError(
            f"Expected `total_steps`, the number of optimizer steps of the training, as "
            f"{argument}={until!r} is a fraction of it (or give {argument} as a step). "
            "Received: total_steps=None"
        )
    if not _is_integer(total_steps) or total_steps < 1:
        raise ValueError(
            "`total_steps` must be an integer of at least 1. "
            f"Received: total_steps={total_steps!r}"
        )
    return int(until * total_steps)


@dataclasses.dataclass(frozen=True)
class DropFraction:
    """The fraction of active entries that an update replaces, as a function of the step.

    With u = min(t, E - F) / (E - F) for F the first step and E the last one::

        "constant":       f
        "cosine":         g + (f - g)/2 (1 + cos(pi u))
        "exponential_k":  f (1 - (t - F) / (E - F))^k,  k = 1 by default

    Attributes:
      initial: f, in (0, 1).
      anneal: as above.
      first: F, in steps.
      last: E, in steps; None only for ``"constant"``.
      final: g, in [0, f]; above 0 only for ``"cosine"``.

    Raises:
      ValueError: for a fraction out of range, an unknown kind, or a kind without an end.

    >>> fraction = DropFraction(0.5, "cosine", first=0, last=100)
    >>> [round(float(fraction.at(step)), 6) for step in (0, 50, 100)]
    [0.5, 0.25, 0.0]

    Source: google-research/rigl, `sparse_optimizers_base.py`. As there, u
    counts from step 0, not from F; the exponential counts from F. g is of the cosine of
    SNFS and of GraNet's code.
    """

    initial: float
    anneal: str
    first: int = 0
    last: int | None = None
    final: float = 0.0

    def __post_init__(self) -> None:
        is_number = isinstance(self.initial, float) and 0 < self.initial < 1
        if not is_number:
            raise ValueError(
                "`drop_fraction` must be in (0, 1). "
                f"Received: drop_fraction={self.initial!r}"
            )
        is_text = isinstance(self.anneal, str)
        if not is_text or (
            self.anneal not in ("constant", "cosine") and self._power is None
        ):
            raise ValueError(
                "`anneal` must be 'constant', 'cosine', or 'exponential_k' with a number "
                f"k. Received: anneal={self.anneal!r}"
            )
        if self.anneal != "constant" and self.last is None:
            raise ValueError(
                f"Expected an end of the updates (`update_until`) with anneal="
                f"{self.anneal!r}, which reaches 0 there. Received: update_until=None"
            )
        is_share = isinstance(self.final, float | int) and 0 <= self.final
        if not is_share or self.final > self.initial:
            raise ValueError(
                "`final_drop_fraction` must be in [0, drop_fraction]. Received: "
                f"final_drop_fraction={self.final!r}, drop_fraction={self.initial!r}"
            )
        if self.final and self.anneal != "cosine":
            raise ValueError(
                "Expected anneal='cosine' with a final_drop_fraction above 0. "
                f"Received: anneal={self.anneal!r}"
            )
        if self.last is not None and self.last <= self.first:
            raise ValueError(
                "Expected updates to end after they begin. Received: "
                f"update_from={self.first}, and update_until at step {self.last}"
            )

    @property
    def _power(self) -> float | None:
        found = re.fullmatch(r"exponential(?:_(\d+(?:\.\d+)?))?", self.anneal)
        return float(found[1] or 1) if found else None

    def at(self, step: tf.Tensor) -> tf.Tensor:
        """The fraction at a step, a float32 scalar."""
        initial = tf.constant(self.initial, tf.float32)
        if self.anneal == "constant" or self.last is None:
            return initial
        length = tf.constant(self.last - self.first, tf.float32)
        now = tf.cast(step, tf.float32)
        if self.anneal == "cosine":
            done = tf.minimum(now, length) / length
            wave = 1.0 + tf.cos(math.pi * done)
            if not self.final:
                return initial * 0.5 * wave
            return self.final + (initial - self.final) * 0.5 * wave
        done = (now - self.first) / length
        return initial * tf.pow(1.0 - done, tf.constant(self._power, tf.float32))


def within_training(last: int | None, total_steps: int | None) -> int | None:
    """The last step of a schedule that a step of training follows.

    What is selected for step T, after the last of T steps, would never be trained.

    >>> within_training(1000, 1000), within_training(750, 1000), within_training(None, None)
    (999, 750, None)
    """
    if total_steps is None:
        return last
    return total_steps - 1 if last is None else min(last, total_steps - 1)


def check_total_steps(total_steps: Any) -> None:
    """Raises `ValueError` unless it is a length of training: steps, or None."""
    if total_steps is None or (_is_integer(total_steps) and total_steps > 0):
        return
    raise ValueError(
        "`total_steps` must be None or a number of steps, an integer of at least 1. "
        f"Received: total_steps={total_steps!r}"
    )


def _is_integer(value: Any) -> bool:
    # Steps are counted in 64 bits.
    return isinstance(value, int) and not isinstance(value, bool) and value < 2**62
