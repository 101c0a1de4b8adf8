"""Top-KAST: both sets are the largest entries by magnitude; B contains A."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import tensorflow as tf

from topkast_tf.core import selection
from topkast_tf.core.blocks import Blocks, MatrixView, validate_block
from topkast_tf.core.exploration import exploration_loss, validate_exploration
from topkast_tf.core.keys import has_nan, magnitude_keys, random_keys
from topkast_tf.core.schedules import RefreshSchedule
from topkast_tf.core.sparsities import validate_sparsities
from topkast_tf.methods.base import SLOTS, Method, Products, Selection, Sets
from topkast_tf.methods.registry import register

BACKWARDS = ("topk", "random")


@register
@dataclasses.dataclass(frozen=True)
class TopKAST(Method):
    """Top-KAST (Jayakumar et al., NeurIPS 2020): always sparse, no schedule to tune.

    ``A = top_fwd(|theta|)``, ``B = top_bwd(|theta|)``; with ``backward="random"`` B is A
    plus entries sampled uniformly at each refresh. From step `stop_exploring_at`, B = A.

    Attributes: see `topkast_tf.topkast_scope`.
    """

    name: ClassVar[str] = "topkast"

    fwd: float
    bwd: float
    refresh_every: int = 1
    exploration: float = 1e-4
    exploration_norm: str = "l2"
    backward: str = "topk"
    stop_exploring_at: int | None = None
    block: tuple[int, int] | None = None
    block_reduce: str = "sum"
    slots: str = "decay"
    total_steps: int | None = None

    def __post_init__(self) -> None:
        validate_sparsities(self.fwd, self.bwd)
        validate_exploration(self.exploration, self.exploration_norm)
        validate_block(self.block, self.block_reduce)
        if self.block is not None:  # a list, if it comes from a saved configuration
            object.__setattr__(self, "block", tuple(self.block))
        if self.backward not in BACKWARDS:
            raise ValueError(
                f"`backward` must be one of {list(BACKWARDS)}. "
                f"Received: backward={self.backward!r}"
            )
        if self.slots not in SLOTS:
            raise ValueError(
                f"`slots` must be one of {list(SLOTS)}. Received: slots={self.slots!r}"
            )
        _ = self.schedule  # validates the steps

    @property
    def has_penalty(self) -> bool:  # type: ignore[override]
        return self.exploration > 0

    @property
    def nests_by_magnitude(self) -> bool:
        changed = type(self).update is not TopKAST.update
        return self.backward == "topk" and self.block is None and not changed

    @property
    def exploration_coefficient(self) -> float:
        changed = type(self).penalty is not TopKAST.penalty
        is_l2 = self.exploration_norm == "l2" and not changed
        return self.exploration if is_l2 else 0.0

    @property
    def schedule(self) -> RefreshSchedule:
        return RefreshSchedule(
            self.refresh_every, self.stop_exploring_at, self.total_steps
        )

    def blocks(self, view: MatrixView) -> Blocks | None:
        if self.block is None:
            return None
        return Blocks(view, self.block, self.block_reduce)

    def update(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        scores = [
            weight.blocks.scores(weight.theta) if weight.blocks else weight.theta
            for weight in weights
        ]
        kept_forward = _total([weight.kept_forward for weight in weights])
        kept_backward = _total([weight.kept_backward for weight in weights])
        if self.stop_exploring_at is not None:
            explores = self.schedule.explores(step)
            kept_backward = tf.where(explores, kept_backward, kept_forward)
        if self.backward == "random":
            codes, finite = _with_random_backward(
                scores, kept_forward, kept_backward, weights, step
            )
        else:
            codes, finite = selection.nested_sets_by_magnitude(
                scores, kept_forward, kept_backward
            )
        shaped = [
            weight.blocks.expand(tf.reshape(code, [-1])) if weight.blocks else code
            for code, weight in zip(codes, weights, strict=True)
        ]
        return Sets(shaped, finite)

    @property
    def has_constant_products(self) -> bool:
        return self.stop_exploring_at is None or self.total_steps is None

    def mean_products(self, fwd: float, bwd: float) -> Products:
        stop, steps = self.stop_exploring_at, self.total_steps
        if stop is None or steps is None:
            return super().mean_products(fwd, bwd)
        explores = min(stop, steps) / steps
        return Products(fwd, fwd, bwd * explores + fwd * (1 - explores))

    def counts(
        self, units: int, kept_forward: int, kept_backward: int, step: int
    ) -> tuple[int, int] | None:
        del units
        explores = self.schedule.explores(step)
        return kept_forward, kept_backward if explores else kept_forward

    def penalty(
        self,
        theta: tf.Tensor,
        sets: tf.Tensor,
        density: tf.Tensor,
        trained: Mapping[str, tf.Tensor],
    ) -> tf.Tensor | None:
        del trained
        if not self.exploration:
            return None
        return exploration_loss(
            theta, sets, density, self.exploration, self.exploration_norm
        )


def _with_random_backward(
    scores: Sequence[tf.Tensor],
    kept_forward: tf.Tensor,
    kept_backward: tf.Tensor,
    weights: Sequence[Selection],
    step: tf.Tensor,
) -> tuple[list[tf.Tensor], tf.Tensor]:
    keys = [magnitude_keys(score) for score in scores]
    draws = [
        random_keys(key.shape[0], tf.stack([weight.seed, tf.cast(step, tf.int64)]))
        for key, weight in zip(keys, weights, strict=True)
    ]
    codes = selection.forward_and_random_sets(keys, kept_forward, kept_backward, draws)
    shaped = [
        tf.reshape(code, tf.shape(score))
        for code, score in zip(codes, scores, strict=True)
    ]
    return shaped, ~tf.reduce_any(tf.stack([has_nan(key) for key in keys]))


def _total(counts: Sequence[tf.Tensor]) -> tf.Tensor:
    whole = [tf.cast(count, tf.int32) for count in counts]
    return tf.add_n(whole) if len(whole) > 1 else whole[0]
