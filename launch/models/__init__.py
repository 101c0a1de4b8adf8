"""The models that the launcher can train, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from launch.errors import UserError

if TYPE_CHECKING:
    import keras


def _resnet(depth: int, *args, **kwargs) -> keras.Model:
    # Imported when a model is built: a mistyped flag need not wait for TensorFlow.
    from launch.models.resnet import resnet

    return resnet(depth, *args, **kwargs)


MODELS: dict[str, Callable[..., keras.Model]] = {
    f"resnet{depth}": functools.partial(_resnet, depth) for depth in (8, 20, 32, 56)
}


def find(name: str) -> Callable[..., keras.Model]:
    """The builder `(image_shape, classes, width) -> keras.Model` of a name.

    Raises:
      UserError: for a name that is not registered.
    """
    if name not in MODELS:
        raise UserError(
            f"Expected --model to be one of {', '.join(MODELS)}. Received: {name!r}"
        )
    return MODELS[name]
