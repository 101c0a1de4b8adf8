"""GraNet: gradual global pruning, and regeneration where the gradient is largest."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import tensorflow as tf

from topkast_tf.core import selection
from topkast_tf.core.keys import magnitude_keys
from topkast_tf.core.ramp import CubicRamp
from topkast_tf.core.schedules import (
    DropFraction,
    UpdateSchedule,
    resolved_end,
    within_training,
)
from topkast_tf.core.sparsities import kept, validate_sparsities
from topkast_tf.methods.base import GRADIENT, Products, Selection
from topkast_tf.methods.drop_grow import gradient_of, ranked, share_of
from topkast_tf.methods.reallocating import (
    Moves,
    Reallocating,
    counts_of,
    smallest_dropped,
)
from topkast_tf.methods.registry import register


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class GraNet(Reallocating):
    """Gradual pruning with zero-cost neuroregeneration (Liu et al. 2021).

    At an update, with N entries of all weights together and f_t a cosine::

        kept_t  = along a cubic from (1 - s_i) N to (1 - s) N (`CubicRamp`)
        pruned  = A without its smallest |theta|, to kept_t entries, by one threshold
        n_l     = floor(f_t |A_l|): so many of the smallest of each weight are dropped,
                  and as many grown where |dL/dalpha| is largest

    The first sets are random with the sparsity s_i, and follow the distribution; the
    planned sparsities of a summary are those of the beginning, a run's densest moment.
    With ``initial_sparsity=sparsity`` nothing is pruned, and it is RigL whose updates do
    not replace a step; with 0 it is dense-to-sparse. An update needs the dense gradient of
    its step.

    State: none but theta and the sets. New entries: theta and slots zero.

    Attributes:
      sparsity: s, that of all weights together from `prune_until` on, in [0, 1).
      initial_sparsity: s_i, in [0, s].
      prune_until: the last step that prunes: a step, or a fraction of `total_steps`.
      drop_fraction: f_0, in (0, 1).
      final_drop_fraction: where the cosine of f_t ends, at `update_until`.

    Others as in `DropGrow`.

    >>> import keras
    >>> from topkast_tf import sparse_scope
    >>> with sparse_scope("granet", sparsity=0.9, total_steps=10_000, update_every=500):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])

    Source: `core.py` of the authors' code, whose updates follow a step: for CIFAR every
    1,000 steps, pruning in epochs 0 to 110 of 160, s_i = 0.5, f from 0.5 to 0.005. (The
    density 0.0 of its README's dense-to-sparse command is a mistake for 1.0.)
    """

    name: ClassVar[str] = "granet"
    inputs: ClassVar[tuple[str, ...]] = (GRADIENT,)  # type: ignore[misc]

    initial_sparsity: float = 0.5
    prune_until: int | float = 0.6875
    drop_fraction: float = 0.5
    final_drop_fraction: float = 0.005
    update_every: int = 1000
    update_until: int | float | None = 1.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        validate_sparsities(self.initial_sparsity, self.initial_sparsity)
        if self.initial_sparsity > self.sparsity:
            raise ValueError(
                "Expected an `initial_sparsity` of at most `sparsity`. Received: "
                f"initial_sparsity={self.initial_sparsity}, sparsity={self.sparsity}"
            )
        _ = self._fraction
        ramp, last = self._ramp, self.schedule.last
        if ramp is not None and last is not None and last < ramp.last:
            raise ValueError(
                "Expected updates to go on until the last one that prunes, at step "
                f"{ramp.last} by `prune_until`: the sparsity is not reached before. "
                f"Received: update_until={self.update_until!r}, which is step {last}"
            )

    @property
    def fwd(self) -> float:  # type: ignore[override]
        return self.initial_sparsity

    @property
    def bwd(self) -> float:  # type: ignore[override]
        return self.initial_sparsity

    @property
    def _fraction(self) -> DropFraction:
        return self.annealed(self.drop_fraction, final=self.final_drop_fraction)

    @property
    def _ramp(self) -> CubicRamp | None:
        """The number of entries of all weights; None if it is constant."""
        if self.initial_sparsity == self.sparsity:
            return None
        last = resolved_end(self.prune_until, self.total_steps, "prune_until")
        last = within_training(last, self.total_steps)
        first = max(self.update_from, 1)
        return CubicRamp(UpdateSchedule(self.update_every, first, last))

    def mean_products(self, fwd: float, bwd: float) -> Products:
        left = 1.0
        if self._ramp is not None:
            steps = self.total_steps or self._ramp.last
            left = self._ramp.mean_share(steps)
        mean = self.sparsity + (fwd - self.sparsity) * left
        return super().mean_products(mean, mean)

    def moves(
        self, weights: Sequence[Selection], active: Sequence[tf.Tensor], step: tf.Tensor
    ) -> Moves:
        keys = [
            ranked(mask, magnitude_keys(self.drop_scores(weight, mask, step)))
            for weight, mask in zip(weights, active, strict=True)
        ]
        masks = self._pruned(keys, active, step)
        left = []
        for key, mask in zip(keys, masks, strict=True):
            count = tf.reduce_sum(tf.cast(mask, tf.int32))
            dropped = share_of(count, self._fraction.at(step))
            left.append(smallest_dropped(tf.where(mask, key, 0), mask, dropped))
        return Moves(left, counts_of(masks) - counts_of(left))

    def _pruned(
        self, keys: Sequence[tf.Tensor], active: Sequence[tf.Tensor], step: tf.Tensor
    ) -> Sequence[tf.Tensor]:
        if self._ramp is None:
            return active
        units = sum(key.shape[0] for key in keys)
        first, last = (kept(units, s) for s in (self.initial_sparsity, self.sparsity))
        count = tf.cast(self._ramp.kept(first, last, step), tf.int32)
        before = tf.add_n([tf.reduce_sum(tf.cast(mask, tf.int32)) for mask in active])
        found = selection.largest(keys, tf.minimum(count, before))
        # Each weight keeps its largest entry.
        return [
            mask | selection.largest([key], 1)[0]
            for mask, key in zip(found, keys, strict=True)
        ]

    def grow_keys(self, weight: Selection, step: tf.Tensor) -> tf.Tensor:
        return magnitude_keys(gradient_of(weight))
