"""Rules that compute the products of layers: SWAT's, with sparse gradients, is one.

A `ProductRule` takes the place of a layer's product (`topkast_tf.layers.products`): it
computes the same product, with other gradients or in another way.
"""

import abc
import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import tensorflow as tf

from topkast_tf.core.thread_stack import ThreadStack
from topkast_tf.layers.products import Product
from topkast_tf.variables.weight import SparseWeight

RULES: dict[str, type["ProductRule"]] = {}
"""Every registered rule by its name."""


def register_rule(cls: type["ProductRule"]) -> type["ProductRule"]:
    """Class decorator: makes a rule known by its `name`."""
    RULES[cls.name] = cls
    return cls


class AuxiliaryVariable(NamedTuple):
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
        self, product: Product, inputs: tf.Tensor, kernel: Any, weight: SparseWeight
    ) -> tf.Tensor:
        """Computes ``product(inputs, kernel)`` in a forward pass.

        Args:
          product: the layer's own product.
          inputs: the layer's inputs.
          kernel: its kernel, a variable which reads as alpha.
          weight: its sparse weight.
        """

    def check(self, weight: SparseWeight) -> None:
        """Raises a ValueError if it makes no sense for a weight."""
        del weight

    def auxiliary_variables(
        self, weight: SparseWeight
    ) -> Mapping[str, AuxiliaryVariable]:
        """The variables that it needs beside a weight, by name."""
        del weight
        return {}

    def product_sparsities(
        self, weight: SparseWeight
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
