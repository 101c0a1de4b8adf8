"""The base of methods that move entries from weight to weight, under one budget."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import tensorflow as tf

from topkast_tf.core import selection
from topkast_tf.methods.base import Selection, Sets
from topkast_tf.methods.drop_grow import DropGrow, active_of


class Moves(NamedTuple):
    """What an update drops and grows.

    Attributes:
      left: the flat mask of each weight's entries that are not dropped.
      grown: int64 ``[weights]``, how many entries each weight grows.
      thresholds: as of `Sets`.
    """

    left: Sequence[tf.Tensor]
    grown: tf.Tensor
    thresholds: Sequence[tf.Tensor] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reallocating(DropGrow):
    """Drops entries of all weights, and deals as many among them again.

    The number of entries of all weights together is kept exactly; each weight keeps at
    least one. The first sets follow the distribution.
    """

    budget: ClassVar[str] = "global"  # type: ignore[misc]
    varying_counts: ClassVar[bool] = True  # type: ignore[misc]

    def counts(
        self, units: int, kept_forward: int, kept_backward: int, step: int
    ) -> tuple[int, int] | None:
        return kept_forward, kept_forward

    def update(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        active = [active_of(weight) for weight in weights]
        kept, grown, thresholds = self.moves(weights, active, step)
        codes, finite, resets = [], [], []
        for i, weight in enumerate(weights):
            code, is_finite, reset = self.regrown(
                weight, active[i], kept[i], tf.cast(grown[i], tf.int32), step
            )
            codes.append(code)
            finite.append(is_finite)
            resets.append(reset)
        return Sets(
            codes,
            tf.reduce_all(tf.stack(finite)),
            thresholds,
            kept_forward=tf.unstack(counts_of(kept) + grown),
            resets=resets,
        )

    def moves(
        self, weights: Sequence[Selection], active: Sequence[tf.Tensor], step: tf.Tensor
    ) -> Moves:
        """What is not dropped, and how much grows.

        Args:
          weights: the weights.
          active: boolean, flat: A of each.
          step: integer scalar.
        """
        raise NotImplementedError


def counts_of(masks: Sequence[tf.Tensor]) -> tf.Tensor:
    """The number of entries in each mask: int64 ``[weights]``."""
    return tf.stack([tf.reduce_sum(tf.cast(mask, tf.int64)) for mask in masks])


def sizes_of(weights: Sequence[Selection]) -> tf.Tensor:
    """The number of entries of each weight: int64 ``[weights]``."""
    return tf.constant([w.theta.shape.num_elements() for w in weights], tf.int64)


def whole_numbers(amounts: tf.Tensor, rooms: tf.Tensor, total: tf.Tensor) -> tf.Tensor:
    """Amounts rounded down, and what is missing given to the first that have room.

    ``floor(min(amount_l, room_l))``, then up to room_l of the rest, in order.

    Args:
      amounts: float64 ``[weights]``, at least 0, with a sum of about `total`.
      rooms: int64 ``[weights]``, the most that each can take.
      total: int64 scalar, at most the sum of `rooms`.

    Returns:
      int64 ``[weights]`` with this sum.

    >>> amounts = tf.constant([1.5, 0.5, 9.0], tf.float64)
    >>> whole_numbers(amounts, tf.constant([9, 9, 4], tf.int64), 11).numpy()
    array([7, 0, 4])
    """
    total = tf.cast(total, tf.int64)
    whole = tf.minimum(tf.cast(tf.floor(amounts), tf.int64), rooms)
    # Rounding can have made the sum of the amounts a little more than the total.
    before = tf.cumsum(whole, exclusive=True)
    whole = tf.clip_by_value(total - before, 0, whole)
    rest = total - tf.reduce_sum(whole)
    rooms = rooms - whole
    return whole + tf.clip_by_value(rest - tf.cumsum(rooms, exclusive=True), 0, rooms)


def smallest_dropped(
    keys: tf.Tensor, active: tf.Tensor, dropped: tf.Tensor
) -> tf.Tensor:
    """The mask of active entries without so many with the smallest keys.

    Args:
      keys: int32, flat, larger for active entries than for the others.
      active: boolean, flat.
      dropped: integer scalar.
    """
    count = tf.reduce_sum(tf.cast(active, tf.int32))
    return selection.largest([keys], count - tf.cast(dropped, tf.int32))[0]
