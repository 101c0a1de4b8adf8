"""The launcher with two more image models, of three kernels, which trace quickly.

`plain` has no batch normalisation; `normed` has it, as larger models do.
"""

import pathlib
import sys

if __name__ == "__main__":
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

from launch import models, train


def plain(image_shape, classes, width=1.0, normed=False):
    """Two convolutions and a dense layer."""
    import keras
    from keras import layers

    inputs = x = keras.Input(tuple(image_shape))
    for i, filters in enumerate((8, 16)):
        x = layers.Conv2D(filters, 3, strides=2, activation="relu", name=f"conv{i}")(x)
        if normed:
            x = layers.BatchNormalization(name=f"norm{i}")(x)
    return keras.Model(
        inputs, layers.Dense(classes, name="logits")(layers.Flatten()(x))
    )


def normed(image_shape, classes, width=1.0):
    """As `plain`, with batch normalisation."""
    return plain(image_shape, classes, width, normed=True)


def register():
    """Makes `--model=plain` and `--model=normed` known in this process."""
    models.MODELS |= {"plain": plain, "normed": normed}


if __name__ == "__main__":
    register()
    sys.exit(train.main(sys.argv))
