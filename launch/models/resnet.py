"""Residual networks for small images."""

from collections.abc import Sequence

import keras
from keras import layers

from launch.models import blocks

STAGES = (16, 32, 64)


def resnet(
    depth: int, image_shape: Sequence[int], classes: int, width: float = 1.0
) -> keras.Model:
    """A residual network of three stages, a Keras Functional model.

    y = ReLU(x + BN(conv(ReLU(BN(conv(x)))))), depth = 6 * n + 2 with n such blocks in
    each stage of 16, 32 and 64 channels; each stage after the first halves the image.

    Args:
      depth: layers with weights along the longest path: 8, 14, 20, 26, 32, ...
      image_shape: (height, width, channels) of the images; 8x8 images end as 2x2.
      classes: number of outputs.
      width: factor on the number of channels of every stage, above 0.

    Returns:
      A model from images to logits (float32 whatever the compute dtype).

    Raises:
      ValueError: for a depth that is not 6 * n + 2.

    Source: He et al. 2016, section 4.2; convolutions without bias, He initialisation,
    ReLU. Departs from it in the shortcut: where the shape changes, it is a 1x1
    convolution with BN (their option B), not a zero-padded copy (option A), so that the
    model consists of standard layers. This adds 2,752 parameters to ResNet-20.
    """
    count, rest = divmod(depth - 2, 6)
    if count < 1 or rest:
        raise ValueError(f"Expected a depth of 6 * n + 2. Received: depth={depth}")
    inputs = keras.Input(tuple(image_shape), name="image")
    x = _conv_norm(inputs, blocks.scaled(STAGES[0], width), 3, 1, "stem")
    x = layers.ReLU(name="stem_relu")(x)
    for stage, filters in enumerate(STAGES, start=1):
        for block in range(1, count + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            name = f"stage{stage}_block{block}"
            channels = blocks.scaled(filters, width)
            x = blocks.basic_block(x, channels, stride, name, _conv_norm)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, blocks.logits(x, classes), name=f"resnet{depth}")


def _conv_norm(x, filters: int, size: int, stride: int, name: str):
    initializer = keras.initializers.HeNormal
    x = blocks.conv(x, filters, size, stride, name, initializer=initializer)
    return blocks.norm(x, name)
