"""The layers of a Keras model, its masks, the zeros of its activations, its cycles."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from swat_tf import topk
from swat_tf.rule import SparseBackward
from swat_tf.simulator.accelerator import Accelerator
from swat_tf.simulator.keras_layers import kernel_shape, layer_on, multiplying, path_of
from swat_tf.simulator.layers import Layer
from swat_tf.simulator.report import SimulationReport
from swat_tf.simulator.simulation import SAMPLE, simulate
from swat_tf.simulator.systolic import SystolicArray
from topkast_tf.compat import function_of, layers_within, nodes_of
from topkast_tf.variables.lookup import sparse_weights


class Operands(NamedTuple):
    """What a training step of a model multiplies, as `simulate` takes it.

    Attributes:
      layers: its dense and convolution layers.
      weights: layer name -> where the weights of the forward pass are not zero, of the
        kernel's shape; layers whose weights have no zero have no mask.
      activations: layer name -> where its input is not zero, (examples, spatial sizes...,
        channels); empty if no inputs are given.
    """

    layers: list[Layer]
    weights: dict[str, np.ndarray]
    activations: dict[str, np.ndarray]


def simulate_model(
    model: Any,
    machine: Accelerator | SystolicArray,
    inputs: Any = None,
    *,
    batch: int | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    advanced: Callable[[int, int], None] = lambda *_: None,
) -> SimulationReport:
    """The cycles of a training step of a model, with its real masks and activations.

    Args:
      model: a Keras model of dense layers and convolutions, in a scope or not.
      machine: an `Accelerator`, or a `SystolicArray`, such as `preset` returns.
      inputs: as of `operands_of`.
      batch: examples of the step, for which those of `inputs` stand; default these, else 1.
      sample: as of `simulate`.
      seed: as of `simulate`.
      advanced: as of `simulate`.

    Returns:
      A `SimulationReport`; ``report.cycles()`` and ``report.cycles(dense=True)`` are its
      totals with zeros skipped and multiplied, and `str()` is its table.

    Raises:
      ValueError: as `operands_of` and `simulate`.

    >>> from swat_tf import swat_scope
    >>> from swat_tf.simulator import preset
    >>> with swat_scope(0.9):
    ...     model = keras.Sequential([keras.Input((512,)), keras.layers.Dense(512)])
    >>> report = simulate_model(model, preset("tcl"), np.ones((16, 512), "float32"))
    >>> report.cycles(dense=True) > report.cycles()
    True
    """
    found = operands_of(model, inputs)
    return simulate(
        found.layers,
        machine,
        found.weights,
        found.activations,
        batch=batch,
        sample=sample,
        seed=seed,
        advanced=advanced,
    )


def operands_of(model: Any, inputs: Any = None) -> Operands:
    """The layers of a model, and where their weights and inputs are not zero.

    Of weights that a scope made sparse the mask is the forward set A; of others, the
    entries that are not zero. The model is called with the inputs as in inference: without
    dropout, and with the running statistics of norms. Of a layer that `swat_scope` trains
    with sparse activations, only the largest of the batch count, as its weight gradient
    uses no others.

    Args:
      model: a Keras model of dense layers and convolutions: plain, with groups, or
        depthwise, and einsums that are products of matrices.
      inputs: a batch for the model; any model that can be called with it, also if it calls
        a layer more than once: ``#2`` is in the name of a second call. None: activations
        have no masks, and the model is one of `layers_of`.

    Raises:
      ValueError: for a layer that multiplies in another way, has channels first, quantized
        kernels or an input of unknown size, and as `layers_of`.

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.ReLU(), keras.layers.Dense(2)], name="net"
    ... )
    >>> found = operands_of(model, np.array([[1.0, -1.0, 2.0, -2.0]]))
    >>> found.activations["net/dense/kernel"].astype(int)
    array([[[1, 0, 1, 0]]])
    """
    if inputs is None:
        layers, activations = layers_of(model), {}
    else:
        watched = _watched(model, inputs)
        layers = [layer for layer, _ in watched]
        activations = {layer.name: mask for layer, mask in watched}
    masks = _masks(model)
    paths = {layer.name: layer.name.partition("#")[0] for layer in layers}
    weights = {name: masks[path] for name, path in paths.items() if path in masks}
    return Operands(layers, weights, activations)


def layers_of(model: Any) -> list[Layer]:
    """The dense and convolution layers of a model, in its order.

    Args:
      model: a Keras model that calls each of its layers once, such as a Functional or
        Sequential one; its weights need no values.

    Returns:
      A `Layer` for each, named by the path of its kernel.

    Raises:
      ValueError: as `operands_of`, and for a layer that is called more than once or by a
        layer that is not Functional.

    >>> model = keras.Sequential(
    ...     [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, 2, "same", name="conv")],
    ...     name="net",
    ... )
    >>> [layer] = layers_of(model)
    >>> layer.name, layer.outputs, layer.padding
    ('net/conv/kernel', (4, 4), ((0, 1), (0, 1)))
    """
    _check_called_once(model)
    found = [layer_on(each, _input_shape(each), None) for each in multiplying(model)]
    _check_any(found, model)
    return found


def _masks(model: Any) -> dict[str, np.ndarray]:
    """Path of a kernel with zeros -> where it is not zero."""
    sets = {weight.path: weight for weight in sparse_weights(model)}
    found = {}
    for each in multiplying(model):
        path = path_of(each)
        weight = sets.get(path)
        values = np.asarray(
            each.kernel if weight is None else weight.effective(), dtype=np.float32
        )
        mask = (values != 0).reshape(kernel_shape(each))
        if not mask.all():
            found[path] = mask
    return found


def _watched(model: Any, inputs: Any) -> list[tuple[Layer, np.ndarray]]:
    """Each call of a layer in one of the model: the layer, and where its input is not 0."""
    examples = len(keras.tree.flatten(inputs)[0])
    weights = {weight.path: weight for weight in sparse_weights(model)}
    times: Counter[str] = Counter()
    seen: list[tuple[Any, str, np.ndarray]] = []

    def keep(layer: Any, values: Any) -> None:
        path = path_of(layer)
        times[path] += 1
        mask = np.asarray(keras.ops.not_equal(values, 0))
        weight = weights.get(path)
        if weight is not None and isinstance(weight.rule, SparseBackward):
            rule = weight.rule
            if "activations" in rule.backward:
                sparsity, per = rule.sparsity_of(weight), rule.activations_per
                mask = mask & np.asarray(topk.mask_of(values, sparsity, per))
        name = path if times[path] == 1 else f"{path}#{times[path]}"
        seen.append((layer, name, mask))

    with _Watching(list(multiplying(model)), keep):
        model(inputs, training=False)
    _check_any(seen, model)
    # Not within the call: Keras wraps what is raised there in a text of several lines.
    found = []
    for called, name, mask in seen:
        layer = dataclasses.replace(layer_on(called, mask.shape, examples), name=name)
        found.append((layer, mask.reshape(examples, *layer.inputs, layer.channels)))
    return found


def _check_any(found: list[Any], model: Any) -> None:
    if not found:
        raise ValueError(
            "Expected a model with dense or convolution layers. "
            f"Received: {getattr(model, 'name', model)!r}, which has none"
        )


class _Watching:
    """Within it, a function is called with each layer and the input it is called with."""

    def __init__(self, layers: list[Any], seen: Callable[[Any, Any], None]):
        self._layers = layers
        self._seen = seen

    def __enter__(self) -> None:
        for layer in self._layers:
            object.__setattr__(layer, "call", self._watched(layer, layer.call))

    def __exit__(self, *_: object) -> None:
        for layer in self._layers:
            object.__delattr__(layer, "call")

    def _watched(self, layer: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self._seen(layer, inputs)
            return call(inputs, *args, **kwargs)

        return watched


def _check_called_once(model: Any) -> None:
    """Raises for a layer that a graph has twice: Keras tells the first input alone."""
    times: Counter[int] = Counter()
    inner = layers_within(model)
    functions = {id(found): found for each in inner if (found := function_of(each))}
    for function in functions.values():
        times.update(id(node.operation) for node in nodes_of(function))
    for each in inner:
        if times[id(each)] > 1 and any(True for _ in multiplying(each)):
            raise ValueError(
                "Expected a model that calls each of its layers once, or a batch of "
                f"inputs. Received: {type(each).__name__} {each.name!r}, which is called "
                f"{times[id(each)]} times"
            )


def _input_shape(layer: Any) -> tuple[int | None, ...]:
    try:
        return tuple(layer.input.shape)
    except (AttributeError, ValueError):
        raise ValueError(
            "Expected a Functional or Sequential model that calls each of its layers "
            f"once, or a batch of inputs. Received: {type(layer).__name__} "
            f"{layer.name!r}, which is called otherwise"
        ) from None
