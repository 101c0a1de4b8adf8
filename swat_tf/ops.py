"""SWAT's products as plain functions of tensors.

The same mathematics as in a layer of `swat_tf.swat_scope`, for custom code: each call
computes the masks from its arguments alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from swat_tf import packing, topk
from swat_tf.bilinear import Op, check_bilinear, sparse_product
from swat_tf.recipe import Recipe, validate_sparsity

__all__ = ["bilinear", "conv2d", "matmul"]


def matmul(
    activation: Any,
    weight: Any,
    sparsity: float,
    *,
    activations: float | None = None,
    **recipe: Any,
) -> tf.Tensor:
    """The matrix product ``a @ w`` with SWAT's sparse forward and backward pass.

    ``y = a @ w~``, ``da = dy @ w~^T``, ``dw = a~^T @ dy``, where w~ and a~ keep the
    ``kept(n, s)`` entries of largest magnitude. dw is dense.

    Args:
      activation: ``[..., m, n]``, floating.
      weight: ``[n, k]``.
      sparsity: of the weight, a fraction of zeros in [0, 1).
      activations: sparsity of the activation; by default that of the weight.
      **recipe: other options, the fields of `swat_tf.recipe.Recipe`: `forward`,
        `backward`, `activations_per`, `errors`, `errors_per`, `storage`.

    Returns:
      ``[..., m, k]``.

    Raises:
      ValueError: for a sparsity outside [0, 1) or an unknown value of the recipe.
      TypeError: for any other keyword.

    >>> a = tf.constant([[1.0, 2.0]])
    >>> matmul(a, tf.constant([[1.0], [5.0]]), 0.5).numpy()
    array([[10.]], dtype=float32)

    Source: Raihan & Aamodt, SWAT, NeurIPS 2020, Algorithm 1. Departs from the authors'
    code in ties, which are broken by the lower index here, so that counts are exact.
    """
    return _product(tf.matmul, activation, weight, sparsity, activations, recipe)


def conv2d(
    activation: Any,
    weight: Any,
    sparsity: float,
    *,
    strides: int | Sequence[int] = 1,
    padding: Any = "SAME",
    data_format: str = "NHWC",
    dilations: int | Sequence[int] = 1,
    activations: float | None = None,
    **recipe: Any,
) -> tf.Tensor:
    """The 2-D convolution with SWAT's sparse forward and backward pass.

    ``y = conv(a, w~)``, ``da = conv_backward_input(dy, w~)``,
    ``dw = conv_backward_filter(dy, a~)``; see `matmul`.

    Args:
      activation: ``[batch, height, width, channels]`` (or as `data_format` says).
      weight: ``[height, width, in, out]``.
      sparsity: of the weight, a fraction of zeros in [0, 1).
      strides: as for `tf.nn.conv2d`.
      padding: as for `tf.nn.conv2d`.
      data_format: as for `tf.nn.conv2d`.
      dilations: as for `tf.nn.conv2d`.
      activations: sparsity of the activation; by default that of the weight.
      **recipe: as for `matmul`.

    Returns:
      As `tf.nn.conv2d`.

    Raises:
      ValueError: for a sparsity outside [0, 1) or an unknown value of the recipe.
      TypeError: for any other keyword.

    >>> image, kernel = tf.ones([1, 4, 4, 1]), tf.ones([2, 2, 1, 1])
    >>> conv2d(image, kernel, 0.5, padding="VALID")[0, 0, 0].numpy()
    array([2.], dtype=float32)

    Source: as `matmul`.
    """
    op = functools.partial(
        tf.nn.conv2d,
        strides=strides,
        padding=padding,
        data_format=data_format,
        dilations=dilations,
    )
    return _product(op, activation, weight, sparsity, activations, recipe)


def bilinear(op: Op) -> Callable[..., tf.Tensor]:
    """Any op that is linear in (activation, weight), with SWAT's sparse passes.

    ``y = op(a, w~)``; ``da``, ``dw`` are the op's own gradients at ``(a~, w~)``. Executed
    eagerly, the backward pass computes the product once more; in a graph it does not.

    Args:
      op: a function of (activation, weight), such as a convolution or an einsum.

    Returns:
      A function of (activation, weight, sparsity, activations=None, **recipe), as
      `matmul`. It raises a ValueError if the op is not linear in one of the two, tested
      on random numbers once per pair of shapes and dtypes. If a size other than that of
      the activation's first axis is unknown, nothing is tested.

    >>> attend = bilinear(lambda a, w: tf.einsum("btd,dhk->bthk", a, w))
    >>> attend(tf.ones([2, 3, 4]), tf.ones([4, 5, 6]), 0.5).shape
    TensorShape([2, 3, 5, 6])
    >>> bilinear(lambda a, w: a @ w + 1.0)(tf.ones([2, 2]), tf.ones([2, 2]), 0.5)
    Traceback (most recent call last):
    ...
    ValueError: Expected an op that is linear in its activation and in its weight, ...

    Source: as `matmul`; the generic form is this project's.
    """

    def product(activation, weight, sparsity, *, activations=None, **recipe):
        activation = tf.convert_to_tensor(activation)
        weight = tf.convert_to_tensor(weight)
        check_bilinear(op, activation, weight)
        return _product(op, activation, weight, sparsity, activations, recipe)

    return product


def _product(
    op: Op,
    activation: Any,
    weight: Any,
    sparsity: float,
    activations: float | None,
    recipe: dict,
) -> tf.Tensor:
    known = [field.name for field in dataclasses.fields(Recipe)]
    for name in recipe:
        if name not in known:
            raise TypeError(
                f"Expected keyword arguments among `activations`, {_listed(known)}. "
                f"Received: {name}={recipe[name]!r}"
            )
    asked = Recipe(**recipe)
    validate_sparsity("sparsity", sparsity)
    if activations is None:
        activations = sparsity
    validate_sparsity("activations", activations)

    def mask_w(w):
        return topk.mask_of(w, sparsity)

    def mask_a(a):
        return topk.mask_of(a, activations, asked.activations_per)

    changes = {
        "forward_weight": _kept(mask_w) if "weights" in asked.forward else None,
        "forward_activation": (
            _kept(mask_a) if "activations" in asked.forward else None
        ),
        "saved_weight": _saved(mask_w, "weights" in asked.backward, asked.storage),
        "saved_activation": _saved(
            mask_a, "activations" in asked.backward, asked.storage
        ),
    }
    if asked.errors:
        changes["error"] = _kept(
            lambda dy: topk.mask_of(dy, asked.errors, asked.errors_per)
        )
    return sparse_product(
        op,
        tf.convert_to_tensor(activation),
        tf.convert_to_tensor(weight),
        **changes,
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _kept(mask: Callable) -> Callable:
    return lambda x: topk.apply_mask(mask(x), x)


def _saved(mask: Callable, sparse: bool, storage: str) -> Callable | None:
    if not sparse:
        return None
    if storage == "packed":
        return lambda x: packing.pack(x, mask(x))
    return _kept(mask)
