"""SynFlow: keeps the weights that carry most flow, without data."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import tensorflow as tf

from topkast_tf.methods.base import Network, Selection
from topkast_tf.methods.before_training import BeforeTraining, best
from topkast_tf.methods.registry import register


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class SynFlow(BeforeTraining):
    """Iterative synaptic flow pruning (Tanaka et al. 2020). Static, and data-free.

    With R the sum of the outputs for an input of ones, of the network with the magnitudes
    of all its trainable variables, as for inference; in rounds k = 1, ..., K::

        score = |theta| dR/d|theta| on A, 0 elsewhere
        A = B = the largest scores, a share of (1 - sparsity)^(k / K)

    `topkast_tf.prune(model)` does it, before training; a step before that is an error.

    State: none but theta and the sets. Slots: those of pruned entries stay zero.

    Attributes:
      rounds: K, at least 1.

    Others as in `BeforeTraining`.

    Raises:
      ValueError: by `prune`, if the flow overflows float32, as in very deep networks, or
        does not reach a weight, which would lose all entries.

    >>> import keras
    >>> from topkast_tf import prune, sparse_scope
    >>> with sparse_scope("synflow", sparsity=0.9, distribution="global"):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])
    >>> prune(model)

    Source: `pruners.py` and `prune.py` of the authors' code: 100 rounds, one threshold for
    all weights. Departs from it in that only trainable variables are taken by magnitude:
    the code also takes the moving averages of batch normalisation so.
    """

    name: ClassVar[str] = "synflow"

    rounds: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.rounds) is not int or not 1 <= self.rounds <= 10_000:
            raise ValueError(
                f"`rounds` must be an integer from 1 to 10,000. "
                f"Received: rounds={self.rounds!r}"
            )

    def prune(
        self,
        network: Network,
        weights: Sequence[Selection],
        budgets: Sequence[Sequence[int]],
    ) -> list[tf.Tensor]:
        thetas = [tf.abs(tf.convert_to_tensor(weight.theta)) for weight in weights]
        sizes = [theta.shape.num_elements() for theta in thetas]
        targets = [int(sum(weights[i].kept_forward for i in own)) for own in budgets]
        totals = [sum(sizes[i] for i in own) for own in budgets]

        @tf.function
        def scored(masks: list[tf.Tensor]) -> list[tf.Tensor]:
            alphas = [
                tf.where(mask, theta, tf.zeros_like(theta))
                for mask, theta in zip(masks, thetas, strict=True)
            ]
            with tf.GradientTape() as tape:
                tape.watch(alphas)
                flow = network.flow(alphas)
            found = tape.gradient(flow, alphas, unconnected_gradients="zero")
            return [alpha * g for alpha, g in zip(alphas, found, strict=True)]

        masks = [tf.ones_like(theta, tf.bool) for theta in thetas]
        for k in range(1, self.rounds + 1):
            counts = [
                max(target, round(total * (target / total) ** (k / self.rounds)))
                for target, total in zip(targets, totals, strict=True)
            ]
            scores = scored(masks)
            if k == 1:
                _check_flow(scores)
            masks = best(scores, budgets, counts)
        return masks


def _check_flow(scores: Sequence[tf.Tensor]) -> None:
    for score in scores:
        if not bool(tf.reduce_any(score != 0)):
            shape = "x".join(map(str, score.shape))
            raise ValueError(
                "Expected a flow through each weight. Received: none through one of shape "
                f"{shape}: its output is not used, or is multiplied by zero (as by a norm "
                "whose scale begins at zero), or the flow is too small for float32, as in "
                "a very deep network with small weights"
            )
