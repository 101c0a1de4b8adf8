"""The models that the launcher can train, by name.

Each is a builder `(image_shape, classes, width=1.0) -> keras.Model` from images to
float32 logits.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from launch.support.errors import UserError

if TYPE_CHECKING:
    import keras


def _build(module: str, function: str, *args, **kwargs) -> keras.Model:
    # Imported when a model is built, so that a wrong flag is reported before that.
    builder = getattr(importlib.import_module(f"launch.models.{module}"), function)
    return builder(*args, **kwargs)


_imagenet = functools.partial(_build, "imagenet_resnet", "imagenet_resnet")

_FOR_LARGE_IMAGES: dict[str, Callable[..., keras.Model]] = {
    **{
        f"resnet{depth}": functools.partial(_imagenet, depth, 1)
        for depth in (18, 34, 50, 101, 152)
    },
    "wrn50_2": functools.partial(_imagenet, 50, 2),
}

MODELS: dict[str, Callable[..., keras.Model]] = {
    **{
        f"resnet{depth}": functools.partial(_build, "resnet", "resnet", depth)
        for depth in (8, 20, 32, 56)
    },
    "fast_resnet": functools.partial(_build, "fast_resnet", "fast_resnet"),
    "resnet18_cifar": functools.partial(_build, "cifar_resnet", "cifar_resnet", 18),
    "vgg16_cifar": functools.partial(_build, "vgg", "vgg16"),
    "densenet121_cifar": functools.partial(
        _build, "densenet", "densenet", (6, 12, 24, 16)
    ),
    **_FOR_LARGE_IMAGES,
}

_WIDE = re.compile(r"wrn([1-9]\d*)_([1-9]\d*)")
_WIDE_EXAMPLES = ("wrn16_8", "wrn28_10")


def find(name: str) -> Callable[..., keras.Model]:
    """The builder `(image_shape, classes, width=1.0) -> keras.Model` of a name.

    Args:
      name: one of `MODELS`, or `wrn<d>_<k>`, the wide residual network of depth
        d = 6 * n + 4 and widening factor k.

    Raises:
      UserError: for any other name, with the known names and the nearest one.
    """
    if name in MODELS:
        return MODELS[name]
    wide = _WIDE.fullmatch(name)
    if wide:
        depth, k = map(int, wide.groups())
        if depth > 4 and depth % 6 == 4:
            return functools.partial(_build, "wide_resnet", "wide_resnet", depth, k)
    near = difflib.get_close_matches(name, [*MODELS, *_WIDE_EXAMPLES], 1)
    raise UserError(
        f"Expected --model to be one of {', '.join(MODELS)}, or wrn<d>_<k> with a "
        f"depth d of 6 * n + 4 ({', '.join(_WIDE_EXAMPLES)}, ...). Received: {name!r}"
        + (f"; did you mean {near[0]}?" if near else "")
    )


def for_large_images(name: str) -> bool:
    """Whether a model is made for the images of ImageNet, and not for those of CIFAR."""
    return name in _FOR_LARGE_IMAGES
