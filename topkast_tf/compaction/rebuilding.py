"""Builds a model again, without the units that are removed."""

from typing import Any

import numpy as np

from topkast_tf.compaction.decision import Decision
from topkast_tf.compaction.passing import Passing
from topkast_tf.compaction.products import Product
from topkast_tf.layers.remaking import copy_values, made_again
from topkast_tf.layers.structure import library_of


class Rebuilding:
    """The layers of a model without some units.

    Attributes:
      changed: id of a layer -> the new configuration and weights, by name.
    """

    def __init__(self, decision: Decision, within: dict[int, Any]):
        """Prepares the layers.

        Args:
          decision: what is removed.
          within: id of a model in the model -> that model without some units.
        """
        self.changed = dict(_changes(decision))
        self._within = within
        self._made: dict[int, tuple[Any, Any]] = {}

    def model(self, model: Any) -> Any:
        """The new model."""
        keras = library_of(model)
        found = keras.models.clone_model(model, clone_function=self._new_layer)
        for layer, made in self._made.values():
            _, weights = self.changed.get(id(layer), ({}, {}))
            for name, value in weights.items():
                getattr(made, name).assign(value)
            if not weights and hasattr(layer, "weights"):
                copy_values(layer, made)
        return found

    def _new_layer(self, layer: Any) -> Any:
        if id(layer) in self._within:
            return self._within[id(layer)]
        if id(layer) not in self._made:
            self._made[id(layer)] = (layer, self._new(layer))
        return self._made[id(layer)][1]

    def _new(self, layer: Any) -> Any:
        if id(layer) in self.changed or library_of(layer) is None:
            config, _ = self.changed.get(id(layer), ({}, {}))
            return type(layer).from_config({**layer.get_config(), **config})
        return made_again(layer)


def _changes(decision: Decision):
    kept = decision.kept
    for call, rule in zip(decision.graph.calls, decision.rules, strict=True):
        if rule is None:
            continue
        [output] = call.outputs
        ours, theirs = kept[call.inputs[0].slice], kept[output.slice]
        if isinstance(rule, Passing):
            config = {} if theirs.all() else rule.config(theirs)
            yield id(call.layer), (config, rule.weights(ours))
        elif not ours.all() or not theirs.all():
            values = decision.constants[call.inputs[0].slice]
            yield id(call.layer), _narrowed(rule, values, ours, theirs)


def _narrowed(
    rule: Product, values: np.ndarray, inputs: np.ndarray, outputs: np.ndarray
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The configuration and weights of a product without some units."""
    weights = rule.kernels(inputs, outputs)
    bias = rule.folded(values, ~inputs)[outputs]
    config: dict[str, Any] = {rule.size_key: int(outputs.sum())}
    if rule.layer.use_bias or bias.any():
        config["use_bias"] = True
        weights["bias"] = bias
    return config, weights
