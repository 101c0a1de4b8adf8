"""MEST: elastic mutation, which drops to one sparsity and grows to another."""

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import ClassVar

import tensorflow as tf

from topkast_tf.core import selection
from topkast_tf.core.keys import magnitude_keys
from topkast_tf.methods.base import GRADIENT, Products, Selection, Sets
from topkast_tf.methods.drop_grow import DropGrow, gradient_of, ranked
from topkast_tf.methods.registry import register


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class MEST(DropGrow):
    """Memory-economic sparse training (Yuan et al. 2021): elastic mutation, EM and EM&S.

    At an update, with n entries, sparsity s and a mutation mu_t that shrinks in stages::

        EM      kept = the kept(n, s + mu_t) best of A,  grown up to kept(n, s) at random
        EM&S    kept = the kept(n, s) best of A,         grown up to kept(n, s - mu_t)
        best    the largest of |theta| + lambda |dL/dalpha|

    At most half of A moves: ``mu_t n <= kept(n, s) / 2``. EM&S trains with a surplus of
    mu_t, which vanishes with it: its densest moment is its beginning, after the first
    update. Without mutation nothing moves.

    State: none but theta and the sets. New entries: theta and slots zero.

    Attributes:
      mutation: mu_0, in (0, 1).
      stages: where mu_t becomes mu_0 / 2, and where 0: fractions of `total_steps`.
      surplus: whether it is EM&S.
      gradient_weight: lambda, at least 0. Above 0 an update needs the dense gradient.

    Others as in `DropGrow`.

    Raises:
      ValueError: for an argument out of range, or without `total_steps`.

    >>> import keras
    >>> from topkast_tf import sparse_scope
    >>> with sparse_scope("mest", sparsity=0.9, total_steps=10_000):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])

    Source: scripts and `utils_pr.py` of the authors' code for CIFAR: of 160 epochs the
    stages end at 90 and 120, the mutation is 2 %, an update comes every 5 epochs
    (`update_every` has no such default here); lambda = 0, which the paper has in its score.
    Departs from it in that exactly as many entries are dropped and grown as planned.
    """

    name: ClassVar[str] = "mest"

    mutation: float = 0.02
    stages: tuple[float, float] = (0.5625, 0.75)
    surplus: bool = False
    gradient_weight: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        share, stages = self.mutation, self.stages
        if not isinstance(share, float) or not 0 < share < 1:
            raise ValueError(
                f"`mutation` must be in (0, 1). Received: mutation={share!r}"
            )
        if not isinstance(stages, tuple | list) or len(stages) != 2:
            raise ValueError(
                f"`stages` must be two fractions of the training. Received: {stages!r}"
            )
        object.__setattr__(self, "stages", tuple(stages))
        if not 0 <= self.stages[0] <= self.stages[1] <= 1:
            raise ValueError(
                f"`stages` must be two fractions in order. Received: stages={stages!r}"
            )
        if self.total_steps is None:
            raise ValueError(
                "Expected `total_steps`, the number of optimizer steps of the training, of "
                "which `stages` are fractions. Received: total_steps=None"
            )
        weight = self.gradient_weight
        if not isinstance(weight, float | int) or not 0 <= weight < math.inf:
            raise ValueError(
                "`gradient_weight` must be a number of at least 0. "
                f"Received: gradient_weight={weight!r}"
            )
        if not isinstance(self.surplus, bool):
            raise ValueError(
                f"`surplus` must be True or False. Received: surplus={self.surplus!r}"
            )
        end = round(self.stages[1] * self.total_steps)
        last = self.schedule.latest(self.total_steps - 1)
        if self.surplus and (last is None or last < end):
            raise ValueError(
                f"Expected an update at or after step {end}, where `stages` end the "
                "surplus, and before the end of training: without it the surplus stays. "
                f"Received: the last update at step {last}, by update_every="
                f"{self.update_every}, update_until={self.update_until!r} and total_steps="
                f"{self.total_steps}"
            )

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        return (GRADIENT,) if self.gradient_weight else ()

    @property
    def varying_counts(self) -> bool:  # type: ignore[override]
        return self.surplus

    def mean_products(self, fwd: float, bwd: float) -> Products:
        begin, end = self.stages
        mean = fwd
        if self.surplus:
            most = (1.0 - fwd) / 2  # at most half of A moves
            first, second = min(self.mutation, most), min(self.mutation / 2, most)
            mean = max(0.0, fwd - first * begin - second * (end - begin))
        return super().mean_products(mean, mean)

    def moved(self, units: int, kept: int, step: int) -> int:
        """How many of n entries an update moves: ``floor(mu_t n)``, at most half of k."""
        begin, end = (round(stage * (self.total_steps or 0)) for stage in self.stages)
        mutation = Fraction(str(self.mutation))
        moved = math.floor(units * mutation / (1 if step < begin else 2) * (step < end))
        return min(moved, kept // 2)

    def _moved_at(self, units: int, weight: Selection, step: tf.Tensor) -> tf.Tensor:
        begin, end = (round(stage * (self.total_steps or 0)) for stage in self.stages)
        first, second = self.moved(units, units, -1), self.moved(units, units, begin)
        second = second if begin < end else 0
        moved = tf.where(step < begin, first, second)
        most = tf.cast(weight.kept_forward, tf.int32) // 2
        return tf.minimum(tf.where(step < end, moved, 0), most)

    def kept(
        self, weight: Selection, active: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        units = weight.theta.shape.num_elements()
        moved = self._moved_at(units, weight, step)
        nominal = tf.cast(weight.kept_forward, tf.int32)
        left = nominal if self.surplus else tf.maximum(nominal - moved, 1)
        whole = tf.minimum(nominal + moved, units) if self.surplus else nominal
        scores = self.drop_scores(weight, active, step)
        if self.gradient_weight:
            gradient = tf.reshape(tf.cast(gradient_of(weight), tf.float32), [-1])
            scores += self.gradient_weight * tf.abs(gradient)
        keys = ranked(active, magnitude_keys(scores))
        [kept] = selection.largest([keys], left)
        return kept, whole - left

    def reselect(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        if not self.surplus:
            return super().reselect(weights, step)
        first, every = self.schedule.first, self.update_every
        latest = first + (step - first) // every * every
        whole = []
        for weight in weights:
            units = weight.theta.shape.num_elements()
            more = tf.where(step < first, 0, self._moved_at(units, weight, latest))
            kept = tf.minimum(tf.cast(weight.kept_forward, tf.int32) + more, units)
            whole.append(dataclasses.replace(weight, kept_forward=kept))
        return super().reselect(whole, step)

    def counts(
        self, units: int, kept_forward: int, kept_backward: int, step: int
    ) -> tuple[int, int] | None:
        if not self.surplus:
            return kept_forward, kept_backward
        last = self.schedule.latest(step)
        if last is None:
            return kept_forward, kept_backward
        count = min(kept_forward + self.moved(units, kept_forward, last), units)
        return count, count
