"""Checks of a method: of its class when it is registered, of the sets that it returns."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from topkast_tf.core.sets import FORWARD
from topkast_tf.methods.base import INPUTS, Method, Selection, Sets


def check_class(cls: type[Method]) -> None:
    """Raises a TypeError for a class that the contract of a method excludes.

    Args:
      cls: a method class, before it is registered.
    """
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not dataclasses.is_dataclass(cls):
        raise TypeError(
            "Expected a dataclass with a `name`: @register above @dataclasses.dataclass. "
            f"Received: {cls.__name__} with name={name!r}"
        )
    inputs = cls.inputs
    if not isinstance(inputs, property) and (
        isinstance(inputs, str) or not set(inputs) <= set(INPUTS)
    ):
        raise TypeError(
            f"Expected inputs of {name!r} out of {INPUTS}, as a tuple. "
            f"Received: inputs={inputs!r}"
        )
    if cls.computes_alpha is True and cls.dense_updates is False:
        raise TypeError(
            "Expected dense_updates=True of a method that computes alpha. Received: "
            f"{cls.__name__} with dense_updates=False"
        )


def checked(
    method: Method, found: Any, weights: Sequence[Selection], updates: bool = False
) -> Sets:
    """What a method has returned, if it fits the weights.

    In a graph only what is known without values: numbers, dtypes and shapes.

    Args:
      method: the method.
      found: what it returned.
      weights: what it was given.
      updates: whether by `update`, in a step.

    Raises:
      TypeError: for anything else than `Sets` that fit.
    """

    def refuse(expected: str, received: Any) -> None:
        raise TypeError(
            f"Expected {expected} from the method {method.name!r}. Received: {received}"
        )

    if not isinstance(found, Sets):
        refuse("`topkast_tf.methods.Sets`", repr(found)[:80])
    if len(found.codes) != len(weights):
        refuse(f"{len(weights)} tensors of codes", f"{len(found.codes)}")
    for codes, weight in zip(found.codes, weights, strict=True):
        shape = weight.theta.shape
        if codes.dtype != tf.uint8 or not shape.is_compatible_with(codes.shape):
            refuse(f"uint8 codes of shape {shape}", f"{codes.dtype.name} {codes.shape}")
        if tf.executing_eagerly() and tf.reduce_any(codes > FORWARD):
            refuse(f"codes up to {FORWARD}", f"{int(tf.reduce_max(codes))}")
    if found.resets is not None and not method.resets:
        refuse("no `Sets.resets`, as its `resets` is false,", "resets")
    if updates and method.replaces_step and found.thresholds is None:
        refuse(
            "thresholds of step + 1, as its update replaces a step,", "thresholds=None"
        )
    return found._replace(finite=tf.convert_to_tensor(found.finite, tf.bool))
