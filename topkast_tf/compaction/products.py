"""Layers that multiply by a kernel: units end here, and new ones begin."""

import abc
from typing import Any

import numpy as np

from topkast_tf.compaction.elementwise import applied, is_elementwise
from topkast_tf.compaction.graph import Call


class Product(abc.ABC):
    """``y = activation(x * kernel + bias)``, of a Dense layer or a convolution.

    Attributes:
      layer: the layer.
      reads: boolean ``[inputs, outputs]``, whether an output depends on an input.
      uneven: why a constant input other than 0 does not add the same to all positions
        of an output; None if it does.
      size_key: the name of its number of outputs in its configuration.
    """

    reads: np.ndarray
    uneven: str | None = None
    size_key = "filters"

    def __init__(self, layer: Any, keras: Any):
        self.layer = layer
        self.mixes = not is_elementwise(layer.activation, keras)

    @abc.abstractmethod
    def gain(self, inputs: np.ndarray) -> np.ndarray:
        """What an output gains from an input of 1: ``[len(inputs), outputs]``.

        Args:
          inputs: numbers of inputs.
        """

    @abc.abstractmethod
    def kernels(self, inputs: np.ndarray, outputs: np.ndarray) -> dict[str, np.ndarray]:
        """The kernels without some units, by attribute.

        Args:
          inputs: boolean, which inputs stay.
          outputs: boolean, which outputs stay.
        """

    def can_fold(self, values: np.ndarray) -> np.ndarray:
        """Boolean ``[inputs]``: whether an input is a constant that its bias can hold.

        Args:
          values: the constant of each input, NaN if it is none.
        """
        return np.isfinite(values) if self.uneven is None else values == 0

    def folded(self, values: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        """The bias, with what constant inputs add: float64 ``[outputs]``.

        Args:
          values: the constant of each input.
          inputs: boolean, which ones are folded.
        """
        bias = np.zeros(self.reads.shape[1])
        if self.layer.use_bias:
            bias += self.layer.bias.numpy()
        nonzero = np.flatnonzero(inputs & np.isfinite(values) & (values != 0))
        if self.uneven is None and nonzero.size:
            bias += values[nonzero] @ self.gain(nonzero).astype(float)
        return bias

    def constants(self, values: np.ndarray) -> np.ndarray:
        """The constant of each output, NaN if it is none.

        Args:
          values: that of each input.
        """
        folds = self.can_fold(values)
        known = ~self.reads[~folds].any(0)
        sums = np.where(known, self.folded(values, folds), np.nan)
        return np.full(sums.shape, np.nan) if self.mixes else self._activated(sums)

    def _activated(self, sums: np.ndarray) -> np.ndarray:
        return applied(self.layer.activation, sums)


class _Dense(Product):
    size_key = "units"

    def __init__(self, layer: Any, keras: Any):
        super().__init__(layer, keras)
        self._kernel = layer.kernel.numpy()
        self.reads = self._kernel != 0

    def gain(self, inputs: np.ndarray) -> np.ndarray:
        return self._kernel[inputs]

    def kernels(self, inputs: np.ndarray, outputs: np.ndarray) -> dict[str, np.ndarray]:
        return {"kernel": self._kernel[inputs][:, outputs]}


class _Convolution(Product):
    def __init__(self, layer: Any, keras: Any):
        super().__init__(layer, keras)
        self._kernel = layer.kernel.numpy()
        self.reads = _over_window(self._kernel != 0, np.any)
        self.uneven = padding_of(layer)

    def gain(self, inputs: np.ndarray) -> np.ndarray:
        return _over_window(self._kernel[..., inputs, :], np.sum)

    def kernels(self, inputs: np.ndarray, outputs: np.ndarray) -> dict[str, np.ndarray]:
        return {"kernel": self._kernel[..., inputs, :][..., outputs]}


class _Transposed(Product):
    uneven = "adds up overlapping windows"

    def __init__(self, layer: Any, keras: Any):
        super().__init__(layer, keras)
        self._kernel = layer.kernel.numpy()  # [..., outputs, inputs]
        self.reads = _over_window(self._kernel != 0, np.any).T

    def gain(self, inputs: np.ndarray) -> np.ndarray:
        raise NotImplementedError  # positions differ

    def kernels(self, inputs: np.ndarray, outputs: np.ndarray) -> dict[str, np.ndarray]:
        return {"kernel": self._kernel[..., outputs, :][..., inputs]}


class _Separable(Product):
    def __init__(self, layer: Any, keras: Any):
        super().__init__(layer, keras)
        self._depthwise = layer.depthwise_kernel.numpy()  # [..., inputs, multiplier]
        pointwise = layer.pointwise_kernel.numpy()
        self._window = pointwise.shape[:-2]
        inputs, multiplier = self._depthwise.shape[-2:]
        self._pointwise = pointwise.reshape(inputs, multiplier, -1)
        reads = _over_window(self._depthwise != 0, np.any)[..., None]
        self.reads = (reads & (self._pointwise != 0)).any(1)
        self.uneven = padding_of(layer)

    def gain(self, inputs: np.ndarray) -> np.ndarray:
        sums = _over_window(self._depthwise[..., inputs, :], np.sum)
        return np.einsum("im,imo->io", sums, self._pointwise[inputs])

    def kernels(self, inputs: np.ndarray, outputs: np.ndarray) -> dict[str, np.ndarray]:
        pointwise = self._pointwise[inputs][..., outputs]
        shape = (*self._window, -1, pointwise.shape[-1])
        return {
            "depthwise_kernel": self._depthwise[..., inputs, :],
            "pointwise_kernel": pointwise.reshape(shape),
        }


def padding_of(layer: Any) -> str | None:
    """That a convolution pads its inputs with zeros, if it does."""
    pads = layer.padding != "valid" and max(layer.kernel_size) > 1
    return "pads with zeros" if pads else None


def _over_window(kernel: np.ndarray, reduce: Any) -> np.ndarray:
    return reduce(kernel, axis=tuple(range(kernel.ndim - 2)))


_KINDS = {
    "Dense": _Dense,
    **{f"Conv{n}D": _Convolution for n in (1, 2, 3)},
    **{f"Conv{n}DTranspose": _Transposed for n in (1, 2, 3)},
    **{f"SeparableConv{n}D": _Separable for n in (1, 2)},
}


def product_of(call: Call, keras: Any) -> Product | None:
    """The product of a call, or None if it is none that units can be removed from."""
    layer = call.layer
    if not is_product(layer, keras) or not call.is_only or why_whole(layer):
        return None
    return _KINDS[type(layer).__name__](layer, keras)


def is_product(layer: Any, keras: Any) -> bool:
    """Whether a layer is a Dense layer or a convolution of Keras itself."""
    name = type(layer).__name__
    return name in _KINDS and type(layer) is getattr(keras.layers, name, None)


def why_whole(layer: Any) -> str | None:
    """Why no unit can be removed from such a layer, or None."""
    if getattr(layer, "data_format", None) == "channels_first":
        return "its channels are first"
    if getattr(layer, "groups", 1) != 1:
        return "it has groups, whose filters are equally many"
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", 0):
        return "its kernel is quantized, or has a LoRA"
    return None


def zero_outputs(layer: Any) -> np.ndarray:
    """The numbers of the outputs of such a layer whose weights are all zero."""
    if not hasattr(layer, "kernel"):
        return np.array([], int)
    kernel = layer.kernel.numpy()
    axis = -2 if "Transpose" in type(layer).__name__ else -1
    rows = np.moveaxis(kernel, axis, -1).reshape(-1, kernel.shape[axis])
    return np.flatnonzero(~rows.any(0))
