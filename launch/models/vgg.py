"""VGG-16 for small images, as in the experiments of SWAT."""

from collections.abc import Sequence

import keras
from keras import layers

from launch.models import blocks

# Channels and number of convolutions of each stage.
STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
HIDDEN = 4096
DROPOUT = 0.5


def vgg16(image_shape: Sequence[int], classes: int, width: float = 1.0) -> keras.Model:
    """Thirteen convolutions and three dense layers, a Keras Functional model.

    y = ReLU(BN(conv(x))) in five stages of 64, 128, 256, 512 and 512 channels, each
    followed by a 2x2 max pool; then twice y = dropout(ReLU(dense(x))) with 4096 units and
    rate 0.5, and the logits.

    Layers are named `stage{1..5}_block{n}_conv`, `_bn` and `_relu`, `stage{1..5}_pool`,
    `hidden{1,2}`, `hidden{1,2}_relu` and `_dropout`, `logits`; see `blocks`.

    Args:
      image_shape: (height, width, channels) of the images; 32x32 images end as 1x1,
        larger ones are averaged, smaller ones are 1x1 before the last pool.
      classes: number of outputs.
      width: factor on the number of channels of every stage and of hidden units, above
        0.

    Returns:
      A model from images to logits (float32 whatever the compute dtype). At width 1
      with 10 classes it has 33,646,666 parameters, 33.63M of them in kernels (the
      figure that SWAT's sparsities refer to), and 332M multiply-adds for a 32x32 image.

    Source: Simonyan and Zisserman 2015, configuration D, in the form of Raihan and
    Aamodt 2020 (SWAT): BN after each convolution, which keeps its bias, and 512 inputs
    of the dense layers; kernels start as U(-b, b), b = 1 / sqrt(fan_in). Departs from
    it in the biases, which start at 0.
    """
    inputs = x = keras.Input(tuple(image_shape), name="image")
    for stage, (filters, count) in enumerate(STAGES, start=1):
        for block in range(1, count + 1):
            name = f"stage{stage}_block{block}"
            x = _block(x, blocks.scaled(filters, width), name)
        # "same" leaves a 1x1 image unchanged, so that no image is too small.
        x = layers.MaxPooling2D(2, padding="same", name=f"stage{stage}_pool")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    for name in ("hidden1", "hidden2"):
        x = _hidden(x, blocks.scaled(HIDDEN, width), name)
    y = blocks.logits(x, classes, blocks.fan_in_uniform())
    return keras.Model(inputs, y, name="vgg16_cifar")


def _block(x, filters: int, name: str):
    x = blocks.conv(
        x, filters, 3, 1, name, initializer=blocks.fan_in_uniform, bias=True
    )
    return blocks.norm_relu(x, name)


def _hidden(x, units: int, name: str):
    kernel = blocks.fan_in_uniform()
    x = layers.Dense(units, kernel_initializer=kernel, name=name)(x)
    x = layers.ReLU(name=f"{name}_relu")(x)
    return layers.Dropout(DROPOUT, name=f"{name}_dropout")(x)
