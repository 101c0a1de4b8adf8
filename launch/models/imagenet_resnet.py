"""Residual networks for large images, with basic or bottleneck blocks."""

from collections.abc import Sequence

import keras
from keras import layers

from launch.models import blocks

STAGES = (64, 128, 256, 512)

# Blocks in each stage; the deeper networks use bottlenecks.
BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
BOTTLENECK = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def imagenet_resnet(
    depth: int,
    inner_width: int,
    image_shape: Sequence[int],
    classes: int,
    width: float = 1.0,
) -> keras.Model:
    """A residual network of four stages, a Keras Functional model.

    Depths 18 and 34, with f = 64, 128, 256 and 512 channels in the stages::

        y = ReLU(x + BN(conv3x3(ReLU(BN(conv3x3(x))))))

    Depths 50, 101 and 152, with 4 f channels, and inner_width * f inside a block::

        y = ReLU(x + BN(conv1x1(ReLU(BN(conv3x3(ReLU(BN(conv1x1(x)))))))))

    The stem is a 7x7 convolution and a 3x3 max pool, each of stride 2. Each stage after
    the first halves the image by the stride of the first 3x3 convolution of its first
    block. The last gamma of each block starts at 0, so that the network starts as its
    shortcuts: y = ReLU(x).

    Layers are named `stem_conv`, `stage{1..4}_block{n}_{a,b,c,shortcut}_conv` (`c` in
    bottlenecks only) with `_bn` and `_relu` after it, `logits`; see `blocks`. Before a
    convolution or pool of stride 2 there is a layer `_pad`.

    Args:
      depth: 18, 34, 50, 101 or 152: layers with weights along the longest path.
      inner_width: factor on the channels inside a bottleneck: 1, or 2 for the wide
        network; 1 for basic blocks.
      image_shape: (height, width, channels) of the images; 224x224 images end as 7x7.
      classes: number of outputs.
      width: factor on the number of channels of every stage, above 0.

    Returns:
      A model from images to logits (float32 whatever the compute dtype). At width 1,
      224x224 images and 1000 classes:

      ========= ========== =============
      name      parameters multiply-adds
      ========= ========== =============
      resnet18  11,689,512 1.814G
      resnet34  21,797,672 3.664G
      resnet50  25,557,032 4.089G
      resnet101 44,549,160 7.801G
      resnet152 60,192,808 11.514G
      wrn50_2   68,883,240 11.398G
      ========= ========== =============

    Raises:
      ValueError: for another depth, or an inner width other than 1 with basic blocks.

    Source: He et al. 2016, table 1, with option B shortcuts; wide: Zagoruyko and
    Komodakis 2016. Departs from them as is common today: the stride of a bottleneck is in
    its 3x3 convolution, not in its first 1x1 ("v1.5"); gammas that start at 0 and a
    classifier from N(0, 0.01^2) follow Goyal et al. 2017, section 5.1. He initialisation
    by fan-out. Padding is explicit and equal on all sides, as in the published weights;
    Keras's own `"same"` pads less at the top and left at stride 2. The sparsity of SWAT
    activations of such a layer therefore refers to the padded images.
    """
    counts = (BASIC | BOTTLENECK).get(depth)
    if counts is None:
        raise ValueError(
            f"Expected a depth of 18, 34, 50, 101 or 152. Received: depth={depth}"
        )
    if depth in BASIC and inner_width != 1:
        raise ValueError(
            "Expected an inner width of 1: basic blocks have no bottleneck. "
            f"Received: depth={depth}, inner_width={inner_width}"
        )
    inputs = keras.Input(tuple(image_shape), name="image")
    x = _stem(inputs, blocks.scaled(STAGES[0], width))
    for stage, (filters, count) in enumerate(zip(STAGES, counts, strict=True), start=1):
        for block in range(1, count + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            name = f"stage{stage}_block{block}"
            outer = blocks.scaled(filters, width)
            if depth in BASIC:
                x = _basic(x, outer, stride, name)
            else:
                inner = blocks.scaled(filters * inner_width, width)
                x = _bottleneck(x, inner, 4 * outer, stride, name)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    # A new initializer for this layer only: see `blocks.conv`.
    classifier = keras.initializers.RandomNormal(stddev=0.01)
    name = f"resnet{depth}" if inner_width == 1 else f"wrn{depth}_{inner_width}"
    return keras.Model(inputs, blocks.logits(x, classes, classifier), name=name)


def _stem(x, filters: int):
    x = _conv_norm(x, filters, 7, 2, "stem")
    x = layers.ReLU(name="stem_relu")(x)
    # The outputs of a ReLU are at least 0, so that padding does not change the maximum.
    x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
    return layers.MaxPooling2D(3, 2, name="stem_pool")(x)


def _conv_norm(x, filters: int, size: int, stride: int, name: str, gamma="ones"):
    padding = "same"
    if stride > 1 and size > 1:
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    x = blocks.conv(
        x,
        filters,
        size,
        stride,
        name,
        initializer=blocks.he_fan_out,
        padding=padding,
    )
    return blocks.norm(x, name, gamma)


def _basic(x, filters: int, stride: int, name: str):
    y = _conv_norm(x, filters, 3, stride, f"{name}_a")
    y = layers.ReLU(name=f"{name}_a_relu")(y)
    y = _conv_norm(y, filters, 3, 1, f"{name}_b", gamma="zeros")
    return blocks.residual(x, y, stride, name, _conv_norm)


def _bottleneck(x, inner: int, outer: int, stride: int, name: str):
    y = _conv_norm(x, inner, 1, 1, f"{name}_a")
    y = layers.ReLU(name=f"{name}_a_relu")(y)
    y = _conv_norm(y, inner, 3, stride, f"{name}_b")
    y = layers.ReLU(name=f"{name}_b_relu")(y)
    y = _conv_norm(y, outer, 1, 1, f"{name}_c", gamma="zeros")
    return blocks.residual(x, y, stride, name, _conv_norm)
