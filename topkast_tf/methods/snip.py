"""SNIP: keeps the weights whose removal would change the loss most, on one batch."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import tensorflow as tf

from topkast_tf.core import selection
from topkast_tf.core.schedules import UpdateSchedule
from topkast_tf.methods.base import GRADIENT, Network, Selection, Sets
from topkast_tf.methods.before_training import BeforeTraining, gradients_of
from topkast_tf.methods.registry import register


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class SNIP(BeforeTraining):
    """Single-shot network pruning (Lee et al. 2019). Static after one batch.

    With the dense network at its initial weights, on one batch::

        score = |theta dL/dalpha|;   A = B = the largest scores

    `topkast_tf.prune(model, batch)` does it. Without that call the first batch of training
    does: it selects the mask and changes no parameter, so that the first step is the second
    batch's. The densest moment is that batch: a dense forward and backward pass.

    State: none but theta and the sets. Slots: those of pruned entries stay zero.

    Attributes: see `BeforeTraining`.

    >>> import keras
    >>> from topkast_tf import prune, sparse_scope
    >>> with sparse_scope("snip", sparsity=0.9, distribution="global"):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])
    >>> model.compile("sgd", "mse")
    >>> prune(model, (tf.ones([8, 20]), tf.zeros([8, 5])))

    Source: the paper, as in `pruners.py` of SynFlow's authors' code (one threshold for all
    weights); RigL's code has the form with a target for each weight.
    """

    name: ClassVar[str] = "snip"
    inputs: ClassVar[tuple[str, ...]] = (GRADIENT,)  # type: ignore[misc]
    replaces_step: ClassVar[bool] = True  # type: ignore[misc]
    prunes_first_batch: ClassVar[bool] = True  # type: ignore[misc]

    @property
    def schedule(self) -> UpdateSchedule:  # type: ignore[override]
        return UpdateSchedule(every=1, first=0, last=0)

    def update(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        scores = [w.theta * tf.cast(w.gradient, w.theta.dtype) for w in weights]
        kept = tf.add_n([tf.cast(w.kept_forward, tf.int32) for w in weights])
        codes, finite = selection.nested_sets_by_magnitude(scores, kept, kept)
        return Sets(codes, finite, [step + 1] * len(weights))

    def reselect(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        return Sets([weight.sets for weight in weights], tf.constant(True))

    def calls(self, step: int, threshold: int) -> int:
        return step + int(step > 0 or threshold > 0)

    def scores(self, network: Network, weights: Sequence[Selection]) -> list[tf.Tensor]:
        thetas = [tf.convert_to_tensor(weight.theta) for weight in weights]
        found = gradients_of(network, thetas)
        return [tf.abs(t * g) for t, g in zip(thetas, found, strict=True)]
