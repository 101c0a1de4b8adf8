"""STR: a soft threshold for each weight, trained with it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import tensorflow as tf

from topkast_tf.core.blocks import MatrixView
from topkast_tf.methods.base import Products, TrainedVariable
from topkast_tf.methods.learned import THRESHOLD, Learned
from topkast_tf.methods.registry import register


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class STR(Learned):
    """Soft threshold weight reparameterization (Kusupati et al. 2020). Dense-to-sparse.

    With a trained scalar s for each weight::

        alpha = sign(theta) relu(|theta| - sigmoid(s))
        loss += decay / 2 * s^2

    Gradients reach theta on A, and s, through both factors. s begins far below zero, where
    its gradient vanishes, and its decay raises it: how sparse a network becomes follows
    from `initial_threshold`, `decay`, the learning rate and the length of training
    together. A `weight_decay` of the optimizer decays s a second time: exclude it
    (``optimizer.exclude_from_weight_decay(var_names=["threshold"])``), or give ``decay=0``.
    The densest moment of a run is its beginning, with no zeros.

    State: s, and the mean of the density. Slots: of every entry, and of s.

    Attributes:
      initial_threshold: the first value of s.
      decay: of s, at least 0; the authors give it, and theta, that of their optimizer.
      sparsity: as in `Learned`.

    Raises:
      ValueError: for an argument out of range.

    >>> import keras
    >>> from topkast_tf import sparse_scope
    >>> with sparse_scope("str", initial_threshold=-3200.0, decay=2.25e-5):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])

    Source: `conv_type.py` and the configurations of the authors' code: s = -3200 and
    2.2517578e-5 give 90.23 % of ResNet-50 in 100 epochs of ImageNet at a rate of 0.256;
    MobileNet has s = -12800. Departs from it in that the decay of s is a term of the loss.
    """

    name: ClassVar[str] = "str"

    initial_threshold: float = -3200.0
    decay: float = 2.2517578e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        for argument in ("initial_threshold", "decay"):
            value = getattr(self, argument)
            if not isinstance(value, float | int) or not math.isfinite(value):
                raise ValueError(
                    f"`{argument}` must be a finite number. "
                    f"Received: {argument}={value!r}"
                )
        if self.decay < 0:
            raise ValueError(
                f"`decay` must be at least 0. Received: decay={self.decay!r}"
            )

    @property
    def has_penalty(self) -> bool:  # type: ignore[override]
        return self.decay > 0

    def mean_products(self, fwd: float, bwd: float) -> Products:
        # Outside A neither theta nor s has a gradient.
        return Products(fwd, fwd, fwd)

    def thresholds(self, view: MatrixView) -> Mapping[str, TrainedVariable]:
        return {THRESHOLD: TrainedVariable((), float(self.initial_threshold))}

    def threshold(self, trained: Mapping[str, tf.Tensor]) -> tf.Tensor:
        return tf.sigmoid(trained[THRESHOLD])

    def alpha(
        self, theta: tf.Tensor, sets: tf.Tensor, trained: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        threshold = tf.cast(self.threshold(trained), theta.dtype)
        return tf.sign(theta) * tf.nn.relu(tf.abs(theta) - threshold)

    def penalty(
        self,
        theta: tf.Tensor,
        sets: tf.Tensor,
        density: tf.Tensor,
        trained: Mapping[str, tf.Tensor],
    ) -> tf.Tensor | None:
        if not self.decay:
            return None
        return self.decay / 2 * tf.square(trained[THRESHOLD])
