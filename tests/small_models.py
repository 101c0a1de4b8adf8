"""Small sparse models that tests of several folders share."""

import keras
from keras import layers

import topkast_tf as tk


def scope(**arguments):
    """Top-KAST's scope, 0.9 and 0.8 if not said otherwise."""
    return tk.topkast_scope(**{"fwd": 0.9, "bwd": 0.8, **arguments})


def three_layers():
    """Kernels of 600, 600 and 200 entries."""
    return keras.Sequential(
        [keras.Input((20,)), *(layers.Dense(n, name=f"d{n}") for n in (30, 20, 10))]
    )
