"""ResNet-18 with a stem for small images, as in the experiments of SWAT."""

from collections.abc import Sequence

import keras
from keras import layers

from launch.models import blocks
from launch.models.imagenet_resnet import BASIC, STAGES


def cifar_resnet(
    depth: int, image_shape: Sequence[int], classes: int, width: float = 1.0
) -> keras.Model:
    """ResNet-18 or 34 with a 3x3 stem and no max pool, a Keras Functional model.

    y = ReLU(x + BN(conv(ReLU(BN(conv(x)))))) in four stages of 64, 128, 256 and 512
    channels; each stage after the first halves the image.

    Layers are named `stem_conv`, `stage{1..4}_block{n}_{a,b,shortcut}_conv` with `_bn`
    and `_relu` after it, `logits`; see `blocks`.

    Args:
      depth: 18 or 34: layers with weights along the longest path.
      image_shape: (height, width, channels) of the images; 32x32 images end as 4x4.
      classes: number of outputs.
      width: factor on the number of channels of every stage, above 0.

    Returns:
      A model from images to logits (float32 whatever the compute dtype). ResNet-18 at
      width 1 with 10 classes has 11,178,762 parameters, 11.16M of them in kernels, and
      555M multiply-adds for a 32x32 image.

    Raises:
      ValueError: for another depth.

    Source: Raihan and Aamodt 2020 (SWAT), from He et al. 2016. As in SWAT, convolutions
    have a bias although a norm follows, and kernels start as U(-b, b),
    b = 1 / sqrt(fan_in). Departs from it in the biases, which start at 0, and in the side
    of the padding: at stride 2 it is below and right, as in Keras.
    """
    if depth not in BASIC:
        raise ValueError(f"Expected a depth of 18 or 34. Received: depth={depth}")
    inputs = keras.Input(tuple(image_shape), name="image")
    x = _conv_norm(inputs, blocks.scaled(STAGES[0], width), 3, 1, "stem")
    x = layers.ReLU(name="stem_relu")(x)
    stages = zip(STAGES, BASIC[depth], strict=True)
    for stage, (filters, count) in enumerate(stages, start=1):
        for block in range(1, count + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            name = f"stage{stage}_block{block}"
            channels = blocks.scaled(filters, width)
            x = blocks.basic_block(x, channels, stride, name, _conv_norm)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    y = blocks.logits(x, classes, blocks.fan_in_uniform())
    return keras.Model(inputs, y, name=f"resnet{depth}_cifar")


def _conv_norm(x, filters: int, size: int, stride: int, name: str):
    x = blocks.conv(
        x,
        filters,
        size,
        stride,
        name,
        initializer=blocks.fan_in_uniform,
        bias=True,
    )
    return blocks.norm(x, name)
