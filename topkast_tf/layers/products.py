"""Layers whose output is a product of input and kernel, and rules that compute it.

Most layers of Keras compute ``activation(product(inputs, kernel) + bias)`` with a product
that is linear in both. A `ProductRule` takes its place: SWAT computes the same product
with other gradients.
"""

import abc
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import tensorflow as tf

if TYPE_CHECKING:
    from topkast_tf.variables.weight import SparseWeight

Product = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""A function of (inputs, kernel) that is linear in each."""

RULES: dict[str, type["ProductRule"]] = {}
"""Every registered rule by its name."""


def register_rule(cls: type["ProductRule"]) -> type["ProductRule"]:
    """Class decorator: makes a rule known by its `name`."""
    RULES[cls.name] = cls
    return cls


class Extra(NamedTuple):
    """A variable that a rule wants to have beside a weight.

    Attributes:
      shape: its shape; it starts as zeros.
      dtype: its dtype, by name.
    """

    shape: tuple[int, ...]
    dtype: str


class ProductRule(abc.ABC):
    """How the layers made in a scope compute their products.

    Attributes:
      supports_jit: whether Keras may choose to compile its layers by XLA.
      replaces_activations: whether `activation` changes any.
    """

    name: ClassVar[str]
    supports_jit: bool = True
    replaces_activations: bool = False

    @abc.abstractmethod
    def __call__(
        self, product: Product, inputs: tf.Tensor, kernel: Any, weight: "SparseWeight"
    ) -> tf.Tensor:
        """Computes ``product(inputs, kernel)`` in a forward pass.

        Args:
          product: the layer's own product.
          inputs: the layer's inputs.
          kernel: its kernel, a variable which reads as alpha.
          weight: its sparse weight.
        """

    def check(self, weight: "SparseWeight") -> None:
        """Raises a ValueError if it makes no sense for a weight."""
        del weight

    def extras(self, weight: "SparseWeight") -> Mapping[str, Extra]:
        """The variables that it needs beside a weight, by name."""
        del weight
        return {}

    def product_sparsities(
        self, weight: "SparseWeight"
    ) -> tuple[float, float, float] | None:
        """The share of multiplications that each product of its layer leaves out.

        Args:
          weight: the layer's sparse weight.

        Returns:
          Those of the forward pass, the input gradient and the weight gradient; None
          if they follow from the sets, ``(fwd, fwd, bwd)``.
        """
        del weight
        return None

    def activation(self, function: Callable) -> Callable:
        """What computes the activation function of a layer in its place."""
        return function

    @abc.abstractmethod
    def get_config(self) -> dict:
        """The arguments that make this rule again."""


class Form(NamedTuple):
    """How a kind of layer computes its output.

    Attributes:
      kernel: name of the weight that takes part in the product.
      product: gives the product of a layer.
      spatial_axes: how many of the kernel's leading axes are positions of a window.
    """

    kernel: str
    product: Callable[[Any], Product]
    spatial_axes: Callable[[Any], int] = lambda layer: 0


def form_of(cls: type, library: Any) -> Form | None:
    """The form of a layer class, or None if its `call` is not one that is known.

    Args:
      cls: a layer class, of Keras or a user's subclass of one.
      library: the module `keras` or `tf_keras`.

    >>> import keras
    >>> form_of(keras.layers.Conv2D, keras).kernel
    'kernel'
    >>> form_of(keras.layers.LSTM, keras) is None
    True
    """
    return _forms(library).get(_owner_of_call(cls))


def why_without_form(cls: type, library: Any) -> str:
    """Why a layer class has no form, in a few words."""
    owner = _owner_of_call(cls)
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
            bias = tf.reshape(bias, [1, -1] + [1] * layer.rank)
        outputs = outputs + bias
    return outputs if activation is None else activation(outputs)


def _owner_of_call(cls: type) -> type | None:
    return next((base for base in cls.__mro__ if "call" in vars(base)), None)


@functools.cache
def _forms(library: Any) -> dict[type, Form]:
    kinds = _keras_3_forms if library.__name__ == "keras" else _tf_keras_forms
    forms: dict[type, Form] = {}
    for name, form in kinds(library).items():
        cls = getattr(library.layers, name, None)
        owner = None if cls is None else _owner_of_call(cls)
        if owner is not None:
            forms[owner] = form
    return forms


def _window_axes(layer: Any) -> int:
    return layer.rank


def _keras_3_forms(keras: Any) -> dict[str, Form]:
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
        padding = layer._compute_causal_padding()
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
        "Dense": Form("kernel", dense),
        "EinsumDense": Form("kernel", einsum),
        **{f"Conv{n}D": Form("kernel", conv, _window_axes) for n in (1, 2, 3)},
        **{
            f"DepthwiseConv{n}D": Form("kernel", depthwise, _window_axes)
            for n in (1, 2)
        },
        **{
            f"Conv{n}DTranspose": Form("kernel", transposed, _window_axes)
            for n in (1, 2, 3)
        },
    }


def _tf_keras_forms(tf_keras: Any) -> dict[str, Form]:
    def dense(layer):
        return tf.matmul

    def einsum(layer):
        return lambda inputs, kernel: tf.einsum(layer.equation, inputs, kernel)

    def conv(layer):
        # Grouped convolutions run on a CPU only when they are compiled.
        grouped = layer.groups > 1
        product = (
            layer._jit_compiled_convolution_op if grouped else layer.convolution_op
        )
        if layer.padding != "causal":
            return product
        return lambda inputs, kernel: product(
            tf.pad(inputs, layer._compute_causal_padding(inputs)), kernel
        )

    return {
        "Dense": Form("kernel", dense),
        "EinsumDense": Form("kernel", einsum),
        "Conv2D": Form("kernel", conv, _window_axes),
    }


def loaded_rule(saved: Mapping | None) -> ProductRule | None:
    """The rule that a saved layer names, or None."""
    if saved is None:
        return None
    if saved["name"] not in RULES:
        raise ValueError(
            f"Expected the library of the product rule {saved['name']!r} to be imported "
            "before the model is loaded (for SWAT: `import swat_tf`). Received: "
            f"{saved['name']!r}, with {sorted(RULES)} known"
        )
    return RULES[saved["name"]](**saved["config"])
