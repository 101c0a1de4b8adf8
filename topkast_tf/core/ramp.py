"""A number of kept entries that falls along a cubic. Pure functions of the step."""

import dataclasses
from typing import Any

import tensorflow as tf

from topkast_tf.core.schedules import UpdateSchedule


@dataclasses.dataclass(frozen=True)
class CubicRamp:
    """The number of kept entries, from ``initial`` to ``final``, by updates.

    With F the first update, L the last one and u the latest update at or before step t::

        share(t) = 1                              before F
                   (1 - (u - F) / (L - F))^3      from F to L
                   0                              from L on
        kept(t)  = final + floor((initial - final) * share(t))

    Attributes:
      schedule: the updates; it must end.

    Raises:
      ValueError: for a schedule with fewer than two updates.

    >>> ramp = CubicRamp(UpdateSchedule(every=10, first=10, last=35))
    >>> [ramp.kept(100, 20, step) for step in (0, 10, 19, 20, 29, 30, 99)]
    [100, 100, 100, 30, 30, 20, 20]

    Source: Zhu & Gupta, To prune or not to prune, 2017, equation 1, with the sparsity
    ``1 - kept / n``.
    """

    schedule: UpdateSchedule

    def __post_init__(self) -> None:
        if self.schedule.last is None or self._updates < 2:
            raise ValueError(
                "Expected at least two updates, at `update_from` and until "
                "`update_until`. Received: updates every "
                f"{self.schedule.every} steps from {self.schedule.first} to "
                f"{self.schedule.last}"
            )

    @property
    def _updates(self) -> int:
        return self.schedule.count_before((self.schedule.last or 0) + 1)

    @property
    def last(self) -> int:
        """L, the last step at which an update is due."""
        return self.schedule.first + (self._updates - 1) * self.schedule.every

    def share(self, step: Any) -> Any:
        """The share of the way that is left at a step: a float, or a float64 tensor."""
        every, first = self.schedule.every, self.schedule.first
        if not isinstance(step, tf.Tensor):
            done = min(max(int(step) - first, 0) // every, self._updates - 1)
            left = 1.0 - done / (self._updates - 1)
            return left * left * left
        done = tf.clip_by_value((step - first) // every, 0, self._updates - 1)
        left = 1.0 - tf.cast(done, tf.float64) / (self._updates - 1)
        return left * left * left

    def kept(self, initial: Any, final: Any, step: Any) -> Any:
        """The number of kept entries at a step, of the kind of the step.

        Args:
          initial: the number before the first update; it counts as `final` if it is less.
          final: the number from the last update on.
          step: an integer, or an integer scalar.
        """
        if not isinstance(step, tf.Tensor):
            return int(final) + int(max(initial - final, 0) * self.share(step))
        final = tf.cast(final, tf.int64)
        more = tf.maximum(tf.cast(initial, tf.int64) - final, 0)
        return final + tf.cast(tf.cast(more, tf.float64) * self.share(step), tf.int64)

    def mean_share(self, steps: int) -> float:
        """The mean of `share` over the steps 0, ..., steps - 1.

        >>> round(CubicRamp(UpdateSchedule(10, 10, 35)).mean_share(40), 5)
        0.53125
        """
        before = min(steps, self.schedule.first + self.schedule.every)
        total = float(before)
        for update in range(1, self._updates):
            begin = self.schedule.first + update * self.schedule.every
            length = max(0, min(steps, begin + self.schedule.every) - begin)
            total += length * self.share(begin)
        return total / steps
