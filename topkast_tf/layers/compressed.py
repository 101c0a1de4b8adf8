"""Layers that are served: of a sparse kernel they hold the entries of A and their places.

`topkast_tf.strip(model, kernels="native")` makes them. A layer computes its product by the
native kernels; where there are none, it puts its kernel together in each call. It stays of
its class: what differs is the variables that it has, and what the methods of its class do
for such a layer (`install`).
"""

import functools
import hashlib
import math
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from topkast_tf import compat
from topkast_tf.kernels import choice, library
from topkast_tf.kernels.served import (
    SKIPPED,
    gaps_of,
    served_conv,
    served_matmul,
    whole,
)
from topkast_tf.layers.native import why_not_shaped
from topkast_tf.layers.products import (
    Convolution,
    MatrixProduct,
    finish,
    product_spec,
)
from topkast_tf.layers.structure import dense_class, library_of
from topkast_tf.variables.hooks import wrap_method, wrap_property
from topkast_tf.variables.weight import SparseWeight

HELD = "_topkast_held"
"""Attribute of a layer: its `Held` kernel."""
PLANS = "_topkast_plans"
"""Attribute of a layer: frees the plans of its kernel with it."""
KERNEL = "kernel"
ENTRIES, GAPS = "entries", "gaps"
"""The names of its parts, also in files."""
MOST_DENSE = 0.8
"""The density from which entries of 4 bytes and gaps of 1 take more than a dense kernel."""
GEOMETRY = ("strides", "padding", "dilation_rate", "groups")
"""What the plans of a convolution depend on beside the places, in its configuration."""
SHAPE = "shape"
"""The name of the kernel's shape in files."""
CLASSES = ("Dense", "EinsumDense", "Conv1D", "Conv2D")
"""The layers of Keras with native kernels."""


class Held(NamedTuple):
    """A compressed kernel.

    Attributes:
      entries: a Keras variable, those of A in the order of the weight.
      gaps: a Keras variable, their places (`topkast_tf.kernels.served.gaps_of`).
      shape: the shape of the kernel.
      key: under which native kernels keep its plans: a digest of the places.
    """

    entries: Any
    gaps: Any
    shape: tuple[int, ...]
    key: int

    @property
    def parts(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Entries and gaps, as tensors."""
        entries, gaps = (
            tf.convert_to_tensor(each.value) for each in (self.entries, self.gaps)
        )
        return entries, gaps

    def kernel(self) -> np.ndarray:
        """The whole kernel, with zeros."""
        return whole(*self.parts, self.shape).numpy()

    def kept(self) -> np.ndarray:
        """Which entries of the kernel it holds."""
        entries, gaps = self.parts
        return whole(tf.ones_like(entries), gaps, self.shape).numpy() > 0


def held_by(layer: Any) -> Held | None:
    """The compressed kernel of a layer, or None if it has a whole one, or none."""
    return vars(layer).get(HELD)


def why_not(layer: Any, weight: SparseWeight) -> str | None:
    """Why a sparse layer cannot be compressed, in a phrase; None if it can.

    Args:
      layer: a built sparse layer.
      weight: its sparse weight.
    """
    keras, size = library_of(layer), math.prod(weight.shape)
    spec = product_spec(dense_class(layer), keras)
    if weight.exempt:
        return "it is dense"
    known = isinstance(layer, _classes(keras)) and weight.local_name == KERNEL
    if not known or spec is None or not (spec.matrix(layer) or spec.convolution(layer)):
        return "there are no native kernels for its product"
    if not weight.method.sparse_forward:
        return f"the method {weight.method.name!r} has a dense forward pass"
    if weight.variable.dtype != tf.float32 or layer.compute_dtype not in choice.DTYPES:
        return f"native kernels do not compute in {layer.compute_dtype}"
    kept = int(weight.forward_mask().sum())
    if kept > MOST_DENSE * size:
        return f"it keeps {kept} of {size} entries"
    return "it has 2^31 entries or more" if size >= 2**31 else None


def compress(layer: Any, kept: np.ndarray) -> None:
    """Has a plain layer hold some entries of its kernel, in place of the kernel.

    Args:
      layer: a built layer with a kernel, of a model that is not compiled.
      kept: which entries, a boolean array; the others are zero.
    """
    values = np.asarray(layer.kernel.numpy())
    _hold(layer, values[kept].astype(np.float32), gaps_of(kept))


def _hold(layer: Any, entries: np.ndarray, gaps: np.ndarray) -> None:
    shape = tuple(layer.kernel.shape)
    config = layer.get_config()
    geometry = [config.get(name) for name in GEOMETRY]
    content = gaps.tobytes() + f"{type(layer).__name__} {shape} {geometry}".encode()
    digest = hashlib.blake2b(content, digest_size=8)
    key = -1 - (int.from_bytes(digest.digest(), "little") >> 2)
    common = {"initializer": "zeros", "trainable": False, "autocast": False}

    def make() -> Any:
        held = Held(
            layer.add_weight(
                name=ENTRIES, shape=entries.shape, dtype="float32", **common
            ),
            layer.add_weight(name=GAPS, shape=gaps.shape, dtype="uint8", **common),
            shape,
            key,
        )
        held.entries.assign(entries)
        held.gaps.assign(gaps)
        layer._topkast_gaps = held.gaps  # as an attribute, where TensorFlow looks
        vars(layer)[HELD] = held  # not by assignment, which Keras tracks
        return held.entries

    compat.replace_kernel(layer, make)


def install(keras: Any) -> None:
    """Lets the layers of Keras 3 with native kernels hold a compressed kernel, once.

    Args:
      keras: the module `keras`.
    """
    for cls in _classes(keras):
        wrap_method(cls, "call", _calling)
        wrap_method(cls, "save_own_variables", _saving)
        wrap_method(cls, "load_own_variables", _loading)
        wrap_method(cls, "get_config", _configuring)
        wrap_property(cls, KERNEL, _reading)
        for name, what in (("quantize", "quantization"), ("enable_lora", "LoRA")):
            wrap_method(cls, name, functools.partial(_refusing, what))


def _classes(keras: Any) -> tuple[type, ...]:
    if keras.__name__ != "keras":
        return ()
    return tuple(getattr(keras.layers, name) for name in CLASSES)


def _calling(original: Callable) -> Callable:
    def call(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        held = held_by(self)
        if held is None:
            return original(self, inputs, *args, **kwargs)
        return finish(self, _product(self, held, inputs), self.activation)

    return call


def _saving(original: Callable) -> Callable:
    def save_own_variables(self: Any, store: Any) -> None:
        held = held_by(self)
        if held is None:
            original(self, store)
            return
        store[ENTRIES], store[GAPS] = held.entries, held.gaps
        store[SHAPE] = np.array(held.shape, np.int64)
        if self.bias is not None:
            store["bias"] = self.bias

    return save_own_variables


def _loading(original: Callable) -> Callable:
    def load_own_variables(self: Any, store: Any) -> None:
        given, held = set(store.keys()), held_by(self)
        if GAPS not in given and held is None:
            original(self, store)
            return
        expected = {ENTRIES, GAPS, SHAPE}
        expected |= {"bias"} if self.bias is not None else set()
        if given != expected or not self.built or type(self) is not dense_class(self):
            raise ValueError(
                f"Expected a file and a layer {self.name!r} of one kind: a model that "
                "`strip(model, kernels='native')` has made, or its plain form, and a file "
                f"of such a one. Received: a layer of class {type(self).__name__}, "
                f"{'compressed' if held else 'not compressed'}, and a file with the "
                f"variables {sorted(given)}. Dense weights are loaded into the plain "
                "model, of which `strip(model, kernels='native')` then makes this one"
            )
        entries, gaps = np.asarray(store[ENTRIES]), np.asarray(store[GAPS])
        _check_loaded(self, held, store, entries, gaps)
        if held is None:
            _hold(self, entries, gaps)
        else:
            held.entries.assign(entries)
            held.gaps.assign(gaps)
        if self.bias is not None:
            self.bias.assign(store["bias"])

    return load_own_variables


def _check_loaded(
    layer: Any, held: Held | None, store: Any, entries: np.ndarray, gaps: np.ndarray
) -> None:
    """Raises a ValueError before anything changes, unless a file suits a layer."""
    shape = tuple(np.asarray(store[SHAPE]).tolist())
    expected = tuple(layer.kernel.shape) if held is None else held.shape
    bias = None if layer.bias is None else tuple(layer.bias.shape)
    given = None if bias is None else np.shape(store["bias"])
    if shape != expected or given != bias:
        raise ValueError(
            f"Expected a kernel of shape {expected} and a bias of shape {bias} for "
            f"the layer {layer.name!r}. Received: a file with {shape} and {given}"
        )
    places = int(np.where(gaps > 0, gaps.astype(np.int64), SKIPPED).sum())
    if places > math.prod(shape) or int((gaps > 0).sum()) != entries.size:
        raise ValueError(
            f"Expected gaps between {entries.size} entries of a kernel of shape {shape} "
            f"for the layer {layer.name!r}. Received: {int((gaps > 0).sum())} that lead to "
            f"place {places}, of a damaged file"
        )
    if held is not None and (held.entries.shape, held.gaps.shape) != (
        entries.shape,
        gaps.shape,
    ):
        raise ValueError(
            f"Expected {held.entries.shape[0]} entries and {held.gaps.shape[0]} gaps for "
            f"the compressed layer {layer.name!r}: a file of other sets loads into a plain "
            f"model. Received: {entries.size} and {gaps.size}"
        )


def _reading(original: Callable) -> Callable:
    def kernel(self: Any) -> Any:
        held = held_by(self)
        if held is None:
            return original(self)
        return whole(*held.parts, held.shape)

    return kernel


def _configuring(original: Callable) -> Callable:
    def get_config(self: Any) -> Any:
        if held_by(self) is not None and compat.is_saving_legacy_file():
            raise ValueError(
                "Expected one of the formats that can hold a compressed layer: `.keras`, "
                f"weights, or `export`. Received: {self.name!r}, to be saved in another"
            )
        return original(self)

    return get_config


def _refusing(what: str, original: Callable) -> Callable:
    def refused(self: Any, *args: Any, **kwargs: Any) -> Any:
        if held_by(self) is None:
            return original(self, *args, **kwargs)
        raise ValueError(
            f"Expected a layer with a whole kernel for {what}: `strip` the model without "
            f"kernels='native'. Received: the compressed layer {self.name!r}"
        )

    return refused


def _product(layer: Any, held: Held, inputs: Any) -> tf.Tensor:
    """The product of a compressed layer: native where it can be had."""
    entries, gaps = held.parts
    spec: Any = product_spec(type(layer), library_of(layer))
    made = spec.matrix(layer) or spec.convolution(layer)
    if not isinstance(inputs, tf.SparseTensor):
        inputs = tf.convert_to_tensor(inputs)
    if made is None or not _is_native(layer, held, made, inputs):
        kernel = tf.cast(whole(entries, gaps, held.shape), layer.compute_dtype)
        return spec.product(layer)(inputs, kernel)
    if PLANS not in vars(layer):
        forget = library.library().forget_plans
        vars(layer)[PLANS] = weakref.finalize(layer, forget, held.key)
    if isinstance(made, Convolution):
        how = made._asdict()
        return served_conv(inputs, entries, gaps, held.shape, key=held.key, **how)
    matrix = made.matrix_of(held.shape)
    return made.computed(
        inputs,
        held.shape,
        lambda x: served_matmul(x, entries, gaps, matrix, key=held.key),
    )


def _is_native(
    layer: Any, held: Held, made: MatrixProduct | Convolution, inputs: Any
) -> bool:
    if compat.is_compiled(tf.compat.v1.get_default_graph()):
        return False
    why = None
    if compat.has_accelerator():
        why = choice.ACCELERATOR
    elif not library.is_available():
        why = library.why_unavailable()
    if why is not None:
        logging.log_first_n(
            logging.WARNING,
            "Compressed layers make their kernel in each call: %s",
            1,
            why,
        )
        return False
    return (
        not isinstance(inputs, tf.SparseTensor)
        and inputs.dtype.name == layer.compute_dtype
        and why_not_shaped(made, inputs.shape, held.shape) is None
    )
