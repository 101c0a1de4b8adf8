"""The models whose training steps benchmarks/native.py measures."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from absl import flags

from launch.models.imagenet_resnet import imagenet_resnet
from launch.models.resnet import resnet
from launch.models.transformer_xl import TransformerXL
from launch.models.transformer_xl_config import TransformerXLConfig
from launch.models.vgg import vgg16
from swat_tf import swat_scope
from topkast_tf import topkast_scope


class Case(NamedTuple):
    """A model, its data, and how it is made sparse.

    Attributes:
      about: sizes that depend on the flags, in a few words.
      build: makes the model.
      batch: makes one batch (x, y).
      compile: arguments of `compile`.
      scope: (fwd, bwd, refresh_every, kernels) -> the scope it is built in.
      whole: whether every sparse layer has native kernels.
    """

    about: Callable[[flags.FlagValues], str]
    build: Callable[[flags.FlagValues], keras.Model]
    batch: Callable[[flags.FlagValues], tuple[tf.Tensor, tf.Tensor]]
    compile: Callable[[], dict[str, Any]]
    scope: Callable[[float, float, int, str], Any]
    whole: bool = True


def _topkast(fwd: float, bwd: float, refresh_every: int, kernels: str) -> Any:
    return topkast_scope(
        fwd, bwd, refresh_every=refresh_every, kernels=kernels, exempt=("first", "last")
    )


def _topkast_everywhere(
    fwd: float, bwd: float, refresh_every: int, kernels: str
) -> Any:
    return topkast_scope(fwd, bwd, refresh_every=refresh_every, kernels=kernels)


def _swat(fwd: float, bwd: float, refresh_every: int, kernels: str) -> Any:
    del bwd
    return swat_scope(
        fwd, topk_period=refresh_every, exempt=("first",), kernels=kernels
    )


def _transformer(values: flags.FlagValues) -> keras.Model:
    return TransformerXL(
        TransformerXLConfig(
            vocabulary=256,
            layers=values.layers,
            d_model=values.width,
            heads=8,
            d_head=values.width // 8,
            d_inner=4 * values.width,
            segment_length=values.length,
        )
    )


def _tokens(values: flags.FlagValues) -> tuple[tf.Tensor, tf.Tensor]:
    return tuple(
        tf.random.uniform([values.batch, values.length], 0, 256, tf.int32)
        for _ in range(2)
    )  # type: ignore[return-value]


def _stack(values: flags.FlagValues) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((values.width,)),
            keras.layers.Dense(4 * values.width, activation="relu"),
            keras.layers.Dense(values.width),
        ]
    )


def _vectors(values: flags.FlagValues) -> tuple[tf.Tensor, tf.Tensor]:
    return tuple(tf.random.normal([values.positions, values.width]) for _ in range(2))  # type: ignore[return-value]


def _of_images(size: int, classes: int, batch: int, model, scope=_topkast) -> Case:
    def images(values):
        del values
        labels = tf.random.uniform([batch], 0, classes, tf.int32)
        return tf.random.normal([batch, size, size, 3]), labels

    def arguments():
        return {
            "optimizer": keras.optimizers.SGD(0.01, momentum=0.9),
            "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        }

    return Case(
        lambda values: f"{size}x{size}, batch {batch}",
        lambda values: model((size, size, 3), classes),
        images,
        arguments,
        scope,
    )


CASES = {
    "transformer_xl": Case(
        lambda values: (
            f"{values.width}, {values.layers} layers, {values.batch}x{values.length}"
        ),
        _transformer,
        _tokens,
        lambda: {"optimizer": keras.optimizers.Adam(1e-4)},
        _topkast_everywhere,
    ),
    "dense_stack": Case(
        lambda values: f"{values.width}, {values.positions}",
        _stack,
        _vectors,
        lambda: {"optimizer": keras.optimizers.Adam(1e-4), "loss": "mse"},
        _topkast_everywhere,
    ),
    "resnet20": _of_images(32, 10, 128, lambda *sizes: resnet(20, *sizes)),
    "resnet50": _of_images(64, 1000, 32, lambda *sizes: imagenet_resnet(50, 1, *sizes)),
    "vgg16_swat": _of_images(32, 10, 128, vgg16, _swat),
    "mobilenet_v2": _of_images(
        64,
        1000,
        32,
        lambda shape, classes: keras.applications.MobileNetV2(
            shape, weights=None, classes=classes, classifier_activation=None
        ),
    )._replace(whole=False),
}
"""Name -> model. First and last layers of image models are dense, as in Top-KAST."""
