"""DSR: one adaptive threshold for all weights, and growth where most survives."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import tensorflow as tf

from topkast_tf.core import selection
from topkast_tf.core.keys import magnitude_keys
from topkast_tf.methods.base import Selection
from topkast_tf.methods.drop_grow import ranked
from topkast_tf.methods.reallocating import (
    Moves,
    Reallocating,
    counts_of,
    sizes_of,
    whole_numbers,
)
from topkast_tf.methods.registry import register

_TOLERANCE = 0.1


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class DSR(Reallocating):
    """Dynamic sparse reparameterization (Mostafa & Wang 2019).

    At an update, with a threshold H of all weights, and K of the k active entries dropped::

        dropped = the active entries with |theta| < H; each weight keeps its largest
        grown   = r_l K entries of weight l, at random; r_l is its share of what is left
        next H  = 2 H if K < 0.9 f k;  H / 2 if K > 1.1 f k;  else H

    What has no room in a weight goes to the others.

    State: H, next to the sets. New entries: theta and slots zero.

    Attributes:
      threshold: the first H, above 0.
      drop_fraction: f, what the threshold is to drop of the active entries, in (0, 1).

    Others as in `DropGrow`.

    >>> import keras
    >>> from topkast_tf import sparse_scope
    >>> with sparse_scope("dsr", sparsity=0.9, total_steps=10_000):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])

    Source: `main.py` and the configurations of the authors' code: ResNet-50 moves 400,000
    of 2.6 million weights at 90 %, and stops at 95 of 100 epochs. (An index that is used
    twice there is not taken over.) H = 0.001 is the paper's.
    """

    name: ClassVar[str] = "dsr"

    threshold: float = 1e-3
    drop_fraction: float = 0.15
    update_until: int | float | None = 0.95
    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for argument, most in (("threshold", 1e6), ("drop_fraction", 1)):
            value = getattr(self, argument)
            if not isinstance(value, float | int) or not 0 < value < most:
                raise ValueError(
                    f"`{argument}` must be a number in (0, {most:g}). "
                    f"Received: {argument}={value!r}"
                )

    def _current(self, weight: Selection) -> tf.Tensor:
        """H: float32, of which the counters hold the bits."""
        if weight.threshold is None:
            return tf.constant(self.threshold, tf.float32)
        bits = tf.cast(weight.threshold, tf.int32)
        held = tf.bitcast(bits, tf.float32)
        return tf.where(bits > 0, held, tf.constant(self.threshold, tf.float32))

    def moves(
        self, weights: Sequence[Selection], active: Sequence[tf.Tensor], step: tf.Tensor
    ) -> Moves:
        threshold = self._current(weights[0])
        left = []
        for weight, mask in zip(weights, active, strict=True):
            scores = self.drop_scores(weight, mask, step)
            [largest] = selection.largest([ranked(mask, magnitude_keys(scores))], 1)
            left.append((mask & (scores >= threshold)) | largest)
        before, after = tf.reduce_sum(counts_of(active)), counts_of(left)
        dropped = before - tf.reduce_sum(after)
        share = tf.cast(after, tf.float64) / tf.cast(tf.reduce_sum(after), tf.float64)
        amounts = share * tf.cast(dropped, tf.float64)
        grown = whole_numbers(amounts, sizes_of(weights) - after, dropped)
        adapted = self._adapted(threshold, dropped, before)
        bits = tf.cast(tf.bitcast(adapted, tf.int32), tf.int64)
        return Moves(left, grown, [bits] * len(weights))

    def _adapted(
        self, threshold: tf.Tensor, dropped: tf.Tensor, active: tf.Tensor
    ) -> tf.Tensor:
        """H for the next update."""
        fell = tf.cast(dropped, tf.float32)
        wanted = self.drop_fraction * tf.cast(active, tf.float32)
        after = tf.where(fell < (1 - _TOLERANCE) * wanted, 2 * threshold, threshold)
        return tf.where(fell > (1 + _TOLERANCE) * wanted, threshold / 2, after)
