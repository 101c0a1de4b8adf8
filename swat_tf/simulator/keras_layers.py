"""Keras layers as layers of the simulator: shapes of kernels, strides, padding."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras

from swat_tf.simulator.layers import Layer
from topkast_tf.compat import layers_within
from topkast_tf.layers.products import MatrixProduct, einsum_as_matrix

_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)
_MATRICES = (keras.layers.Dense, keras.layers.EinsumDense)
_KNOWN = (*_CONVOLUTIONS, *_DEPTHWISE, *_MATRICES)
# Subclasses of convolutions: two kernels, or the strides the other way round.
_OTHERS = (
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_MULTIPLIES = ("kernel", "depthwise_kernel", "recurrent_kernel", "pointwise_kernel")


def multiplying(model: Any) -> Iterator[Any]:
    """The layers of a model that are simulated: dense ones and convolutions.

    Raises:
      ValueError: for a layer with a kernel that multiplies in another way, has channels
        first or is quantized.
    """
    for layer in layers_within(model):
        is_known = isinstance(layer, _KNOWN) and not isinstance(layer, _OTHERS)
        if is_known and (not isinstance(layer, _MATRICES) or _matrix(layer)):
            _check_settings(layer)
            yield layer
        elif any(getattr(layer, name, None) is not None for name in _MULTIPLIES):
            raise ValueError(
                "Expected a model of dense and convolution layers, plain, with groups or "
                f"depthwise. Received: {type(layer).__name__} {layer.name!r}"
            )


def _check_settings(layer: Any) -> None:
    """Raises for settings of a layer that change what it multiplies."""
    named = f"{type(layer).__name__} {layer.name!r}"
    order = getattr(layer, "data_format", "channels_last")
    if order != "channels_last":
        raise ValueError(f"Expected channels last. Received: {order} of {named}")
    mode = getattr(layer, "quantization_mode", None)
    if mode is not None:
        raise ValueError(
            "Expected a model that can be trained, without quantized kernels. "
            f"Received: {named} in {mode}"
        )


def path_of(layer: Any) -> str:
    """The path of a layer's kernel; its name if the kernel is made from packed values."""
    return getattr(layer.kernel, "path", layer.name)


def kernel_shape(layer: Any) -> tuple[int, ...]:
    """(window..., input channels of a group, filters) of the kernel of a layer."""
    shape = tuple(layer.kernel.shape)
    matrix = _matrix(layer)
    if matrix is not None:
        return (1, *matrix.matrix_of(shape))
    if isinstance(layer, _DEPTHWISE):
        *window, channels, filters = shape
        return (*window, 1, channels * filters)
    return shape


def layer_on(layer: Any, shape: tuple[int | None, ...], examples: int | None) -> Layer:
    """What a layer computes when it is called with an input of a shape.

    Args:
      layer: one of `multiplying`.
      shape: of its input, the batch first.
      examples: those of the batch, among which the rows of a matrix are shared out, also
        where its input has no axis for the batch; None: the first axis is the batch.

    Raises:
      ValueError: for an input of unknown size, and for one whose rows are not those of
        whole examples.
    """
    name, kernel = path_of(layer), kernel_shape(layer)
    if any(size is None for size in shape[1:]):
        raise ValueError(
            f"Expected an input of a known size. Received: {shape} of {name!r}"
        )
    matrix = _matrix(layer)
    if matrix is not None:
        rows = math.prod(shape[1 : len(shape) - matrix.input_axes])  # type: ignore
        if examples is not None:
            rows *= shape[0] or 0
            _check_batch(rows > 0 and not rows % examples, shape, name)
            rows //= examples
        return Layer.dense(name, kernel[1], kernel[2], rows)
    _check_batch(examples in (None, shape[0]), shape, name)
    axes = len(kernel) - 2
    strides, dilation = (
        (given,) * axes if isinstance(given, int) else tuple(given)
        for given in (layer.strides, layer.dilation_rate)
    )
    groups = layer.kernel.shape[-2] if isinstance(layer, _DEPTHWISE) else layer.groups
    spatial: tuple[int, ...] = tuple(size for size in shape[1:-1] if size is not None)
    padding = _padding(layer.padding, spatial, kernel[:-2], strides, dilation)
    return Layer(name, kernel, spatial, strides, dilation, padding, groups)


def _matrix(layer: Any) -> MatrixProduct | None:
    """The product of a dense layer; None for a convolution, and an einsum of no matrix."""
    if isinstance(layer, keras.layers.EinsumDense):
        return einsum_as_matrix(layer.equation)
    return MatrixProduct(1, 1) if isinstance(layer, keras.layers.Dense) else None


def _check_batch(is_whole: bool, shape: tuple[int | None, ...], name: str) -> None:
    if not is_whole:
        raise ValueError(
            "Expected each layer to be called with the examples of the batch first. "
            f"Received: an input of the shape {shape} of {name!r}"
        )


def _padding(
    kind: str,
    sizes: tuple[int, ...],
    window: tuple[int, ...],
    strides: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[tuple[int, int], ...]:
    """The padding of TensorFlow: as many zeros as the last window needs, half in front."""
    found = []
    for size, taps, stride, rate in zip(sizes, window, strides, dilation, strict=True):
        reach = rate * (taps - 1)
        if kind == "causal":
            found.append((reach, 0))
        elif kind == "same":
            missing = max(0, (-(-size // stride) - 1) * stride + reach + 1 - size)
            found.append((missing // 2, missing - missing // 2))
        else:
            found.append((0, 0))
    return tuple(found)
