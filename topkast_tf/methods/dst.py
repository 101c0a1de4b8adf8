"""DST: a hard threshold for each output, trained with the weights."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import tensorflow as tf

from topkast_tf.core.blocks import MatrixView
from topkast_tf.core.sets import BACKWARD_ONLY, FORWARD
from topkast_tf.methods.base import Selection, Sets, TrainedVariable
from topkast_tf.methods.learned import THRESHOLD, Learned
from topkast_tf.methods.registry import register

PER = ("output", "weight", "entry")
_LEAST = 0.01
"""A weight that keeps no larger share than this starts with thresholds of 0 again."""


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class DST(Learned):
    """Dynamic sparse training (Liu et al. 2020). Dense-to-sparse.

    With a trained threshold t for each output, and S the step function::

        alpha = theta S(|theta| - t),   S(x) = 1 if x > 0, else 0
        dS/dx := 2 - 4|x| for |x| <= 0.4;  0.4 for 0.4 < |x| <= 1;  0 beyond
        loss += penalty * sum exp(-t)

    Gradients reach theta twice, through the product and through S, and t through S. All
    thresholds of a weight that keeps 1 % or less return to 0. The penalty alone says how
    sparse a network becomes. The densest moment of a run is its beginning, with no zeros.

    State: t, and the mean of the density. Slots: of every entry, and of t. A
    `weight_decay` of the optimizer also decays t, as in the authors' code, which makes a
    network denser: exclude the variables named ``threshold`` from it if that is not wanted.

    Attributes:
      penalty_coefficient: at least 0.
      per: what has a threshold: ``"output"``, ``"weight"`` or ``"entry"``.
      sparsity: as in `Learned`.

    Raises:
      ValueError: for an argument out of range.

    >>> import keras
    >>> from topkast_tf import sparse_scope
    >>> with sparse_scope("dst", penalty_coefficient=5e-6):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])

    Source: the authors' code for CIFAR: 5e-6 for VGG-16 and WideResNet, 5e-4 for LeNet, by
    SGD with momentum 0.9 at 0.1 and 160 epochs of batches of 64.
    """

    name: ClassVar[str] = "dst"

    penalty_coefficient: float = 5e-6
    per: str = "output"

    def __post_init__(self) -> None:
        super().__post_init__()
        coefficient = self.penalty_coefficient
        if not isinstance(coefficient, float | int) or not 0 <= coefficient < 1e6:
            raise ValueError(
                "`penalty_coefficient` must be a number of at least 0. "
                f"Received: penalty_coefficient={coefficient!r}"
            )
        if self.per not in PER:
            raise ValueError(
                f"`per` must be one of {list(PER)}. Received: per={self.per!r}"
            )

    @property
    def has_penalty(self) -> bool:  # type: ignore[override]
        return self.penalty_coefficient > 0

    def thresholds(self, view: MatrixView) -> Mapping[str, TrainedVariable]:
        rank = len(view.shape)
        axes = {axis % rank for axis in view.output_axes}
        of_output = tuple(n if i in axes else 1 for i, n in enumerate(view.shape))
        shape = {"output": of_output, "weight": (), "entry": view.shape}[self.per]
        return {THRESHOLD: TrainedVariable(tuple(shape), 0.0)}

    def threshold(self, trained: Mapping[str, tf.Tensor]) -> tf.Tensor:
        return trained[THRESHOLD]

    def selected(self, weights: Sequence[Selection]) -> Sets:
        found = super().selected(weights)
        codes, trained = [], []
        for weight, code in zip(weights, found.codes, strict=True):
            inside = tf.cast(tf.equal(code, FORWARD), tf.float32)
            is_empty = tf.reduce_mean(inside) <= _LEAST
            threshold = self.threshold(weight.trained)
            reset = tf.where(is_empty, tf.zeros_like(threshold), threshold)
            trained.append({THRESHOLD: reset})
            nonzero = tf.not_equal(weight.theta, 0)
            of_reset = BACKWARD_ONLY + tf.cast(nonzero, tf.uint8)
            codes.append(tf.where(is_empty, of_reset, code))
        return found._replace(codes=codes, trained=trained)

    def alpha(
        self, theta: tf.Tensor, sets: tf.Tensor, trained: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        threshold = tf.cast(self.threshold(trained), theta.dtype)
        return theta * _step(tf.abs(theta) - threshold)

    def penalty(
        self,
        theta: tf.Tensor,
        sets: tf.Tensor,
        density: tf.Tensor,
        trained: Mapping[str, tf.Tensor],
    ) -> tf.Tensor | None:
        if not self.penalty_coefficient:
            return None
        return self.penalty_coefficient * tf.reduce_sum(tf.exp(-trained[THRESHOLD]))


@tf.custom_gradient
def _step(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """1 where x > 0, else 0, with the long-tailed estimate of its derivative."""
    size = tf.abs(x)
    slope = tf.where(size <= 1, 0.4 * tf.ones_like(x), tf.zeros_like(x))
    slope = tf.where(size <= 0.4, 2 - 4 * size, slope)
    return tf.cast(x > 0, x.dtype), lambda upstream: upstream * slope
