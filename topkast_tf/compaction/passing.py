"""Layers that units pass through: each output unit is made of input units of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from topkast_tf import compat
from topkast_tf.compaction.elementwise import (
    applied,
    is_elementwise,
    is_elementwise_layer,
)
from topkast_tf.compaction.graph import Call
from topkast_tf.compaction.products import padding_of


class Passing:
    """A layer whose units come from those of its inputs, one by one; here unchanged.

    Attributes:
      call: its call.
      uneven: why a constant input other than 0 is no constant in the output, or None.
    """

    uneven: str | None = None

    def __init__(self, call: Call):
        self.call = call

    def links(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Pairs of arrays: units of an input, and the output units made of them."""
        [output] = self.call.outputs
        return [(units.numbers, output.numbers) for units in self.call.inputs]

    def constants(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """The constant of each output unit, NaN if it is none.

        Args:
          values: those of each input.
        """
        [value] = values
        return value if self.uneven is None else np.where(value == 0, value, np.nan)

    def config(self, kept: np.ndarray) -> dict[str, Any]:
        """The changes of its configuration.

        Args:
          kept: boolean, which output units stay.
        """
        return {}

    def weights(self, kept: np.ndarray) -> dict[str, np.ndarray]:
        """Its weights without some units, by attribute.

        Args:
          kept: boolean, which input units stay.
        """
        return {}


class _Padding(Passing):
    uneven = "pads with zeros"


class _Elementwise(Passing):
    def constants(self, values: Sequence[np.ndarray]) -> np.ndarray:
        [value] = values
        return applied(self.call.layer, value)


class _Rescaling(Passing):
    def constants(self, values: Sequence[np.ndarray]) -> np.ndarray:
        [value] = values
        return value * self.call.layer.scale + self.call.layer.offset


class _Normalization(Passing):
    """Batch normalization, by its moving statistics."""

    _NAMES = ("gamma", "beta", "moving_mean", "moving_variance")

    def _values(self) -> dict[str, np.ndarray]:
        found = ((name, getattr(self.call.layer, name)) for name in self._NAMES)
        return {name: made.numpy() for name, made in found if made is not None}

    def constants(self, values: Sequence[np.ndarray]) -> np.ndarray:
        [value] = values
        own = {name: made.astype(float) for name, made in self._values().items()}
        deviation = np.sqrt(own["moving_variance"] + self.call.layer.epsilon)
        scale = own.get("gamma", 1.0) / deviation
        # With gamma = 0 any input gives beta.
        centered = np.where(scale == 0, 0.0, value - own["moving_mean"])
        return centered * scale + own.get("beta", 0.0)

    def weights(self, kept: np.ndarray) -> dict[str, np.ndarray]:
        return {name: made[kept] for name, made in self._values().items()}


class _Merge(Passing):
    """A sum, product, ... of inputs of one width."""

    def __init__(self, call: Call, merge: Callable[[Sequence[np.ndarray]], np.ndarray]):
        super().__init__(call)
        self._merge = merge
        self.uneven = "also takes units that are not constant"

    def constants(self, values: Sequence[np.ndarray]) -> np.ndarray:
        return self._merge(values)


class _Concatenation(Passing):
    def links(self) -> list[tuple[np.ndarray, np.ndarray]]:
        numbers = np.concatenate([units.numbers for units in self.call.inputs])
        return [(numbers, self.call.outputs[0].numbers)]

    def constants(self, values: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(values)


class _Flattened(Passing):
    """Positions and channels become features, the channels of a position side by side."""

    def links(self) -> list[tuple[np.ndarray, np.ndarray]]:
        [units], [output] = self.call.inputs, self.call.outputs
        positions = output.size // units.size
        return [(np.tile(units.numbers, positions), output.numbers)]

    def constants(self, values: Sequence[np.ndarray]) -> np.ndarray:
        [value] = values
        return np.tile(value, self.call.outputs[0].size // value.size)


class _FlattenedByReshape(_Flattened):
    def config(self, kept: np.ndarray) -> dict[str, Any]:
        return {"target_shape": (int(kept.sum()),)}


class _Reshaped(Passing):
    """A reshape that leaves the axis of units alone."""

    def config(self, kept: np.ndarray) -> dict[str, Any]:
        *others, _ = self.call.layer.target_shape
        return {"target_shape": (*others, int(kept.sum()))}


class _Depthwise(Passing):
    """A depthwise convolution: each channel has filters of its own."""

    def __init__(self, call: Call):
        super().__init__(call)
        self._kernel = call.layer.kernel.numpy()  # [..., channels, multiplier]
        self._multiplier = self._kernel.shape[-1]
        self.uneven = padding_of(call.layer)

    def links(self) -> list[tuple[np.ndarray, np.ndarray]]:
        [units], [output] = self.call.inputs, self.call.outputs
        return [(np.repeat(units.numbers, self._multiplier), output.numbers)]

    def constants(self, values: Sequence[np.ndarray]) -> np.ndarray:
        layer, window = self.call.layer, tuple(range(self._kernel.ndim - 2))
        value = super().constants(values)
        is_zero = ~(self._kernel != 0).any(window)
        sums = self._kernel.sum(window, dtype=float)
        gained = np.where(is_zero, 0.0, value[:, None] * sums).reshape(-1)
        return applied(
            layer.activation, gained + (self._bias() if layer.use_bias else 0)
        )

    def _bias(self) -> np.ndarray:
        return self.call.layer.bias.numpy().astype(float)

    def weights(self, kept: np.ndarray) -> dict[str, np.ndarray]:
        found = {"kernel": self._kernel[..., kept, :]}
        if self.call.layer.use_bias:
            bias = self.call.layer.bias.numpy()
            found["bias"] = bias[np.repeat(kept, self._multiplier)]
        return found


_UNCHANGED = (
    *("Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout", "Identity"),
    *("ActivityRegularization", *(f"SpatialDropout{n}D" for n in (1, 2, 3))),
    *(f"{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)),
    *(f"Global{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)),
    *(f"{kind}{n}D" for kind in ("UpSampling", "Cropping") for n in (1, 2, 3)),
)
"""Layers that, for inference, give a constant unit back."""
_PADDINGS = tuple(f"ZeroPadding{n}D" for n in (1, 2, 3))
_DEPTHWISE = tuple(f"DepthwiseConv{n}D" for n in (1, 2))


def _product(values: Sequence[np.ndarray]) -> np.ndarray:
    is_zero = np.any([value == 0 for value in values], axis=0)
    return np.where(is_zero, 0.0, np.prod(values, axis=0))


_OPERATORS = ("Add", "Subtract", "Multiply", "Maximum", "Minimum")
"""Operations on two tensors, as of ``x + y``."""
_MERGES: Mapping[str, Callable[[Sequence[np.ndarray]], np.ndarray]] = {
    "Add": lambda values: np.sum(values, axis=0),
    "Subtract": lambda values: values[0] - values[1],
    "Multiply": _product,
    "Average": lambda values: np.mean(values, axis=0),
    "Maximum": lambda values: np.max(values, axis=0),
    "Minimum": lambda values: np.min(values, axis=0),
}


def passing_of(call: Call, keras: Any) -> Passing | None:
    """How units pass a call, or None if it is not known that they do.

    Args:
      call: the call of a layer.
      keras: the Keras library.
    """
    layer, name = call.layer, type(call.layer).__name__
    if not _is_known(call, keras):
        return None
    if is_elementwise_layer(layer, keras):
        return _Elementwise(call)
    if name in _UNCHANGED:
        has_shape = getattr(layer, "noise_shape", None) is not None
        return None if has_shape else Passing(call)
    if name in _PADDINGS:
        return _Padding(call)
    if name in _MERGES:
        return _Merge(call, _MERGES[name]) if _has_one_width(call) else None
    if name == "Concatenate":
        is_last = layer.axis in (-1, len(call.outputs[0].shape) - 1)
        return _Concatenation(call) if is_last else None
    if name == "Flatten":
        return _Flattened(call)
    if name == "Reshape":
        return _reshaped(call) if call.is_only else None
    if name == "Rescaling":
        scalars = np.ndim(layer.scale) == np.ndim(layer.offset) == 0
        return _Rescaling(call) if scalars else None
    if not call.is_only:  # those below have weights
        return None
    if name == "BatchNormalization":
        is_last = layer.axis in (-1, len(call.outputs[0].shape) - 1)
        return _Normalization(call) if is_last else None
    if name in _DEPTHWISE and is_elementwise(layer.activation, keras):
        return _Depthwise(call)
    return None


def _is_known(call: Call, keras: Any) -> bool:
    """Whether it is a plain call of a layer of Keras, on tensors with units last."""
    layer, kind = call.layer, type(call.layer)
    is_operator = (
        kind.__name__ in _OPERATORS
        and compat.is_operation(layer)
        and len(call.inputs) == 2
    )
    return (
        call.is_plain
        and (is_operator or kind is getattr(keras.layers, kind.__name__, None))
        and getattr(layer, "data_format", None) != "channels_first"
        and len(call.outputs) == 1
        and all(units.size for units in (*call.inputs, *call.outputs))
    )


def _has_one_width(call: Call) -> bool:
    tensors = (*call.inputs, *call.outputs)
    return len({(units.size, len(units.shape)) for units in tensors}) == 1


def _reshaped(call: Call) -> Passing | None:
    [units], [output] = call.inputs, call.outputs
    if units.size == output.size:
        return _Reshaped(call)
    inner = units.shape[1:]
    is_flat = len(output.shape) == 2 and None not in inner
    return _FlattenedByReshape(call) if is_flat else None
