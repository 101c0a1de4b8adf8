"""Rules that compute the products of layers, such as SWAT's with sparse gradients.

A `ProductRule` replaces a layer's product (`topkast_tf.layers.products`): it computes the
same product with different gradients or by another method.
"""

import abc
import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import tensorflow as tf

from topkast_tf.core.thread_stack import ThreadStack
from topkast_tf.layers.products import Convolution, MatrixProduct, Product
from topkast_tf.variables.weight import SparseWeight

RULES: dict[str, type["ProductRule"]] = {}
"""Every registered rule by its name."""


def register_rule(cls: type["ProductRule"]) -> type["ProductRule"]:
    """Class decorator: registers a rule under its `name`."""
    RULES[cls.name] = cls
    return cls


class AuxiliaryVariable(NamedTuple):
    """An extra variable that a rule needs for a weight.

    Attributes:
      shape: its shape; it is initialized to zeros.
      dtype: its dtype, by name.
    """

    shape: tuple[int, ...]
    dtype: str


class ProductRule(abc.ABC):
    """How the layers created in a scope compute their products.

    Attributes:
      supports_jit: whether Keras may choose to compile its layers by XLA.
      replaces_activations: whether `activation` replaces any function.
      selects_outputs: whether a layer's outputs are not those of a plain layer with the
        same kernel, so that its model cannot be stripped.
    """

    name: ClassVar[str]
    supports_jit: bool = True
    replaces_activations: bool = False
    selects_outputs: bool = False

    @abc.abstractmethod
    def __call__(
        self, product: Product, inputs: tf.Tensor, kernel: Any, weight: SparseWeight
    ) -> tf.Tensor:
        """Computes ``product(inputs, kernel)`` in a forward pass.

        Args:
          product: the layer's own product.
          inputs: the layer's inputs.
          kernel: its kernel, a variable that reads as alpha.
          weight: its sparse weight.
        """

    def outputs(
        self,
        product: Product,
        inputs: tf.Tensor,
        kernel: Any,
        weight: SparseWeight,
        add_bias: Callable[[tf.Tensor], tf.Tensor],
    ) -> tf.Tensor:
        """The layer's outputs before its activation function.

        Args:
          product, inputs, kernel, weight: as for a call.
          add_bias: adds the layer's bias, if it has one, to a product.
        """
        return add_bias(self(product, inputs, kernel, weight))

    def why_dense(self, product: MatrixProduct | Convolution | None) -> str | None:
        """Why the rule cannot compute a layer's product; None if it can.

        The weight is then left dense, and listed with the reason.

        Args:
          product: the layer's product as one of matrices or as a convolution, or None
            if it is neither.
        """
        del product
        return None

    def check(self, weight: SparseWeight) -> None:
        """Raises a ValueError if the rule does not suit a weight."""
        del weight

    def auxiliary_variables(
        self, weight: SparseWeight
    ) -> Mapping[str, AuxiliaryVariable]:
        """The extra variables that the rule needs for a weight, by name."""
        del weight
        return {}

    def selection_operations(
        self, weight: SparseWeight, inputs: int, outputs: int
    ) -> float:
        """Operations an example, averaged over steps, by which operands are selected.

        As `Method.selection_operations`, which counts those of the weight.

        Args:
          weight: the layer's sparse weight, which is not exempt.
          inputs: entries of the layer's input for one example.
          outputs: entries of its product.
        """
        del weight, inputs, outputs
        return 0.0

    def product_sparsities(
        self, weight: SparseWeight
    ) -> tuple[float, float, float] | None:
        """The fraction of multiplications that each product of the layer omits.

        Args:
          weight: the layer's sparse weight.

        Returns:
          Those of the forward pass, the input gradient and the weight gradient; None
          if they follow from the sets, ``(fwd, fwd, bwd)``.
        """
        del weight
        return None

    def saved_sparsity(self, weight: SparseWeight) -> float | None:
        """The sparsity of the inputs that a layer saves for its weight gradient.

        Args:
          weight: the layer's sparse weight.

        Returns:
          A fraction of zeros; None if the layer saves the inputs as they are.
        """
        del weight
        return None

    def gradient_density(self, weight: SparseWeight) -> float | None:
        """The density of the activations in the weight gradient, for native kernels.

        Args:
          weight: the layer's sparse weight.

        Returns:
          The fraction of activations that are not zero there; None if native kernels
          cannot compute this rule: they take weights to be zero outside of A in each
          product.
        """
        del weight
        return None

    def activation(self, function: Callable) -> Callable:
        """The replacement of a layer's activation function; by default itself."""
        return function

    @abc.abstractmethod
    def get_config(self) -> dict:
        """The constructor arguments that recreate this rule."""


_active: ThreadStack[ProductRule | None] = ThreadStack()


def active_rule() -> ProductRule | None:
    """The innermost product rule that is active in this thread, or None."""
    return _active.top()


@contextlib.contextmanager
def activated_rule(rule: ProductRule | None) -> Iterator[None]:
    """Makes a product rule (or none) the innermost one of this thread."""
    with _active.pushed(rule):
        yield


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
