"""Densely connected networks for small images, as in the experiments of SWAT."""

from collections.abc import Sequence

import keras
from keras import layers

from launch.models import blocks

GROWTH = 32
COMPRESSION = 0.5


def densenet(
    counts: Sequence[int],
    image_shape: Sequence[int],
    classes: int,
    width: float = 1.0,
) -> keras.Model:
    """A densely connected network with bottlenecks, a Keras Functional model.

    y = concat(x, conv3x3(ReLU(BN(conv1x1(ReLU(BN(x))))))): each block adds 32 channels
    to its input, through a bottleneck of 128. Between stages of such blocks a transition
    halves the channels and the image: y = average2x2(conv1x1(ReLU(BN(x)))). The stem
    is a 3x3 convolution of 64 channels.

    Layers are named `stem_conv`, `stage{n}_block{m}_{a,b}_bn`, `_relu` and `_conv` (`a`
    is 1x1, `b` 3x3), `stage{n}_block{m}_concat`, `transition{n}_bn`, `_relu`, `_conv`
    and `_pool` (after stage n), `last_bn`, `last_relu`, `logits`; see `blocks`.

    Args:
      counts: number of blocks in each stage; (6, 12, 24, 16) is DenseNet-121.
      image_shape: (height, width, channels) of the images; 32x32 images end as 4x4.
      classes: number of outputs.
      width: factor on the growth of 32 channels, and thereby on all others, above 0.

    Returns:
      A model from images to logits (float32 whatever the compute dtype). DenseNet-121
      at width 1 with 10 classes has 6,956,298 parameters, 6.87M of them in kernels (the
      figure that SWAT's sparsities refer to), and 888M multiply-adds for a 32x32 image.

    Source: Huang et al. 2017, DenseNet-BC with growth 32 and compression 0.5, in the
    form of Raihan and Aamodt 2020 (SWAT): the stem has no stride, norm or max pool;
    convolutions without bias; kernels start as U(-b, b), b = 1 / sqrt(fan_in). Departs
    from it in the classifier's bias, which starts at 0.
    """
    growth = blocks.scaled(GROWTH, width)
    inputs = keras.Input(tuple(image_shape), name="image")
    x = _conv(inputs, 2 * growth, 3, "stem")
    for stage, count in enumerate(counts, start=1):
        if stage > 1:
            x = _transition(x, f"transition{stage - 1}")
        for block in range(1, count + 1):
            x = _block(x, growth, f"stage{stage}_block{block}")
    x = blocks.norm_relu(x, "last")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    y = blocks.logits(x, classes, blocks.fan_in_uniform())
    # Two layers per block, one per transition, the stem and the classifier.
    depth = 2 * sum(counts) + len(counts) + 1
    return keras.Model(inputs, y, name=f"densenet{depth}_cifar")


def _conv(x, filters: int, size: int, name: str):
    return blocks.conv(x, filters, size, 1, name, initializer=blocks.fan_in_uniform)


def _block(x, growth: int, name: str):
    y = blocks.norm_relu(x, f"{name}_a")
    y = _conv(y, 4 * growth, 1, f"{name}_a")
    y = blocks.norm_relu(y, f"{name}_b")
    y = _conv(y, growth, 3, f"{name}_b")
    return layers.Concatenate(name=f"{name}_concat")([x, y])


def _transition(x, name: str):
    x = blocks.norm_relu(x, name)
    x = _conv(x, int(x.shape[-1] * COMPRESSION), 1, name)
    return layers.AveragePooling2D(2, padding="same", name=f"{name}_pool")(x)
