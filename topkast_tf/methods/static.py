"""Static sparsity: a mask chosen once, the baseline of every comparison."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import tensorflow as tf

from topkast_tf.core.schedules import Never
from topkast_tf.methods.base import Selection, Sets
from topkast_tf.methods.fixed_sparsity import FixedSparsity
from topkast_tf.methods.registry import register


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Static(FixedSparsity):
    """A static mask: ``A_t = A_0`` at every step t.

    Exactly ``floor(sparsity * n)`` entries of each weight are zero, sampled uniformly
    (other implementations sample each entry independently, so their counts vary).

    Attributes: see `FixedSparsity`.

    >>> import keras
    >>> from topkast_tf import sparse_scope, sparse_weights
    >>> with sparse_scope("static", sparsity=0.75):
    ...     model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    >>> int(sparse_weights(model)[0].forward_mask().sum())
    4

    Source: the baseline "Static" of Evci et al., Rigging the Lottery, ICML 2020.
    """

    name: ClassVar[str] = "static"

    @property
    def schedule(self) -> Never:  # type: ignore[override]
        return Never()

    def update(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        return Sets([weight.sets for weight in weights], tf.constant(True))
