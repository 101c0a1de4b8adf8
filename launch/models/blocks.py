"""The components of the image models: convolutions, norms, residual blocks.

A layer is named by its place: `stage2_block1_a_conv` is the first (`a`) convolution of
the first block of the second stage. The names end in the type of the layer (`_conv`,
`_bn`, `_relu`), so that a regex can select, for example, all shortcuts (`shortcut_conv`)
or the last stage (`stage4_.*conv`). They must not change, because flagfiles and
checkpoints contain them.
"""

from collections.abc import Callable

import keras
from keras import layers


def scaled(filters: float, width: float) -> int:
    """Channels at a width: filters * width, rounded, at least 1.

    >>> scaled(64, 0.25), scaled(16, 0.01)
    (16, 1)
    """
    return max(1, round(filters * width))


def he_fan_out() -> keras.initializers.Initializer:
    """N(0, 2 / fan_out), fan_out = height * width * filters of a kernel.

    He et al. 2015, the form that keeps the variance of gradients.
    """
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def fan_in_uniform() -> keras.initializers.Initializer:
    """U(-b, b) with b = 1 / sqrt(fan_in), the default of PyTorch."""
    return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


def conv(
    x: keras.KerasTensor,
    filters: int,
    size: int,
    stride: int,
    name: str,
    *,
    initializer: Callable[[], keras.initializers.Initializer],
    bias: bool = False,
    padding: str = "same",
) -> keras.KerasTensor:
    """A square convolution, `{name}_conv`.

    Args:
      x: images, (batch, height, width, channels).
      filters: channels of the output.
      size: side of the kernel.
      stride: the same in both directions.
      name: the place.
      initializer: creates the initializer of the kernel. It is called for each layer,
        because two layers with the same initializer start from equal numbers.
      bias: whether there is a bias; it starts at 0.
      padding: as in `keras.layers.Conv2D`.
    """
    return layers.Conv2D(
        filters,
        size,
        strides=stride,
        padding=padding,
        use_bias=bias,
        kernel_initializer=initializer(),
        name=f"{name}_conv",
    )(x)


def norm(x: keras.KerasTensor, name: str, gamma: str = "ones") -> keras.KerasTensor:
    """A batch norm, `{name}_bn`, of momentum 0.9 and epsilon 1e-5.

    All families use this momentum, which is that of the published models (0.1 in PyTorch's
    terms). Keras's default of 0.99 needs hundreds of steps before an evaluation is
    meaningful, more than short runs have.

    Args:
      x: images, (batch, height, width, channels).
      name: the place.
      gamma: initializer of the scale, `"ones"` or `"zeros"`.
    """
    return layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, gamma_initializer=gamma, name=f"{name}_bn"
    )(x)


def norm_relu(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """ReLU(BN(x)): `{name}_bn`, `{name}_relu`."""
    return layers.ReLU(name=f"{name}_relu")(norm(x, name))


def residual(
    x: keras.KerasTensor,
    y: keras.KerasTensor,
    stride: int,
    name: str,
    conv_norm: Callable[..., keras.KerasTensor],
) -> keras.KerasTensor:
    """ReLU(x + y), with a 1x1 convolution and BN on x if the shapes differ.

    The layers are `{name}_shortcut_conv` and `_bn` if needed, `{name}_add` and
    `{name}_relu`.

    Args:
      x: the input of the block.
      y: the output of its branch.
      stride: stride of the branch.
      name: the place.
      conv_norm: `(x, filters, size, stride, name)`, the family's convolution and BN.
    """
    if stride != 1 or x.shape[-1] != y.shape[-1]:
        x = conv_norm(x, y.shape[-1], 1, stride, f"{name}_shortcut")
    y = layers.Add(name=f"{name}_add")([x, y])
    return layers.ReLU(name=f"{name}_relu")(y)


def basic_block(
    x: keras.KerasTensor,
    filters: int,
    stride: int,
    name: str,
    conv_norm: Callable[..., keras.KerasTensor],
) -> keras.KerasTensor:
    """ReLU(x + BN(conv(ReLU(BN(conv(x)))))) with two 3x3 convolutions, `a` and `b`.

    Args:
      x: images, (batch, height, width, channels).
      filters: channels of the output.
      stride: stride of the first convolution.
      name: the place.
      conv_norm: as for `residual`.
    """
    y = conv_norm(x, filters, 3, stride, f"{name}_a")
    y = layers.ReLU(name=f"{name}_a_relu")(y)
    y = conv_norm(y, filters, 3, 1, f"{name}_b")
    return residual(x, y, stride, name, conv_norm)


def logits(
    x: keras.KerasTensor, classes: int, initializer="glorot_uniform"
) -> keras.KerasTensor:
    """The classifier, `logits`: float32 whatever the compute dtype."""
    return layers.Dense(
        classes, kernel_initializer=initializer, dtype="float32", name="logits"
    )(x)
