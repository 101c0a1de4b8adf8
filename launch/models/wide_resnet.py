"""Wide residual networks for small images."""

from collections.abc import Sequence

import keras
from keras import layers

from launch.models import blocks

STEM = 16
STAGES = (16, 32, 64)
DROPOUT = 0.3


def wide_resnet(
    depth: int,
    k: int,
    image_shape: Sequence[int],
    classes: int,
    width: float = 1.0,
) -> keras.Model:
    """WRN-d-k, a residual network with few wide layers, a Keras Functional model.

    y = x + conv(dropout(ReLU(BN(conv(ReLU(BN(x))))))), d = 6 * n + 4 with n such blocks
    in each stage of 16 k, 32 k and 64 k channels, and dropout rate 0.3; each stage after
    the first halves the image. Where the shape changes, x is conv1x1(ReLU(BN(x))) with
    the first BN and ReLU of the block, so these convolutions count in the depth.

    Layers are named `stem_conv`, `stage{1..3}_block{n}_{a,b}_bn`, `_relu` and `_conv`,
    `stage{1..3}_block{n}_dropout`, `_shortcut_conv` and `_add`, `last_bn`, `last_relu`,
    `logits`; see `blocks`.

    Args:
      depth: d, 10, 16, 22, 28, ...
      k: the widening factor, at least 1.
      image_shape: (height, width, channels) of the images; 32x32 images end as 8x8.
      classes: number of outputs.
      width: a further factor on k, above 0; the stem always has 16 channels.

    Returns:
      A model from images to logits (float32 whatever the compute dtype). WRN-16-8 with
      10 classes has 10,961,370 parameters, 10.95M of them in kernels (the figure that
      SWAT's sparsities refer to), and 1548M multiply-adds for a 32x32 image; WRN-28-10
      36,479,194 parameters.

    Raises:
      ValueError: for a depth that is not 6 * n + 4, or a k below 1.

    Source: Zagoruyko and Komodakis 2016, block B(3, 3), convolutions without bias. As in
    Raihan and Aamodt 2020 (SWAT), convolutions start with He's fan-out and the kernel of
    the classifier as U(-b, b), b = 1 / sqrt(fan_in). Departs from it in the side of the
    padding: at stride 2 it is below and right, as in Keras.
    """
    count, rest = divmod(depth - 4, 6)
    if count < 1 or rest:
        raise ValueError(f"Expected a depth of 6 * n + 4. Received: depth={depth}")
    if k < 1:
        raise ValueError(f"Expected a widening factor of at least 1. Received: k={k}")
    inputs = keras.Input(tuple(image_shape), name="image")
    x = _conv(inputs, STEM, 3, 1, "stem")
    for stage, filters in enumerate(STAGES, start=1):
        for block in range(1, count + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            name = f"stage{stage}_block{block}"
            x = _block(x, blocks.scaled(filters * k, width), stride, name)
    x = blocks.norm_relu(x, "last")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    y = blocks.logits(x, classes, blocks.fan_in_uniform())
    return keras.Model(inputs, y, name=f"wrn{depth}_{k}")


def _conv(x, filters: int, size: int, stride: int, name: str):
    return blocks.conv(x, filters, size, stride, name, initializer=blocks.he_fan_out)


def _block(x, filters: int, stride: int, name: str):
    active = blocks.norm_relu(x, f"{name}_a")
    y = _conv(active, filters, 3, stride, f"{name}_a")
    y = blocks.norm_relu(y, f"{name}_b")
    y = layers.Dropout(DROPOUT, name=f"{name}_dropout")(y)
    y = _conv(y, filters, 3, 1, f"{name}_b")
    if stride != 1 or x.shape[-1] != filters:
        x = _conv(active, filters, 1, stride, f"{name}_shortcut")
    return layers.Add(name=f"{name}_add")([x, y])
