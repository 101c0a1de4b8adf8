"""SWAT's weights: the largest by magnitude in every pass; all are updated."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import tensorflow as tf

from swat_tf import momentum
from swat_tf.recipe import validate_period_of, validate_sparsity
from swat_tf.structured import KernelSlices, validate_structure
from topkast_tf.core import kth_largest, selection
from topkast_tf.core.blocks import MatrixView
from topkast_tf.core.keys import has_nan, magnitude_keys
from topkast_tf.core.schedules import check_total_steps
from topkast_tf.core.sets import BACKWARD_ONLY, FORWARD, RESERVOIR
from topkast_tf.core.sparsities import kept
from topkast_tf.methods import MOMENTUM, Method, Selection, Sets, register

UPDATES = ("dense", "masked")


@dataclasses.dataclass(frozen=True)
class TopKSchedule:
    """New thresholds at steps 0, P, 2P, ...; none from a given step on.

    With P above 1 also none at step T, after the last step of training, which would be
    evaluated and never trained.

    Attributes:
      period: P, in steps, at least 1.
      freeze_at: the step from which the sets are fixed, at least 1, or None.
      total_steps: T, the length of training, at least 1, or None if it is not known.

    >>> [t for t in range(9) if TopKSchedule(2, freeze_at=6).due(t)]
    [0, 2, 4]
    """

    period: int = 1
    freeze_at: int | None = None
    total_steps: int | None = None

    def __post_init__(self) -> None:
        check_total_steps(self.total_steps)
        for name, value in (
            ("topk_period", self.period),
            ("freeze_at", self.freeze_at),
        ):
            if value is None and name == "freeze_at":
                continue
            if type(value) is not int or not 1 <= value < 2**62:
                raise ValueError(
                    f"`{name}` must be a number of steps, an integer of at least 1. "
                    f"Received: {name}={value!r}"
                )

    @property
    def every(self) -> int:
        """P."""
        return self.period

    def due(self, step: Any) -> Any:
        """Whether new thresholds are computed at this step."""
        due = (step % self.period < 1) & self.moves(step)
        end = self.total_steps
        if end is None or self.period == 1:
            return due
        return due & ((step < end) | (step > end))

    def count_before(self, step: int) -> int:
        """The number of due steps before this one.

        >>> TopKSchedule(2, freeze_at=6).count_before(100)
        3
        """
        last = step if self.freeze_at is None else min(step, self.freeze_at)
        count = -(-last // self.period)
        end = self.total_steps
        if end is not None and self.period > 1 and end < last:
            count -= end % self.period < 1
        return count

    def moves(self, step: Any) -> Any:
        """Whether the sets may change at this step."""
        return True if self.freeze_at is None else step < self.freeze_at


@register
@dataclasses.dataclass(frozen=True)
class SWAT(Method):
    """SWAT (Raihan & Aamodt, NeurIPS 2020): A = top_s(|theta|), every entry is updated.

    Every `topk_period` steps A is selected exactly and the threshold stored; in between
    A holds the entries that reach that threshold.

    Attributes: see `swat_tf.swat_scope`.
    """

    name: ClassVar[str] = "swat"
    own_distributions: ClassVar[tuple[str, ...]] = ("momentum",)
    requires_product_rule: ClassVar[bool] = True  # type: ignore[misc]

    sparsity: float
    topk_period: int = 1
    topk_period_of: str = "all"
    structured: str | None = None
    momentum: bool = False
    updates: str = "dense"
    freeze_at: int | None = None
    forward: bool = True
    total_steps: int | None = None

    def __post_init__(self) -> None:
        validate_sparsity("sparsity", self.sparsity)
        validate_period_of(self.topk_period_of)
        validate_structure(self.structured)
        if self.updates not in UPDATES:
            raise ValueError(
                f"`updates` must be one of {list(UPDATES)}. "
                f"Received: updates={self.updates!r}"
            )
        if self.momentum and self.structured:
            raise ValueError(
                "Expected structured=None with distribution='momentum', which counts "
                f"single weights. Received: structured={self.structured!r}"
            )
        if self.updates == "masked" and not self.forward:
            raise ValueError(
                "Expected updates='masked' with weights that are sparse in the forward "
                "pass. Received: updates='masked', with dense weights"
            )
        _ = self.schedule  # validates the steps

    @property
    def fwd(self) -> float:  # type: ignore[override]
        return self.sparsity

    @property
    def bwd(self) -> float:  # type: ignore[override]
        return self.sparsity if self.updates == "masked" else 0.0

    @property
    def dense_updates(self) -> bool:  # type: ignore[override]
        return self.updates == "dense"

    @property
    def sparse_forward(self) -> bool:  # type: ignore[override]
        return self.forward

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        return (MOMENTUM,) if self.momentum else ()

    @property
    def budget(self) -> str:  # type: ignore[override]
        return "global" if self.momentum else "layer"

    @property
    def varying_counts(self) -> bool:  # type: ignore[override]
        return self.momentum or self.updates_between_refreshes

    @property
    def updates_between_refreshes(self) -> bool:  # type: ignore[override]
        return self.topk_period > 1

    def selection_operations(self, view: MatrixView) -> float:
        # In the steps between two updates, entries are compared with the last threshold.
        updates = self.updates_a_step(view)
        between = (self._moving_share - updates) * math.prod(view.shape)
        return super().selection_operations(view) + between

    @property
    def _moving_share(self) -> float:
        """The fraction of training in which the sets may move."""
        if self.freeze_at is None:
            return 1.0
        if self.total_steps is None:  # in the long run, nothing
            return 0.0
        return min(self.freeze_at, self.total_steps) / self.total_steps

    @property
    def schedule(self) -> TopKSchedule:  # type: ignore[override]
        return TopKSchedule(self.topk_period, self.freeze_at, self.total_steps)

    def schedule_of(self, view: MatrixView) -> TopKSchedule:  # type: ignore[override]
        periodic = view.spatial_axes and self.structured is None
        if periodic or self.topk_period_of == "all":
            return self.schedule
        return TopKSchedule(1, self.freeze_at, self.total_steps)

    def blocks(self, view: MatrixView) -> Any:
        if self.structured is None or not view.spatial_axes:
            return None
        return KernelSlices(view, self.structured)

    def check(self, blocks: Sequence[Any]) -> None:
        if self.structured and not any(blocks):
            raise ValueError(
                "Expected a convolution: only its kernel has channels and filters. "
                f"Received: structured={self.structured!r}, in a scope without one"
            )

    def update(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        keys = [_keys(weight) for weight in weights]
        finite = ~tf.reduce_any(tf.stack([has_nan(key) for key in keys]))
        counts = [tf.cast(weight.kept_forward, tf.int32) for weight in weights]
        if not self.momentum:
            masks, least = _largest(keys, tf.add_n(counts))
            codes = [
                self._codes(weight, mask)
                for weight, mask in zip(weights, masks, strict=True)
            ]
            return Sets(codes, finite, [least] * len(keys))
        # One budget, but each weight has its own threshold.
        if weights[0].momentum is None:
            chosen = [
                self._alone(weight, key, count)
                for weight, key, count in zip(weights, keys, counts, strict=True)
            ]
            return Sets(
                [codes for codes, _, _ in chosen], finite, [t for _, t, _ in chosen]
            )
        chosen = [
            self._if_due(weight, key, count, step)
            for weight, key, count in zip(
                weights, keys, self._allotted(weights), strict=True
            )
        ]
        codes, thresholds, counts = zip(*chosen, strict=True)
        return Sets(codes, finite, thresholds, counts)

    def _alone(
        self, weight: Selection, key: tf.Tensor, count: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The set codes of one weight's largest entries, the threshold, and the count."""
        [mask], least = _largest([key], count)
        return self._codes(weight, mask), least, tf.cast(count, tf.int64)

    def _if_due(
        self, weight: Selection, key: tf.Tensor, count: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """`_alone` if the weight is due; otherwise by its current threshold and count."""
        return tf.cond(
            weight.schedule.due(step),
            lambda: self._alone(weight, key, count),
            lambda: (
                self.update_between_refreshes(weight, step),
                tf.cast(weight.threshold, tf.int64),
                tf.cast(weight.kept_forward, tf.int64),
            ),
        )

    def update_between_refreshes(self, weight: Selection, step: tf.Tensor) -> tf.Tensor:
        reached = _keys(weight) >= tf.cast(weight.threshold, tf.int32)
        codes = self._codes(weight, reached)
        return tf.where(self.schedule.moves(step), codes, weight.sets)

    def _codes(self, weight: Selection, mask: tf.Tensor) -> tf.Tensor:
        outside = BACKWARD_ONLY if self.dense_updates else RESERVOIR
        codes = tf.where(
            mask,
            tf.constant(FORWARD, tf.uint8),
            tf.constant(outside, tf.uint8),
        )
        if weight.blocks:
            return weight.blocks.expand(codes)
        return tf.reshape(codes, tf.shape(weight.theta))

    def _allotted(self, weights: Sequence[Selection]) -> list[tf.Tensor]:
        active = [tf.equal(weight.sets, FORWARD) for weight in weights]
        share = momentum.shares([weight.momentum for weight in weights], active)
        sizes = [math.prod(weight.theta.shape) for weight in weights]
        budget = tf.constant(kept(sum(sizes), self.sparsity), tf.int64)
        return tf.unstack(tf.cast(momentum.allot(share, sizes, budget), tf.int32))


def _largest(
    keys: Sequence[tf.Tensor], count: tf.Tensor
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Masks of the largest of some keys together, and the threshold for later keys.

    If all keys are kept, the threshold is 0, which any key reaches: dense stays dense.
    """
    [found] = kth_largest.thresholds(keys, [count])
    size = sum(key.shape[0] for key in keys)
    # Otherwise above 0, which every zero would reach.
    least = tf.where(count < size, tf.maximum(found.key, 1), 0)
    return selection.at_or_above(keys, found), tf.cast(least, tf.int64)


def _keys(weight: Selection) -> tf.Tensor:
    return magnitude_keys(
        weight.blocks.scores(weight.theta) if weight.blocks else weight.theta
    )
