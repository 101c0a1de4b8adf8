"""The products of sparse layers by the native kernels, where they can and pay."""

import functools
import math
from typing import Any

import tensorflow as tf
from absl import logging

from topkast_tf import compat
from topkast_tf.kernels import choice, library
from topkast_tf.kernels.blocks import block_matmul, lanes_of
from topkast_tf.kernels.choice import MASKED, NATIVE, Choice
from topkast_tf.kernels.convolutions import (
    LARGEST_STRIDES,
    finds_entries,
    output_sizes,
    sparse_conv,
)
from topkast_tf.kernels.products import new_key, sparse_matmul
from topkast_tf.layers import export_warning
from topkast_tf.layers.counting import is_counting
from topkast_tf.layers.products import Convolution, MatrixProduct, Product, ProductSpec
from topkast_tf.methods.base import GRADIENT
from topkast_tf.variables import hooks
from topkast_tf.variables.components import local_index
from topkast_tf.variables.replica import WeightReplica
from topkast_tf.variables.weight import SparseWeight


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
    made = _made_if_chosen(layer, spec, inputs, weight)
    if made is None:
        return None
    replica = weight.replica(local_index(weight.variable))
    if replica.entries is not None:
        entries = weight.powered(replica.entries.read_value())
        return _computed(made, inputs, entries, replica)
    with hooks.dense_reads():
        theta = tf.convert_to_tensor(replica.theta)
    return _computed(made, inputs, weight.powered(theta), replica)


def product_for_rule(
    layer: Any, spec: ProductSpec, inputs: Any, weight: SparseWeight
) -> Product:
    """The product that a layer's rule computes with: native if that is chosen.

    Args:
      layer: a sparse layer with a product rule.
      spec: how its class computes its output.
      inputs: its inputs.
      weight: its sparse weight, whose variables exist.

    Raises:
      NoNativeKernels: if the layer's scope asks for native kernels that cannot be had.
    """
    made = _made_if_chosen(layer, spec, inputs, weight)
    if made is None:
        return spec.product(layer)
    replica = weight.replica(local_index(weight.variable))

    def product(activation: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return _computed(made, activation, tf.cast(kernel, tf.float32), replica)

    return product


def _made_if_chosen(
    layer: Any, spec: ProductSpec, inputs: Any, weight: SparseWeight
) -> MatrixProduct | Convolution | None:
    asked = layer._topkast_scope.kernels
    if asked == MASKED or weight.exempt or is_counting():
        return None
    weight.prepare()
    made = spec.matrix(layer) or spec.convolution(layer)
    weight.kernels = chosen(layer, spec, made, inputs, weight)
    if weight.kernels.kernels != NATIVE:
        return None
    layer._topkast_scope.has_native_layer()
    return made


def chosen(
    layer: Any,
    spec: ProductSpec,
    made: MatrixProduct | Convolution | None,
    inputs: Any,
    weight: SparseWeight,
) -> Choice:
    """How the product of a layer is to be computed.

    Args:
      layer: a sparse layer, not exempt.
      spec: how its class computes its output.
      made: its product as one of matrices or as a convolution, or None.
      inputs: its inputs.
      weight: its sparse weight.

    Raises:
      NoNativeKernels: if the layer's scope asks for native kernels that cannot be had.
    """
    asked = layer._topkast_scope.kernels
    why = _why_elsewhere()
    if why is not None:  # of the run, not of the layer
        is_asked = asked == NATIVE and why in (choice.ACCELERATOR, choice.XLA)
        if is_asked or (why == choice.XLA and _pays(layer, spec, made, inputs, weight)):
            _say_once(why)
        return Choice(MASKED, why)
    if made is None:
        why = f"there is no native kernel for this {_kind(layer)}"
    else:
        why = _why_not(layer, spec, made, inputs, weight)
    if made is not None and why is None:
        gain = _speedup(made, inputs, weight)
        faster = f"about {gain:.1f} times as fast"
        if weight.packed is not None:
            # A masked product would make alpha from the entries in each step.
            gain, faster = math.inf, "of packed storage"
        if asked == NATIVE or gain > 1:
            if library.is_available():
                return Choice(NATIVE, "asked for" if asked == NATIVE else faster)
            why = library.why_unavailable()
        else:
            why = f"native {faster}"
    if asked == NATIVE:
        choice.refuse(weight.path, why)
    return Choice(MASKED, why)


@functools.cache
def _say_once(why: str) -> None:
    logging.warning("Layers compute the masked product: %s.", why)


def _pays(
    layer: Any,
    spec: ProductSpec,
    made: MatrixProduct | Convolution | None,
    inputs: Any,
    weight: SparseWeight,
) -> bool:
    """Whether native kernels would be chosen, were it not for the run."""
    if made is None or _why_not(layer, spec, made, inputs, weight) is not None:
        return False
    return _speedup(made, inputs, weight) > 1


def _why_elsewhere() -> str | None:
    """Why nothing that is traced now can use CPU kernels, or None."""
    why = choice.why_elsewhere()
    if why is not None:
        return why
    if hooks.dense_reads_requested() or not hooks.in_forward_pass():
        return (
            "theta is read, not alpha: in `dense_reads`, or outside of a layer's call"
        )
    if export_warning.is_exporting():
        return "an export holds the masked product, which runs everywhere"
    return None


def _why_not(
    layer: Any,
    spec: ProductSpec,
    made: MatrixProduct | Convolution,
    inputs: Any,
    weight: SparseWeight,
) -> str | None:
    """Why a layer cannot have native kernels, or None if it can."""
    method, computed = weight.method, layer.compute_dtype
    rule = weight.rule
    if rule is not None and rule.gradient_density(weight) is None:
        return f"there is no native kernel for these operands of {rule.name!r}"
    if method.computes_alpha or not method.sparse_forward:
        return f"there is no native kernel for the method {method.name!r}"
    if isinstance(inputs, tf.SparseTensor):
        return "its input is a sparse tensor"
    if weight.variable.dtype != tf.float32:
        return (
            "native kernels are for variables in float32, and its weight is in "
            f"{tf.as_dtype(weight.variable.dtype).name}"
        )
    if computed not in choice.DTYPES or inputs.dtype.name != computed:
        return (
            f"native kernels compute in {' or '.join(choice.DTYPES)}, and it computes in "
            f"{computed} from {inputs.dtype.name}"
        )
    grouped = isinstance(made, Convolution) and made.groups > 1
    if grouped and method.has_dense_gradient:
        return (
            "there is no native kernel for the dense gradient of a grouped convolution"
        )
    why = why_not_shaped(made, inputs.shape, weight.shape)
    if why is not None:
        return why
    if compat.is_given_statelessly(getattr(layer, spec.kernel)):
        return "a `StatelessScope` gives its weights"
    if math.prod(weight.shape) >= 2**31:
        return "it has 2^31 entries or more"
    return None


def why_not_shaped(
    made: MatrixProduct | Convolution, inputs: tf.TensorShape, weight: tuple[int, ...]
) -> str | None:
    """Why an input's shape does not suit a layer's native kernels, or None."""
    if isinstance(made, Convolution):
        trailing = 1
        expected: tuple[int, ...] = (weight[-2] * made.groups,)
        extra = inputs.rank != len(weight)
        if math.prod(made.strides) > LARGEST_STRIDES:
            return f"its strides are too large: {made.strides}"
    else:
        trailing = made.input_axes
        expected = weight[made.kernel_axes - trailing : made.kernel_axes]
        extra = made.strides and inputs.rank != len(made.strides) + 2
    if inputs.rank is None or None in inputs[-trailing:]:
        return "its input has an unknown shape"
    if tuple(inputs[-trailing:]) != expected or extra:
        return f"its input has another shape than expected: {inputs}"
    return None


def _kind(layer: Any) -> str:
    cls = getattr(type(layer), "_topkast_dense_class", type(layer))
    window = getattr(layer, "kernel_size", None)
    return cls.__name__ if window is None else f"{cls.__name__} with window {window}"


def _speedup(
    made: MatrixProduct | Convolution, inputs: Any, weight: SparseWeight
) -> float:
    sizes = [choice.TYPICAL_BATCH if n is None else n for n in inputs.shape]
    forward, _, of_gradient = weight.method.mean_products(weight.fwd, weight.bwd)
    if weight.method.has_dense_gradient:  # in which steps, the share says
        of_gradient = forward if weight.method.one_mask else weight.bwd
    common = {
        "forward_density": 1 - forward,
        "backward_density": 1 - of_gradient,
        "cpu": library.fastest(),
        "every": _steps_between_changes(weight),
        "dense_gradient": _share_of_dense_gradients(weight),
        "activation_density": _activation_density(weight),
        "bfloat16": library.bfloat16_unit() if inputs.dtype == tf.bfloat16 else None,
    }
    if isinstance(made, Convolution):
        if not finds_entries(inputs.shape, made.strides):
            common["activation_density"] = None
        images, *of_input, _ = sizes
        outputs = output_sizes(of_input, weight.shape[:-2], *made[:3])
        of_layer = choice.ConvolutionSizes(
            *(images, tuple(of_input), tuple(outputs), tuple(weight.shape)),
            *(made.groups, tuple(made.dilations)),
        )
        return choice.speedup_of_convolution(of_layer, **common)
    positions = math.prod(sizes[: -made.input_axes]) // math.prod(made.strides)
    return choice.speedup(
        *made.matrix_of(weight.shape),
        positions,
        **common,
        has_blocks=_lanes_of(made, inputs, weight) is not None,
    )


def _lanes_of(made: MatrixProduct, inputs: Any, weight: SparseWeight) -> str | None:
    """Along which axis the sets are blocks that have faster kernels of their own."""
    if library.fastest() not in choice.BLOCK_COSTS or inputs.dtype != tf.float32:
        return None
    if weight.packed is not None:  # blocks are read where they lie in the weight
        return None
    return lanes_of(weight.blocks, *made.matrix_of(weight.shape))


def _computed(
    made: MatrixProduct | Convolution,
    inputs: tf.Tensor,
    theta: tf.Tensor,
    replica: WeightReplica,
) -> tf.Tensor:
    compute = _convolution if isinstance(made, Convolution) else _product
    return compute(made, inputs, theta, replica)


def _convolution(
    made: Convolution, inputs: tf.Tensor, theta: tf.Tensor, replica: WeightReplica
) -> tf.Tensor:
    return sparse_conv(
        inputs,
        theta,
        replica.sets.read_value(),
        key=_key(replica),
        **made._asdict(),
        **_gradient_of_theta(replica),
    )


def _steps_between_changes(weight: SparseWeight) -> int | None:
    if weight.method.updates_between_refreshes:
        return 1
    if _is_due_once(weight):
        return None
    return getattr(weight.schedule, "every", None)  # some never change


def _is_due_once(weight: SparseWeight) -> bool:
    """Whether its sets change in one step alone, as those of SNIP."""
    last = getattr(weight.schedule, "last", None)
    return last is not None and last - weight.schedule.first < weight.schedule.every


def _share_of_dense_gradients(weight: SparseWeight) -> float:
    """The fraction of steps in which the gradient of theta is the dense one."""
    if not _looks_at_some_steps(weight):
        return float(weight.method.has_dense_gradient)
    if _is_due_once(weight):
        return 0.0
    return 1 / (_steps_between_changes(weight) or 1)


def _looks_at_some_steps(weight: SparseWeight) -> bool:
    """Whether only the steps that its method looks at need the dense gradient."""
    return weight.method.inputs == (GRADIENT,) and not weight.method.dense_updates


def _dense_if(replica: WeightReplica) -> tf.Tensor | None:
    """Whether a step needs the dense gradient; None for all steps or none."""
    if not _looks_at_some_steps(replica.weight):
        return None
    return replica.weight.looks_at_gradient_at(replica.counters.read_value())


def _gradient_of_theta(replica: WeightReplica) -> dict[str, Any]:
    """How a native product computes the gradient of theta, as its arguments."""
    return {
        "dense_gradient": replica.weight.method.has_dense_gradient,
        "dense_if": _dense_if(replica),
        "sparse_activations": _activation_density(replica.weight) is not None,
    }


def _activation_density(weight: SparseWeight) -> float | None:
    """The density of activations whose entries a dense gradient is computed from."""
    if weight.rule is None or not weight.method.has_dense_gradient:
        return None
    density = weight.rule.gradient_density(weight)
    return density if density is not None and density < 1 else None


def _product(
    made: MatrixProduct, inputs: tf.Tensor, theta: tf.Tensor, replica: WeightReplica
) -> tf.Tensor:
    weight = replica.weight
    matrix = made.matrix_of(weight.shape)
    lanes = _lanes_of(made, inputs, weight)
    if lanes:
        multiply = functools.partial(block_matmul, lanes=lanes)
    else:
        # Code takes several times the memory of a plan.
        code = "auto" if weight.theta_dir is None else "static"
        multiply = functools.partial(sparse_matmul, code=code)
    return made.computed(
        inputs,
        weight.shape,
        lambda x: multiply(
            x,
            theta if replica.entries is not None else tf.reshape(theta, matrix),
            tf.reshape(replica.sets.read_value(), matrix),
            key=_key(replica),
            **_gradient_of_theta(replica),
        ),
    )


def _key(replica: WeightReplica) -> int:
    if replica.plans_key is None:
        replica.plans_key = new_key(replica)
    return replica.plans_key
