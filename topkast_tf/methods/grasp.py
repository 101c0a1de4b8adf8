"""GraSP: keeps the weights that gradient flow through the network needs."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import tensorflow as tf

from topkast_tf.methods.base import Network, Selection
from topkast_tf.methods.before_training import BeforeTraining
from topkast_tf.methods.registry import register


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class GraSP(BeforeTraining):
    """Gradient signal preservation (Wang et al. 2020). Static after one batch.

    With g the gradient and H the Hessian of the loss of the dense network, whose outputs
    are divided by T::

        score = theta * (H g);   A = B = the largest scores, by sign

    `topkast_tf.prune(model, batch)` does it, before training; a step before that is an
    error. The densest moment is that call: the gradient of a gradient.

    State: none but theta and the sets. Slots: those of pruned entries stay zero.

    Attributes:
      temperature: T, above 0.

    Others as in `BeforeTraining`.

    >>> import keras
    >>> from topkast_tf import prune, sparse_scope
    >>> with sparse_scope("grasp", sparsity=0.9, distribution="global"):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])
    >>> model.compile("sgd", "mse")
    >>> prune(model, (tf.ones([8, 20]), tf.zeros([8, 5])))

    Source: the authors' code: T = 200, one threshold for all weights; its batch has 25
    samples of each class, and it initialises the last layer anew before, which is left to
    the caller here, as is the batch.
    """

    name: ClassVar[str] = "grasp"

    temperature: float = 200.0

    def __post_init__(self) -> None:
        super().__post_init__()
        temperature = self.temperature
        if not isinstance(temperature, float | int) or not 0 < temperature < 1e9:
            raise ValueError(
                "`temperature` must be a number above 0. "
                f"Received: temperature={temperature!r}"
            )

    def scores(self, network: Network, weights: Sequence[Selection]) -> list[tf.Tensor]:
        thetas = [tf.convert_to_tensor(weight.theta) for weight in weights]
        with tf.GradientTape() as outer:
            outer.watch(thetas)
            with tf.GradientTape() as inner:
                inner.watch(thetas)
                loss = network.loss(thetas, self.temperature)
            gradients = inner.gradient(loss, thetas, unconnected_gradients="zero")
            # (H g) is the gradient of g'g / 2 with one g held fixed: of <g, stop(g)>.
            product = tf.add_n(
                [tf.reduce_sum(g * tf.stop_gradient(g)) for g in gradients]
            )
        found = outer.gradient(product, thetas, unconnected_gradients="zero")
        return [theta * hg for theta, hg in zip(thetas, found, strict=True)]
