"""The models whose training steps benchmarks/native.py measures."""

import re
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
from topkast_tf import sparse_scope, topkast_scope


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


def _topkast(fwd: float, bwd: float, refresh_every: int, **how: Any) -> Any:
    return topkast_scope(
        fwd, bwd, refresh_every=refresh_every, exempt=("first", "last"), **how
    )


def _topkast_everywhere(fwd: float, bwd: float, refresh_every: int, **how: Any) -> Any:
    return topkast_scope(fwd, bwd, refresh_every=refresh_every, **how)


def _swat(
    fwd: float, bwd: float, refresh_every: int, kernels: str, storage: str
) -> Any:
    del bwd, storage
    return swat_scope(
        fwd, topk_period=refresh_every, exempt=("first",), kernels=kernels
    )


def _rigl(fwd: float, bwd: float, refresh_every: int, **how: Any) -> Any:
    del bwd
    return sparse_scope(
        "rigl",
        sparsity=fwd,
        distribution="uniform",
        update_every=refresh_every,
        update_until=10**9,
        **how,
    )


def transformer(values: flags.FlagValues) -> keras.Model:
    """A Transformer-XL of the flags `layers`, `width` and `length`, on bytes."""
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


def _of_vectors(sizes: Callable[[flags.FlagValues], tuple[int, int]]) -> Case:
    """Two Dense layers; `sizes` gives their width and the number of positions."""

    def build(values):
        width, _ = sizes(values)
        return keras.Sequential(
            [
                keras.Input((width,)),
                keras.layers.Dense(4 * width, activation="relu"),
                keras.layers.Dense(width),
            ]
        )

    def vectors(values):
        width, positions = sizes(values)
        return tuple(tf.random.normal([positions, width]) for _ in range(2))

    return Case(
        lambda values: "{}, {}".format(*sizes(values)),
        build,
        vectors,
        lambda: {"optimizer": keras.optimizers.Adam(1e-4), "loss": "mse"},
        _topkast_everywhere,
    )


def find(case: str) -> Case | None:
    """The model of a name: of `CASES`, or two layers of any size.

    `dense_WIDTHxPOSITIONS` are Dense layers WIDTH -> 4 WIDTH -> WIDTH,
    `convs_SIZExCHANNELS` two 3 x 3 convolutions with batch normalisation, of 32 images.

    Returns:
      The model; None for another name.
    """
    if case in CASES:
        return CASES[case]
    named = re.fullmatch(r"(dense|convs)_(\d+)x(\d+)", case)
    if not named:
        return None
    first, second = int(named[2]), int(named[3])
    if named[1] == "dense":
        return _of_vectors(lambda values: (first, second))
    return _of_images(first, 10, 32, lambda *sizes: _convolutions(second, *sizes))


def _convolutions(channels: int, shape: tuple[int, ...], classes: int) -> keras.Model:
    layers = [keras.Input(shape), keras.layers.Conv2D(channels, 1)]
    for _ in range(2):
        layers.append(keras.layers.Conv2D(channels, 3, padding="same", use_bias=False))
        layers += [keras.layers.BatchNormalization(), keras.layers.ReLU()]
    pool = keras.layers.GlobalAveragePooling2D()
    return keras.Sequential([*layers, pool, keras.layers.Dense(classes)])


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


_TRANSFORMER = Case(
    lambda values: (
        f"{values.width}, {values.layers} layers, {values.batch}x{values.length}"
    ),
    transformer,
    _tokens,
    lambda: {"optimizer": keras.optimizers.Adam(1e-4)},
    _topkast_everywhere,
)
CASES = {
    "transformer_xl": _TRANSFORMER,
    "transformer_xl_rigl": _TRANSFORMER._replace(scope=_rigl),
    "dense_stack": _of_vectors(lambda values: (values.width, values.positions)),
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
