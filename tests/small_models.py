"""Small sparse models shared by tests of several folders."""

import keras
import numpy as np
from keras import layers

import topkast_tf as tk

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def scope(**arguments):
    """Top-KAST's scope, 0.9 and 0.8 if not said otherwise."""
    return tk.topkast_scope(**{"fwd": 0.9, "bwd": 0.8, **arguments})


def three_layers():
    """Kernels of 600, 600 and 200 entries."""
    return keras.Sequential(
        [keras.Input((20,)), *(layers.Dense(n, name=f"d{n}") for n in (30, 20, 10))]
    )


def dense_layer(theta, **scope):
    """One Dense layer without bias, whose theta is given."""
    theta = np.asarray(theta, np.float32)
    with tk.topkast_scope(**scope):
        model = keras.Sequential(
            [
                keras.Input((theta.shape[0],)),
                layers.Dense(theta.shape[1], use_bias=False, name="dense"),
            ]
        )
    model.layers[-1].kernel.assign(theta)
    [weight] = tk.sparse_weights(model)
    return model, weight


def small_model(**scope):
    """A convolution and two dense layers for `digits`."""
    with tk.topkast_scope(**{"fwd": 0.8, "bwd": 0.5, **scope}):
        return keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.Conv2D(4, 3, activation="relu"),
                layers.Flatten(),
                layers.Dense(16, activation="relu"),
                layers.Dense(10),
            ]
        )


def build_optimizer(model):
    """The model, with its optimizer's slots made, so that Keras traces a step once.

    Otherwise Keras makes them while it traces a step, and traces it again. At least one
    test in each file that uses this leaves it to Keras, as users do.
    """
    model.optimizer.build(model.trainable_variables)
    return model


def thetas(model):
    return [weight.dense() for weight in tk.sparse_weights(model)]


def train(model, digits, steps):
    """Takes some steps of SGD; each call starts at the first digits."""
    if not model.compiled:  # else each call would trace the step again
        model.compile(keras.optimizers.SGD(0.05), LOSS)
    for step in range(steps):
        batch = slice(16 * step % 256, 16 * step % 256 + 16)
        model.train_on_batch(digits[0][batch], digits[1][batch])
