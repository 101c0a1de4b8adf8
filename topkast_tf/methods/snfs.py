"""SNFS: weights that see more momentum grow."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import tensorflow as tf

from topkast_tf.core.keys import magnitude_keys
from topkast_tf.core.schedules import DropFraction
from topkast_tf.methods.base import MOMENTUM, Products, Selection
from topkast_tf.methods.drop_grow import ranked
from topkast_tf.methods.reallocating import (
    Moves,
    Reallocating,
    counts_of,
    sizes_of,
    smallest_dropped,
    whole_numbers,
)
from topkast_tf.methods.registry import register

_NEARLY_DENSE = 0.2
_MOST_OF_ROOM = 0.99
_PASSES = 1000


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class SNFS(Reallocating):
    """Sparse networks from scratch, by sparse momentum (Dettmers & Zettlemoyer 2019).

    At an update, with A_l the k_l active entries of weight l and m the momentum::

        v_l     = mean over A_l of |m|, divided by the sum over all weights
        p_l     = p_t; at most the sparsity s_l, where s_l < 0.2 and v_l > 1 / L
        dropped = the ceil(p_l k_l) smallest of |theta| on A_l
        grown   = v_l R of the R dropped ones of all weights, at most 0.99 of the room;
                  what is over is dealt equally; where |m| is largest

    The momentum is that of the dense gradient: an optimizer step computes the dense weight
    gradient (`dense_slots`), and only theta on A is updated. It is not reset, as it is what
    growth follows. Without momentum in the optimizer it is an average of gradients.

    State: the optimizer's momentum, dense. New entries: theta zero, slots as they are.

    Attributes:
      drop_fraction: p_0, in (0, 1).
      final_drop_fraction: where the cosine of p_t ends, at `update_until`.

    Others as in `DropGrow`.

    >>> import keras
    >>> from topkast_tf import sparse_scope
    >>> with sparse_scope("snfs", sparsity=0.9, total_steps=10_000):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])

    Source: `core.py` and `funcs.py` of the authors' sparse_learning: 0.5 and 0.005, an
    update after each epoch, SGD with Nesterov momentum. Departs from it in that the number
    of entries is kept exactly, where the code smooths what is missing over updates, and
    with Adam in the first moment, where the code divides it by the root of the second.
    """

    name: ClassVar[str] = "snfs"
    inputs: ClassVar[tuple[str, ...]] = (MOMENTUM,)  # type: ignore[misc]
    dense_slots: ClassVar[bool] = True  # type: ignore[misc]

    drop_fraction: float = 0.5
    final_drop_fraction: float = 0.005
    update_until: int | float | None = 1.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self._fraction

    @property
    def _fraction(self) -> DropFraction:
        return self.annealed(self.drop_fraction, final=self.final_drop_fraction)

    def mean_products(self, fwd: float, bwd: float) -> Products:
        return Products(fwd, fwd, 0.0)

    def moves(
        self, weights: Sequence[Selection], active: Sequence[tf.Tensor], step: tf.Tensor
    ) -> Moves:
        share = _shares(weights, active)
        sizes = tf.cast(sizes_of(weights), tf.float64)
        kept = tf.cast(counts_of(active), tf.float64)
        sparsity = 1.0 - kept / sizes
        fraction = tf.cast(self._fraction.at(step), tf.float64)
        grows_dense = (share * len(weights) > 1.0) & (sparsity < _NEARLY_DENSE)
        of_each = tf.where(grows_dense, tf.minimum(fraction, sparsity), fraction)
        dropped = tf.minimum(tf.math.ceil(of_each * kept), kept - 1.0)
        left = [
            smallest_dropped(
                ranked(mask, magnitude_keys(self.drop_scores(weight, mask, step))),
                mask,
                dropped[i],
            )
            for i, (weight, mask) in enumerate(zip(weights, active, strict=True))
        ]
        rooms = sizes_of(weights) - counts_of(left)
        total = tf.reduce_sum(counts_of(active)) - tf.reduce_sum(counts_of(left))
        amounts = dealt(
            share * tf.cast(total, tf.float64),
            _MOST_OF_ROOM * tf.cast(rooms, tf.float64),
        )
        return Moves(left, whole_numbers(amounts, rooms, total))

    def grow_keys(self, weight: Selection, step: tf.Tensor) -> tf.Tensor:
        if weight.momentum is None:  # before the first step
            return tf.ones([weight.theta.shape.num_elements()], tf.int32)
        return magnitude_keys(weight.momentum)

    def new_slots(self, weight: Selection) -> tf.Tensor | int | None:
        return None


def dealt(amounts: tf.Tensor, limits: tf.Tensor) -> tf.Tensor:
    """Amounts of which what is over a limit is dealt among all, in equal parts.

    Passes end when nothing is over, or after 1000.

    Args:
      amounts: float64 ``[weights]``.
      limits: float64 ``[weights]``.

    >>> limits = tf.constant([4.0, 9.0], tf.float64)
    >>> dealt(tf.constant([8.0, 1.0], tf.float64), limits).numpy().round(3)
    array([4., 5.])
    """
    count = tf.cast(tf.size(amounts), tf.float64)
    needed = tf.minimum(tf.reduce_sum(amounts), tf.reduce_sum(limits))

    def cut(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        within = tf.minimum(values, limits)
        return within, tf.maximum(needed - tf.reduce_sum(within), 0.0)

    def more(passes: tf.Tensor, values: tf.Tensor, over: tf.Tensor) -> tuple:
        return passes + 1, *cut(values + over / count)

    def is_over(passes: tf.Tensor, values: tf.Tensor, over: tf.Tensor) -> tf.Tensor:
        del values
        return (over > 1e-6) & (passes < _PASSES)

    _, values, _ = tf.while_loop(
        is_over, more, (tf.constant(1), *cut(amounts)), parallel_iterations=1
    )
    return values


def _shares(weights: Sequence[Selection], active: Sequence[tf.Tensor]) -> tf.Tensor:
    """v_l: float64 ``[weights]`` with sum 1; equal shares while there is no momentum."""
    means = []
    for weight, mask in zip(weights, active, strict=True):
        if weight.momentum is None:
            means.append(tf.constant(0.0, tf.float64))
            continue
        size = tf.reshape(tf.abs(tf.cast(weight.momentum, tf.float64)), [-1])
        kept = tf.reduce_sum(tf.cast(mask, tf.float64))
        inside = tf.where(mask, size, tf.zeros_like(size))
        means.append(tf.reduce_sum(inside) / tf.maximum(kept, 1.0))
    stacked = tf.stack(means)
    total = tf.reduce_sum(stacked)
    equal = tf.ones_like(stacked) / len(weights)
    return tf.where(total > 0, stacked / tf.where(total > 0, total, 1.0), equal)
