"""Layers whose output is a product of input and kernel, and their products.

Most Keras layers compute ``activation(product(inputs, kernel) + bias)`` with a product
that is linear in both.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from topkast_tf import compat

Product = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""A function of (inputs, kernel) that is linear in each."""


class MatrixProduct(NamedTuple):
    """A product that is one of matrices: positions x inputs by inputs x outputs.

    Attributes:
      input_axes: the number of trailing axes of the layer's input that are its inputs.
      kernel_axes: the number of leading axes of the kernel that are its inputs.
      strides: the step between the positions that are used, of each axis between the
        first and the inputs; () if all are used.
    """

    input_axes: int
    kernel_axes: int
    strides: tuple[int, ...] = ()

    def matrix_of(self, shape: Sequence[int]) -> tuple[int, int]:
        """The inputs and outputs of a weight as a matrix.

        Args:
          shape: of the weight.
        """
        axes = self.kernel_axes
        return math.prod(shape[:axes]), math.prod(shape[axes:])

    def computed(
        self,
        inputs: tf.Tensor,
        shape: Sequence[int],
        multiply: Callable[[tf.Tensor], tf.Tensor],
    ) -> tf.Tensor:
        """The layer's product, by a product of matrices.

        Args:
          inputs: those of the layer.
          shape: of the weight.
          multiply: maps positions x inputs to positions x outputs.
        """
        if self.strides:
            steps = [slice(None, None, step) for step in self.strides]
            inputs = inputs[(slice(None), *steps)]
        y = multiply(tf.reshape(inputs, [-1, self.matrix_of(shape)[0]]))
        batch, rest = inputs.shape[: -self.input_axes], shape[self.kernel_axes :]
        known = [-1 if size is None else size for size in batch]
        if known.count(-1) > 1:
            known = tf.concat([tf.shape(inputs)[: -self.input_axes], rest], 0)
        else:
            known = [*known, *rest]
        y = tf.reshape(y, known)
        y.set_shape([*batch, *rest])
        return y


class Convolution(NamedTuple):
    """A convolution of sequences or images, channels last.

    Its window is the leading axes of the kernel.

    Attributes:
      strides: the step between neighbouring outputs, of each axis of the window.
      dilations: the distance between neighbours in the window, of each axis.
      padding: `"valid"`, `"same"` or `"causal"`.
      groups: into which the channels are divided.
    """

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: str
    groups: int


class ProductSpec(NamedTuple):
    """How a kind of layer computes its output.

    Attributes:
      kernel: name of the weight in the product.
      product: returns the product of a layer.
      spatial_axes: returns the number of leading kernel axes that are window positions.
      matrix: returns the product of a layer as one of matrices, or None if it is not.
      convolution: returns it as a convolution of sequences or images, or None.
    """

    kernel: str
    product: Callable[[Any], Product]
    spatial_axes: Callable[[Any], int] = lambda layer: 0
    matrix: Callable[[Any], MatrixProduct | None] = lambda layer: None
    convolution: Callable[[Any], Convolution | None] = lambda layer: None


def product_spec(cls: type, library: Any) -> ProductSpec | None:
    """The product of a layer class, or None if its `call` is unknown.

    Args:
      cls: a Keras layer class or a user's subclass of one.
      library: the module `keras` or `tf_keras`.

    >>> import keras
    >>> product_spec(keras.layers.Conv2D, keras).kernel
    'kernel'
    >>> product_spec(keras.layers.LSTM, keras) is None
    True
    """
    owner = _owner_of_call(cls)
    if owner is not None and _overrides_product(cls, owner):
        return None
    return _products(library).get(owner)


def _overrides_product(cls: type, owner: type) -> bool:
    """Whether a convolution's class has a product of its own, which `call` calls."""
    mine, known = (getattr(each, "convolution_op", None) for each in (cls, owner))
    return mine is not known


def why_without_product(cls: type, library: Any) -> str:
    """Why a layer class has no known product, in a short phrase."""
    owner = _owner_of_call(cls)
    if owner is not None and _overrides_product(cls, owner):
        return f"{cls.__name__} computes its product by a `convolution_op` of its own"
    if owner is not None and owner.__module__.split(".")[0] == library.__name__:
        return f"no rule for the product of {owner.__name__.removeprefix('Base')}"
    return f"{cls.__name__} computes its output by a `call` of its own"


def activation_of(layer: Any, library: Any) -> Callable | None:
    """The function that a pure activation layer applies, or None for any other layer.

    >>> import keras
    >>> activation_of(keras.layers.ReLU(), keras) is keras.activations.relu
    True
    """
    if isinstance(layer, library.layers.Activation):
        return layer.activation
    if not isinstance(layer, library.layers.ReLU):
        return None
    plain = layer.max_value is None and not layer.negative_slope and not layer.threshold
    return library.activations.relu if plain else None


def is_activation(cls: type, library: Any) -> bool:
    """Whether a layer class only applies an activation function."""
    return cls in (library.layers.Activation, library.layers.ReLU)


def finish(layer: Any, outputs: tf.Tensor, activation: Callable | None) -> tf.Tensor:
    """Adds the layer's bias to a product and applies an activation function."""
    bias = layer.bias if getattr(layer, "use_bias", True) else None
    if bias is not None:
        bias = tf.cast(tf.convert_to_tensor(bias), outputs.dtype)
        if getattr(layer, "data_format", None) == "channels_first":
            outputs = outputs + tf.reshape(bias, [1, -1] + [1] * layer.rank)
        elif bias.shape.rank == 1 and outputs.shape[-1:] == bias.shape:
            outputs = tf.nn.bias_add(outputs, bias)  # its gradient is the faster one
        else:
            outputs = outputs + bias
    return outputs if activation is None else activation(outputs)


def _owner_of_call(cls: type) -> type | None:
    return next((base for base in cls.__mro__ if "call" in vars(base)), None)


@functools.cache
def _products(library: Any) -> dict[type, ProductSpec]:
    kinds = _keras_3_products if library.__name__ == "keras" else _tf_keras_products
    found: dict[type, ProductSpec] = {}
    for name, spec in kinds(library).items():
        cls = getattr(library.layers, name, None)
        owner = None if cls is None else _owner_of_call(cls)
        if owner is not None:
            found[owner] = spec
    return found


def _window_axes(layer: Any) -> int:
    return layer.rank


def _matrix_of_dense(layer: Any) -> MatrixProduct:
    del layer
    return MatrixProduct(1, 1)


def _matrix_of_einsum(layer: Any) -> MatrixProduct | None:
    return einsum_as_matrix(layer.equation)


def _matrix_of_conv(layer: Any) -> MatrixProduct | None:
    """That of a convolution whose window is one position."""
    one = all(size == 1 for size in layer.kernel_size)
    if not one or layer.groups != 1 or layer.data_format != "channels_last":
        return None
    strides = tuple(layer.strides)
    strides = () if set(strides) == {1} else strides
    return MatrixProduct(1, layer.rank + 1, strides)


def _convolution_of(layer: Any) -> Convolution | None:
    if layer.data_format != "channels_last" or layer.rank > 2:
        return None
    return Convolution(
        tuple(layer.strides), tuple(layer.dilation_rate), layer.padding, layer.groups
    )


def einsum_as_matrix(equation: str) -> MatrixProduct | None:
    """An einsum of inputs and kernel as a product of matrices, or None if it is not.

    It is, if the contracted axes are the last of the inputs and the first of the kernel,
    in the same order, and all others keep their order.

    >>> einsum_as_matrix("abc,cde->abde")
    MatrixProduct(input_axes=1, kernel_axes=1, strides=())
    >>> einsum_as_matrix("abc,dc->abd") is None
    True
    """
    terms, output = equation.replace(" ", "").replace("...", "0").split("->")
    inputs, kernel = terms.split(",")
    if any(len(set(term)) < len(term) for term in (inputs, kernel)):
        return None  # a diagonal
    contracted = [axis for axis in kernel if axis in inputs and axis not in output]
    count = len(contracted)
    batch, rest = inputs[: len(inputs) - count], kernel[count:]
    whole = inputs == batch + "".join(contracted) and kernel[:count] == inputs[-count:]
    if not count or not whole or output != batch + rest or set(batch) & set(kernel):
        return None
    return MatrixProduct(count, count)


def _keras_3_products(keras: Any) -> dict[str, ProductSpec]:
    ops = keras.ops

    def dense(layer):
        return ops.matmul

    def einsum(layer):
        return lambda inputs, kernel: ops.einsum(layer.equation, inputs, kernel)

    def geometry(layer):
        return {
            "strides": layer.strides,
            "padding": layer.padding,
            "data_format": layer.data_format,
            "dilation_rate": layer.dilation_rate,
        }

    def conv(layer):
        arguments = {**geometry(layer), "strides": list(layer.strides)}
        if layer.padding != "causal":
            return lambda inputs, kernel: ops.conv(inputs, kernel, **arguments)
        arguments["padding"] = "valid"
        padding = compat.causal_padding(layer)
        return lambda inputs, kernel: ops.conv(
            ops.pad(inputs, padding), kernel, **arguments
        )

    def depthwise(layer):
        return lambda inputs, kernel: ops.depthwise_conv(
            inputs, kernel, **geometry(layer)
        )

    def transposed(layer):
        return lambda inputs, kernel: ops.conv_transpose(
            inputs, kernel, output_padding=layer.output_padding, **geometry(layer)
        )

    return {
        "Dense": ProductSpec("kernel", dense, matrix=_matrix_of_dense),
        "EinsumDense": ProductSpec("kernel", einsum, matrix=_matrix_of_einsum),
        **{
            f"Conv{n}D": ProductSpec(
                "kernel", conv, _window_axes, _matrix_of_conv, _convolution_of
            )
            for n in (1, 2, 3)
        },
        **{
            f"DepthwiseConv{n}D": ProductSpec("kernel", depthwise, _window_axes)
            for n in (1, 2)
        },
        **{
            f"Conv{n}DTranspose": ProductSpec("kernel", transposed, _window_axes)
            for n in (1, 2, 3)
        },
    }


def _tf_keras_products(tf_keras: Any) -> dict[str, ProductSpec]:
    def dense(layer):
        return tf.matmul

    def einsum(layer):
        return lambda inputs, kernel: tf.einsum(layer.equation, inputs, kernel)

    def conv(layer):
        # Grouped convolutions run on a CPU only if compiled.
        grouped = layer.groups > 1
        product = compat.grouped_convolution(layer) if grouped else layer.convolution_op
        if layer.padding != "causal":
            return product
        return lambda inputs, kernel: product(
            tf.pad(inputs, compat.causal_padding(layer, inputs)), kernel
        )

    return {
        "Dense": ProductSpec("kernel", dense, matrix=_matrix_of_dense),
        "EinsumDense": ProductSpec("kernel", einsum, matrix=_matrix_of_einsum),
        "Conv2D": ProductSpec(
            "kernel", conv, _window_axes, _matrix_of_conv, _convolution_of
        ),
    }
