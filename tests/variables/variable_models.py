"""A model that traces quickly, for tests of its weights."""

import keras
from keras import layers

import topkast_tf as tk


def two_kernels(**scope):
    """A convolution and a dense layer for `digits`."""
    with tk.topkast_scope(**{"fwd": 0.8, "bwd": 0.5, **scope}):
        return keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.Conv2D(4, 3, activation="relu"),
                layers.Flatten(),
                layers.Dense(10),
            ]
        )
