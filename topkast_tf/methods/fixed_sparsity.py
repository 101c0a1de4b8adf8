"""The base of methods that keep a constant number of entries."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import tensorflow as tf

from topkast_tf.core import selection
from topkast_tf.core.keys import random_keys
from topkast_tf.core.sets import FORWARD
from topkast_tf.methods.base import Selection, Sets
from topkast_tf.methods.one_mask import OneMask

FIRST_MASKS = ("random", "magnitude")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedSparsity(OneMask):
    """A = B, with exactly ``kept(n, sparsity)`` entries of each weight at every step.

    Attributes:
      first_mask: ``"random"``: sampled uniformly, independent of theta; ``"magnitude"``:
        the largest entries of theta, e.g. to start from a trained dense model.

    Others as in `OneMask`.
    """

    # One threshold over all weights does not give a random mask.
    distributions: ClassVar[tuple[str, ...] | None] = ("uniform", "er", "erk")

    first_mask: str = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first_mask not in FIRST_MASKS:
            raise ValueError(
                f"`first_mask` must be one of {list(FIRST_MASKS)}. "
                f"Received: first_mask={self.first_mask!r}"
            )

    def initial(self, weights: Sequence[Selection]) -> Sets:
        if self.first_mask == "magnitude":
            return by_magnitude(weights)
        return Sets([_sampled(weight) for weight in weights], tf.constant(True))

    def reselect(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        return by_magnitude(weights)


def by_magnitude(weights: Sequence[Selection]) -> Sets:
    """Sets of the largest entries of each weight by magnitude."""
    codes, finite = [], []
    for weight in weights:
        [code], is_finite = selection.nested_sets_by_magnitude(
            [weight.theta], weight.kept_forward, weight.kept_forward
        )
        codes.append(code)
        finite.append(is_finite)
    return Sets(codes, tf.reduce_all(tf.stack(finite)))


def codes_of(mask: tf.Tensor, weight: Selection) -> tf.Tensor:
    """The set codes of a weight with A = B, from a flat mask."""
    codes = tf.cast(mask, tf.uint8) * tf.constant(FORWARD, tf.uint8)
    return tf.reshape(codes, tf.shape(weight.theta))


def _sampled(weight: Selection) -> tf.Tensor:
    keys = random_keys(
        weight.theta.shape.num_elements(),
        tf.stack([weight.seed, tf.constant(0, tf.int64)]),
    )
    [mask] = selection.largest([keys], weight.kept_forward)
    return codes_of(mask, weight)
