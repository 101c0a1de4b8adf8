"""Gradual magnitude pruning: dense at first, sparser by a cubic schedule."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import tensorflow as tf

from topkast_tf.core import selection
from topkast_tf.core.ramp import CubicRamp
from topkast_tf.core.schedules import (
    UpdateSchedule,
    check_total_steps,
    resolved_end,
    within_training,
)
from topkast_tf.core.sparsities import kept, validate_sparsities
from topkast_tf.methods.base import Products, Selection, Sets
from topkast_tf.methods.one_mask import OneMask
from topkast_tf.methods.registry import register


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class GradualPruning(OneMask):
    """Gradual magnitude pruning (Zhu & Gupta 2017). Dense-to-sparse.

    With F the first update, L the last one, and s_i and s_f the first and the final
    sparsity::

        s_t = s_i                                          before F
              s_f + (s_i - s_f) (1 - (t - F) / (L - F))^3  at the updates F, F + N, ..., L
              s_f                                          from L on
        A = B = the (1 - s_t) n largest of |theta|

    A pruned weight keeps its value in theta and is not updated; it returns if it is among
    the largest at a later update. With ``distribution="global"`` s_t is of all weights
    together, with one threshold. The densest moment of a run is its first step, at s_i.

    State: none but theta and the sets. Slots: see a gradient of zero where pruned.

    Attributes:
      sparsity: s_f, in [0, 1).
      initial_sparsity: s_i, in [0, 1); of a weight whose s_f is less, s_f.
      update_every: N, in optimizer steps.
      update_from: F: a step, or a fraction of `total_steps` in (0, 1].
      update_until: the last step at which an update may occur, likewise.
      total_steps: the length of training, in steps; needed for a fraction.

    Raises:
      ValueError: for a sparsity, a step or a fraction out of range, a fraction without
        `total_steps`, or fewer than two updates.

    >>> import keras
    >>> from topkast_tf import sparse_scope
    >>> with sparse_scope("pruning", sparsity=0.9, total_steps=10_000):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])

    Source: Zhu & Gupta, To prune or not to prune, 2017. N is the least of the paper's (100
    to 1000); F and L, which the paper leaves open, are at a quarter and three quarters of
    the training, as Jin et al. (arXiv 2501.12486) found best. Departs from the formula in
    that L is the last update at or before `update_until`, and in counts that are rounded
    down to whole weights.
    """

    name: ClassVar[str] = "pruning"
    varying_counts: ClassVar[bool] = True  # type: ignore[misc]

    initial_sparsity: float = 0.0
    update_every: int = 100
    update_from: int | float = 0.25
    update_until: int | float = 0.75
    total_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        validate_sparsities(self.initial_sparsity, 0.0)
        if self.initial_sparsity > self.sparsity:
            raise ValueError(
                "Expected an `initial_sparsity` of at most `sparsity`. Received: "
                f"initial_sparsity={self.initial_sparsity}, sparsity={self.sparsity}"
            )
        check_total_steps(self.total_steps)
        _ = self.ramp  # validates the steps

    @property
    def schedule(self) -> UpdateSchedule:  # type: ignore[override]
        first = resolved_end(self.update_from, self.total_steps, "update_from")
        last = resolved_end(self.update_until, self.total_steps)
        last = within_training(last, self.total_steps)
        return UpdateSchedule(self.update_every, first or 0, last)

    @property
    def ramp(self) -> CubicRamp:
        """The number of kept entries as a function of the step."""
        return CubicRamp(self.schedule)

    def update(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        thetas = [weight.theta for weight in weights]
        units = sum(theta.shape.num_elements() for theta in thetas)
        final = tf.add_n([tf.cast(weight.kept_forward, tf.int64) for weight in weights])
        count = self.ramp.kept(kept(units, self.initial_sparsity), final, step)
        count = tf.cast(count, tf.int32)
        return Sets(*selection.nested_sets_by_magnitude(thetas, count, count))

    def counts(
        self, units: int, kept_forward: int, kept_backward: int, step: int
    ) -> tuple[int, int] | None:
        first = kept(units, self.initial_sparsity)
        count = self.ramp.kept(first, kept_forward, step)
        return count, count

    def mean_products(self, fwd: float, bwd: float) -> Products:
        steps = self.total_steps or self.ramp.last
        first = min(self.initial_sparsity, fwd)
        mean = fwd + (first - fwd) * self.ramp.mean_share(steps)
        return Products(mean, mean, mean)
