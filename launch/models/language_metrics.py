"""Metrics of language models, in the units of the papers."""

import math

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("launch")
class NegativeLogLikelihood(keras.metrics.Mean):
    """The mean negative log-likelihood of a token, in nats.

    ``nll = sum(weight * -log p(token)) / sum(weight)``

    Updated with values of shape [batch, length] and optional weights of the same shape.
    """

    def __init__(self, name: str = "nll", **kwargs):
        super().__init__(name, **kwargs)


@keras.saving.register_keras_serializable("launch")
class TokenLoss(keras.metrics.Mean):
    """The mean of the losses of batches, weighted by their number of tokens.

    Keras's own `loss` weights each batch by its rows, so that a last batch padded with
    zeros would have the weight of a full one.

    ``loss = sum(tokens * loss of the batch) / sum(tokens)``

    Updated with the loss of a batch and the sum of the weights of its tokens.

    >>> metric = TokenLoss()
    >>> metric.update_state(2.0, 3), metric.update_state(4.0, 1)
    (None, None)
    >>> float(metric.result())
    2.5
    """

    def __init__(self, name: str = "loss", **kwargs):
        super().__init__(name, **kwargs)


@keras.saving.register_keras_serializable("launch")
class BitsPerCharacter(NegativeLogLikelihood):
    """``nll / ln 2`` per token, which is a character in a character-level model.

    >>> metric = BitsPerCharacter()
    >>> metric.update_state([[math.log(2), math.log(8)]])
    >>> round(float(metric.result()), 3)
    2.0
    """

    def __init__(self, name: str = "bpc", **kwargs):
        super().__init__(name, **kwargs)

    def result(self):
        return super().result() / math.log(2)


@keras.saving.register_keras_serializable("launch")
class Perplexity(NegativeLogLikelihood):
    """``exp(nll)`` of the mean over all tokens, not the mean of exponentials.

    >>> metric = Perplexity()
    >>> metric.update_state([[math.log(2), math.log(8)]])
    >>> round(float(metric.result()), 3)
    4.0
    """

    def __init__(self, name: str = "perplexity", **kwargs):
        super().__init__(name, **kwargs)

    def result(self):
        return tf.exp(super().result())
