"""Conversion of a sparse model to a plain one."""

import collections
import os
import pathlib
import tempfile
from typing import Any

import tensorflow as tf
from absl import logging

from topkast_tf import compat
from topkast_tf.layers import compressed
from topkast_tf.layers.remaking import copy_values, counterparts, made_again
from topkast_tf.layers.structure import library_of
from topkast_tf.layers.weights import weights_of

KERNELS = ("dense", "native")
"""What a stripped model may compute with."""


def strip(model: Any, kernels: str = "dense") -> Any:
    """A plain Keras model with the same outputs and zeros in its kernels.

    ``kernel = alpha = theta on A, 0 elsewhere``. It has the model's original layer
    classes, so that it saves and loads without this library, and its dropout continues
    with the same random numbers; the given model is not changed. Optimizer and metrics
    are not copied: compile the plain model to evaluate or train it (training would fill
    the zeros). Activations that SWAT sparsifies in the forward pass, as in an ablation,
    are dense in the plain model: only then do the outputs differ.

    With ``kernels="native"`` its sparse layers hold the entries of A alone, 4 bytes each,
    and a byte for each gap between them, and compute by the native kernels: it is smaller
    and faster. It needs this library where it is loaded, and cannot be trained
    (docs/deploy.md). A layer without native kernels stays as above. Of such a model, the
    default makes the kernels whole again.

    Args:
      model: a built Keras 3 or tf_keras model or layer. A subclassed one must define
        `get_config`, as for saving by Keras.
      kernels: ``"dense"``, or ``"native"``, of Keras 3 models.

    Returns:
      The plain model.

    Raises:
      TypeError: for anything but a Keras model or layer.
      ValueError: if the model is not built, or cannot be rebuilt from its config; for
        other `kernels`; or for DSG, whose layers select outputs for each input.

    >>> import keras
    >>> from topkast_tf import strip, topkast_scope
    >>> with topkast_scope(fwd=0.9, bwd=0.8):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])
    >>> plain = strip(model)
    >>> int((plain.layers[0].kernel.numpy() != 0).sum()), len(plain.weights)
    (10, 2)
    """
    if library_of(model) is None:
        raise TypeError(f"Expected a Keras model or layer. Received: {model!r}")
    if kernels not in KERNELS:
        raise ValueError(
            f"Expected kernels in {KERNELS}. Received: kernels={kernels!r}"
        )
    if kernels == "native" and library_of(model).__name__ != "keras":
        raise ValueError(
            "Expected a Keras 3 model for kernels='native'. Received: a model of "
            f"{library_of(model).__name__}"
        )
    _check_outputs(model)
    plain = made_again(model)
    copy_values(model, plain)
    if kernels == "native":
        _compress(model, plain)
    return plain


def _check_outputs(model: Any) -> None:
    """Raises a ValueError if plain layers could not give the model's outputs."""
    for layer in compat.layers_within(model):
        for weight in weights_of(layer):
            if weight.rule and weight.rule.selects_outputs and not weight.exempt:
                raise ValueError(
                    "Expected layers whose outputs follow from their kernels alone: "
                    f"those of {weight.rule.name!r} select outputs for each input, so "
                    "save the model as it is, or read its dense kernels by "
                    f"`sparse_weights`. Received: {weight.path}"
                )


def _compress(model: Any, plain: Any) -> None:
    """Compresses the layers of a plain model that can be, and are in the other one."""
    left, owners = {}, _owners(plain)
    for layer, made in counterparts(model, plain):
        held = compressed.held_by(layer)
        if held is not None:
            compressed.compress(made, held.kept())
            continue
        for weight in weights_of(layer):
            why = compressed.why_not(layer, weight)
            if why is None and owners[id(made.kernel)] > 1:
                why = "another layer refers to its kernel"
            if why is None:
                compressed.compress(made, weight.forward_mask())
            else:
                left[weight.path] = why
    if left:
        logging.info("Layers that keep a whole kernel: %s", left)


def _owners(model: Any) -> collections.Counter[int]:
    """id of an attribute -> the layers that have it: a wrapper may have a kernel, too."""
    return collections.Counter(
        key
        for layer in compat.layers_within(model)
        for key in {id(value) for value in vars(layer).values()}
    )


def export_litert(
    model: Any, path: str | os.PathLike, *, sparse_encoding: bool = True
) -> pathlib.Path:
    """Writes a model for LiteRT (TensorFlow Lite), its kernels encoded as sparse.

    The file holds the entries of each sparse kernel and their places, and is small without
    compression. When it is loaded, the kernels are made whole: LiteRT computes with dense
    ones, apart from XNNPACK on processors without AVX, in networks of a certain form
    (docs/deploy.md).

    Args:
      model: a built Keras model, sparse or stripped.
      path: of the file.
      sparse_encoding: whether kernels are encoded as sparse; without, they are stored
        whole, with zeros.

    Returns:
      The path.

    Raises:
      TypeError: for anything but a Keras model.
      ValueError: if the model cannot be stripped, or does not compute in float32.
      RuntimeError: if the converter is missing, or refuses the model, or for a subclassed
        model of several inputs, whose copy cannot be called here.

    >>> import keras, tempfile
    >>> from topkast_tf import export_litert, topkast_scope
    >>> with topkast_scope(fwd=0.9, bwd=0.8):
    ...     model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(100)])
    >>> folder = tempfile.mkdtemp()
    >>> export_litert(model, f"{folder}/model.tflite").stat().st_size < 20_000
    True
    """
    path = pathlib.Path(path)
    path.write_bytes(litert_content(model, strip(model), sparse_encoding))
    return path


def litert_content(model: Any, plain: Any, sparse_encoding: bool) -> bytes:
    """A file for LiteRT.

    Args:
      model: a model.
      plain: the same, stripped.
      sparse_encoding: as of `export_litert`, whose errors are raised.
    """
    converters = getattr(getattr(tf, "lite", None), "TFLiteConverter", None)
    if converters is None:
        raise RuntimeError(
            "Expected a TensorFlow with tf.lite.TFLiteConverter, up to 2.21 or so. "
            f"Received: TensorFlow {tf.__version__}"
        )
    _check_float32(plain)
    _call_as(model, plain)
    with tempfile.TemporaryDirectory() as folder:
        compat.export(plain, folder)
        converter = converters.from_saved_model(folder)
        if sparse_encoding:
            converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
        try:
            return converter.convert()
        except Exception as error:
            lines = [line for line in str(error).splitlines() if "error:" in line]
            reason = (lines or str(error).splitlines() or [""])[-1].split("error:")[-1]
            raise RuntimeError(
                f"Expected a model that LiteRT's converter takes ({reason.strip()[:200]}). "
                f"Received: {model!r}"
            ) from error


def _check_float32(model: Any) -> None:
    for layer in compat.layers_within(model):
        computed = getattr(layer, "compute_dtype", None) or "float32"
        if computed in ("float16", "bfloat16"):
            raise ValueError(
                "Expected a model that computes in float32, as LiteRT's converter does: "
                "load its weights into one that is built with this policy. Received: "
                f"{layer.name} in {computed}"
            )


def _call_as(model: Any, plain: Any) -> None:
    """Calls the copy of a subclassed model, whose inputs only a call tells."""
    if library_of(plain).__name__ != "keras" or getattr(plain, "inputs", None):
        return
    shapes = getattr(model, "_build_shapes_dict", None) or {}
    if len(shapes) != 1 or not all(map(_is_shape, shapes.values())):
        raise RuntimeError(
            "Expected a Functional or Sequential model, or a subclassed one that is built "
            f"with one input. Received: {model!r} of {shapes}"
        )
    [shape] = shapes.values()
    plain(tf.zeros([size or 1 for size in shape], plain.compute_dtype))


def _is_shape(shape: Any) -> bool:
    return all(size is None or isinstance(size, int) for size in shape)
