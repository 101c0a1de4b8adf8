"""Saving of sparse layers: the configuration with the scope, the state by name.

The layer's own configuration stays flat, and its class saves the same variables as before.
The scope is added to the configuration under `SAVED_KEY`, the state to the variables.
"""

from typing import Any

import numpy as np

from topkast_tf import compat
from topkast_tf.layers import export_warning
from topkast_tf.layers.product_rule import ProductRule
from topkast_tf.layers.structure import dense_class, seen_as
from topkast_tf.layers.weight_lists import STATE_KEY
from topkast_tf.layers.weights import (
    random_state,
    state_hidden,
    state_of,
    weights_of,
    without_state,
)
from topkast_tf.variables.restart import restart
from topkast_tf.variables.scope_state import SparsityScope

SAVED_KEY = "topkast"


def _saved_scope(layer: Any, scope: SparsityScope, saved: dict) -> dict:
    kind = {key: saved[key] for key in ("module", "class_name", "registered_name")}
    config = {"layer": kind, "scope": scope.get_config(layer)}
    rule = layer._topkast_rule
    if rule is not None:
        config["rule"] = {"name": rule.name, "config": rule.get_config()}
    return config


def without_scope(config: dict) -> dict:
    """The serialised dense layer for a sparse layer's configuration."""
    own = {key: value for key, value in config.items() if key != SAVED_KEY}
    return {**config[SAVED_KEY]["layer"], "config": own}


def seen_dense(layer: Any) -> Any:
    """A layer as its dense class sees it, without the state of sparse weights."""
    return seen_as(layer, dense_class(layer), **without_state(layer))


class SavesScope:
    """Mixin of a sparse layer: its configuration restores the scope."""

    _topkast_scope: SparsityScope | None
    _topkast_rule: ProductRule | None
    _topkast_library: Any
    _topkast_dense_class: type
    name: str

    def get_config(self):
        scope, saving = self._topkast_scope, self._topkast_library.saving
        layer = seen_as(self, self._topkast_dense_class)
        if scope is None:
            return layer.get_config()
        saved = saving.serialize_keras_object(layer)
        if not {"config", "module"} <= saved.keys() or compat.is_saving_legacy_file():
            raise ValueError(
                "Expected one of the formats that can hold a sparse model: `.keras`, "
                "weights, or a `tf.train.Checkpoint`; or `strip` it first. "
                f"Received: {self.name!r}, to be saved in another format"
            )
        # The layer's own configuration stays flat: wrappers such as Bidirectional read
        # and change it.
        return {**saved.pop("config"), SAVED_KEY: _saved_scope(self, scope, saved)}


class SavesState:
    """Mixin of a sparse layer: sets and counters are saved by name.

    Some layers save only the variables that they know, by position. So each layer saves
    and loads as its dense class does, and the state is added by name. Saving does not
    modify the layer, because another thread may be training it.
    """

    name: str
    built: bool

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        children = super()._trackable_children(save_type, **kwargs)
        if save_type != "checkpoint":
            export_warning.warn_of_theta([self])  # by `tf.saved_model.save`
            return children
        return {**children, **random_state(self)}

    def _lookup_dependency(self, name, *args, **kwargs):
        found = random_state(self).get(name)
        if found is not None:
            return found
        return super()._lookup_dependency(name, *args, **kwargs)

    def save_own_variables(self, store):
        for weight in weights_of(self):
            weight.raise_if_faulty()
        seen = seen_as(self, type(self), **without_state(self))
        super(SavesState, seen).save_own_variables(store)
        for name, variable in state_of(self).items():
            store[STATE_KEY + name] = variable

    def load_own_variables(self, store):
        state = state_of(self)
        keys = list(store.keys())
        saved = {key.removeprefix(STATE_KEY) for key in keys if STATE_KEY in key}
        if saved and saved != set(state) and self.built:
            raise ValueError(
                f"Layer {self.name!r} expected the state {sorted(state)}, as from the same "
                "arguments of the scope, or none at all, as from a dense or stripped "
                f"model. Received: a file with the state {sorted(saved)}"
            )
        loaded = {name: np.asarray(store[STATE_KEY + name]) for name in saved}
        if saved:
            for weight in weights_of(self):
                name = weight.local_name
                weight.check_state(loaded[f"{name}_clock"], loaded[f"{name}_sets"])
        with state_hidden(self):
            own = {key: store[key] for key in keys if STATE_KEY not in key}
            super().load_own_variables(own)
        for name in saved:
            state[name].assign(loaded[name])
        if not saved:
            restart(weights_of(self))
