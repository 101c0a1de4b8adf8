"""The base of methods that prune once, before training, by scores of a batch."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import tensorflow as tf

from topkast_tf.core import selection
from topkast_tf.core.keys import magnitude_keys
from topkast_tf.core.schedules import Never
from topkast_tf.core.sets import FORWARD
from topkast_tf.methods.base import Network, Selection, Sets
from topkast_tf.methods.one_mask import OneMask


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeforeTraining(OneMask):
    """Dense until `topkast_tf.prune`; then A = B, the best by a score, for good.

    With ``distribution="global"`` the best of all weights together are kept, as in the
    papers; otherwise the best of each weight, as many as the distribution gives it.

    Attributes: see `OneMask`.
    """

    varying_counts: ClassVar[bool] = True  # type: ignore[misc]
    prunes_before_training: ClassVar[bool] = True  # type: ignore[misc]

    @property
    def schedule(self) -> Never:  # type: ignore[override]
        return Never()

    def initial(self, weights: Sequence[Selection]) -> Sets:
        everything = [tf.fill(tf.shape(w.theta), FORWARD) for w in weights]
        codes = [tf.cast(each, tf.uint8) for each in everything]
        not_pruned = [tf.constant(0, tf.int64)] * len(weights)
        return Sets(codes, tf.constant(True), not_pruned)

    def update(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        return Sets([weight.sets for weight in weights], tf.constant(True))

    def counts(
        self, units: int, kept_forward: int, kept_backward: int, step: int
    ) -> tuple[int, int] | None:
        return None

    def scores(self, network: Network, weights: Sequence[Selection]) -> list[tf.Tensor]:
        """One score for each entry of each weight, of which the largest are kept."""
        raise NotImplementedError

    def prune(
        self,
        network: Network,
        weights: Sequence[Selection],
        budgets: Sequence[Sequence[int]],
    ) -> list[tf.Tensor]:
        counts = [int(sum(weights[i].kept_forward for i in own)) for own in budgets]
        return best(self.scores(network, weights), budgets, counts)


def best(
    scores: Sequence[tf.Tensor], budgets: Sequence[Sequence[int]], counts: Sequence[int]
) -> list[tf.Tensor]:
    """Masks of the largest scores of each budget, negative ones last.

    Args:
      scores: one tensor for each weight.
      budgets: places of the weights that share a budget.
      counts: how many entries each budget keeps.

    Raises:
      ValueError: for a score that is NaN or infinite.

    >>> [mask] = best([tf.constant([-1.0, 2.0, -3.0])], [[0]], [2])
    >>> mask.numpy()
    array([ True,  True, False])
    """
    if not all(bool(tf.reduce_all(tf.math.is_finite(s))) for s in scores):
        raise ValueError(
            "Expected finite scores of the weights. Received: NaN or infinity, as from an "
            "unscaled or very deep network: lower the scale of its weights"
        )
    found: list[tf.Tensor] = [tf.constant(False)] * len(scores)
    for own, count in zip(budgets, counts, strict=True):
        flat = [tf.reshape(scores[i], [-1]) for i in own]
        masks = _largest_signed(flat, count)
        for i, mask in zip(own, masks, strict=True):
            found[i] = tf.reshape(mask, tf.shape(scores[i]))
    return found


def _largest_signed(flat: Sequence[tf.Tensor], count: int) -> list[tf.Tensor]:
    """As `selection.largest`, of numbers: the positive ones come first."""
    positive = [score > 0 for score in flat]
    keys = [magnitude_keys(score) for score in flat]
    first = min(count, int(tf.add_n([tf.math.count_nonzero(p) for p in positive])))
    of_positive = [tf.where(p, k, 0) for p, k in zip(positive, keys, strict=True)]
    masks = selection.largest(of_positive, first)
    if first == count:
        return masks
    # Of the others, those nearest to zero; 0 is below all of them.
    largest_key = 2**31 - 1
    of_others = [
        tf.where(p, 0, largest_key - k) for p, k in zip(positive, keys, strict=True)
    ]
    rest = selection.largest(of_others, count - first)
    return [mask | more for mask, more in zip(masks, rest, strict=True)]


def gradients_of(network: Network, thetas: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """dL/dalpha of the dense network, on the given batch."""
    with tf.GradientTape() as tape:
        tape.watch(thetas)
        loss = network.loss(thetas)
    return tape.gradient(loss, thetas, unconnected_gradients="zero")
