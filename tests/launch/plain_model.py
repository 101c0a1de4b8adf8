"""The launcher with one image model more, `plain`, which has no batch normalisation."""

import pathlib
import sys

if __name__ == "__main__":
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

from launch import models, train


def plain(image_shape, classes, width=1.0):
    """Two convolutions and a dense layer."""
    import keras
    from keras import layers

    inputs = x = keras.Input(tuple(image_shape))
    for i, filters in enumerate((8, 16)):
        x = layers.Conv2D(filters, 3, strides=2, activation="relu", name=f"conv{i}")(x)
    return keras.Model(
        inputs, layers.Dense(classes, name="logits")(layers.Flatten()(x))
    )


def register():
    """Makes `--model=plain` known in this process."""
    models.MODELS["plain"] = plain


if __name__ == "__main__":
    register()
    sys.exit(train.main(sys.argv))
