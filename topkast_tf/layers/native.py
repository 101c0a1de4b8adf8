"""The products of sparse layers by the native kernels, where they can and pay."""

import contextlib
import contextvars
import math
from typing import Any, NamedTuple

import tensorflow as tf
from absl import logging

from topkast_tf import compat
from topkast_tf.core.context_values import holding
from topkast_tf.kernels import choice, library
from topkast_tf.kernels.products import new_key, sparse_matmul
from topkast_tf.layers import export_warning
from topkast_tf.layers.products import MatrixProduct, ProductSpec
from topkast_tf.variables import hooks
from topkast_tf.variables.components import local_index
from topkast_tf.variables.replica import WeightReplica
from topkast_tf.variables.weight import SparseWeight

MASKED, NATIVE = "masked", "native"

_tracing_masked = contextvars.ContextVar("tracing_masked", default=False)


class Choice(NamedTuple):
    """How the product of a layer is computed.

    Attributes:
      kernels: `MASKED` or `NATIVE`.
      why: a short phrase.
    """

    kernels: str
    why: str


def masked_products() -> contextlib.AbstractContextManager[None]:
    """Within it, layers compute the masked product: a graph has known operations."""
    return holding(_tracing_masked, True)


def refuse_with_rule(layer: Any, weight: SparseWeight) -> None:
    """Raises an error if native kernels are asked for beside a product rule."""
    if layer._topkast_scope.kernels == NATIVE:
        _refuse(weight, f"its product is computed by {weight.rule.name!r}")


def _refuse(weight: SparseWeight, why: str | None) -> None:
    raise choice.NoNativeKernels(
        "Expected a layer that has native kernels, as kernels='native' asks for. "
        f"Received: {weight.path}: {why}"
    )


def product(
    layer: Any, spec: ProductSpec, inputs: Any, weight: SparseWeight
) -> tf.Tensor | None:
    """The product of a layer by the native kernels; None if the masked one is chosen.

    Args:
      layer: a sparse layer.
      spec: how its class computes its output.
      inputs: its inputs.
      weight: its sparse weight, whose variables exist.

    Raises:
      NoNativeKernels: if the layer's scope asks for native kernels that cannot be had.
    """
    asked = layer._topkast_scope.kernels
    if asked == MASKED or weight.exempt or _tracing_masked.get():
        return None
    weight.prepare()
    made = spec.matrix(layer)
    found = chosen(layer, spec, made, inputs, weight)
    weight.kernels = found
    if made is None or found.kernels == MASKED:
        return None
    replica = weight.replica(local_index(weight.variable))
    return _product(made, inputs, replica)


def chosen(
    layer: Any,
    spec: ProductSpec,
    made: MatrixProduct | None,
    inputs: Any,
    weight: SparseWeight,
) -> Choice:
    """How the product of a layer is to be computed.

    Args:
      layer: a sparse layer, not exempt.
      spec: how its class computes its output.
      made: its product as one of matrices, or None.
      inputs: its inputs.
      weight: its sparse weight.

    Raises:
      NoNativeKernels: if the layer's scope asks for native kernels that cannot be had.
    """
    asked = layer._topkast_scope.kernels
    why = _why_elsewhere()
    if why is not None:  # of the run, not of the layer
        if asked == NATIVE:
            logging.log_first_n(
                logging.WARNING, "Layers compute the masked product: %s.", 1, why
            )
        return Choice(MASKED, why)
    if made is None:
        why = f"there is no native kernel for this {_kind(layer)}"
    else:
        why = _why_not(layer, spec, made, inputs, weight)
    if made is not None and why is None:
        gain = _speedup(made, inputs, weight)
        faster = f"about {gain:.1f} times as fast"
        if asked == NATIVE or gain > 1:
            if library.is_available():
                return Choice(NATIVE, "asked for" if asked == NATIVE else faster)
            why = library.why_unavailable()
        else:
            why = f"native {faster}"
    if asked == NATIVE:
        _refuse(weight, why)
    return Choice(MASKED, why)


def _why_elsewhere() -> str | None:
    """Why nothing that is traced now can use CPU kernels, or None."""
    if tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"):
        return "native kernels are for the CPU, and there is an accelerator"
    if compat.is_compiled(tf.compat.v1.get_default_graph()):
        return "XLA compiles the masked product"
    if hooks.dense_reads_requested():
        return "theta is read, not alpha (`dense_reads`)"
    if export_warning.is_exporting():
        return "an export holds the masked product, which runs everywhere"
    return None


def _why_not(
    layer: Any,
    spec: ProductSpec,
    made: MatrixProduct,
    inputs: Any,
    weight: SparseWeight,
) -> str | None:
    """Why a layer cannot have native kernels, or None if it can."""
    method, computed = weight.method, layer.compute_dtype
    if method.computes_alpha or not method.sparse_forward:
        return f"there is no native kernel for the method {method.name!r}"
    if isinstance(inputs, tf.SparseTensor):
        return "its input is a sparse tensor"
    if {weight.variable.dtype, inputs.dtype} != {tf.float32} or computed != "float32":
        return (
            f"native kernels are for float32, and it computes in {computed} from "
            f"{inputs.dtype.name}"
        )
    if inputs.shape.rank is None or None in inputs.shape[-made.input_axes :]:
        return "its input has an unknown shape"
    expected = weight.shape[made.kernel_axes - made.input_axes : made.kernel_axes]
    extra = made.strides and inputs.shape.rank != len(made.strides) + 2
    if tuple(inputs.shape[-made.input_axes :]) != expected or extra:
        return f"its input has another shape than expected: {inputs.shape}"
    if compat.is_given_statelessly(getattr(layer, spec.kernel)):
        return "a `StatelessScope` gives its weights"
    if math.prod(weight.shape) >= 2**31:
        return "it has 2^31 entries or more"
    return None


def _kind(layer: Any) -> str:
    cls = getattr(type(layer), "_topkast_dense_class", type(layer))
    window = getattr(layer, "kernel_size", None)
    return cls.__name__ if window is None else f"{cls.__name__} with window {window}"


def _speedup(made: MatrixProduct, inputs: Any, weight: SparseWeight) -> float:
    positions = math.prod(
        choice.TYPICAL_BATCH if size is None else size
        for size in inputs.shape[: -made.input_axes]
    )
    positions //= math.prod(made.strides)
    return choice.speedup(
        math.prod(weight.shape[: made.kernel_axes]),
        math.prod(weight.shape[made.kernel_axes :]),
        positions,
        1 - weight.fwd,
        1 - weight.bwd,
        library.fastest(),
        every=getattr(weight.schedule, "every", None),  # some never change
        dense_gradient=weight.method.has_dense_gradient,
    )


def _product(
    made: MatrixProduct, inputs: tf.Tensor, replica: WeightReplica
) -> tf.Tensor:
    if made.strides:
        steps = [slice(None, None, step) for step in made.strides]
        inputs = inputs[(slice(None), *steps)]
    shape = replica.weight.shape
    rows = math.prod(shape[: made.kernel_axes])
    matrix = [rows, math.prod(shape[made.kernel_axes :])]
    with hooks.dense_reads():
        theta = tf.convert_to_tensor(replica.theta)
    y = sparse_matmul(
        tf.reshape(inputs, [-1, rows]),
        tf.reshape(theta, matrix),
        tf.reshape(replica.sets.read_value(), matrix),
        key=_key(replica),
        dense_gradient=replica.weight.method.has_dense_gradient,
    )
    batch, rest = inputs.shape[: -made.input_axes], shape[made.kernel_axes :]
    known = [-1 if size is None else size for size in batch]
    if known.count(-1) > 1:
        known = tf.concat([tf.shape(inputs)[: -made.input_axes], rest], 0)
    else:
        known = [*known, *rest]
    return tf.ensure_shape(tf.reshape(y, known), [*batch, *rest])


def _key(replica: WeightReplica) -> int:
    if replica.plans_key is None:
        replica.plans_key = new_key(replica)
    return replica.plans_key
