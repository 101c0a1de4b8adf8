"""The Keras door: layers constructed in a scope make their weights sparse.

While a scope is active, constructing a layer gives an instance of a subclass of its
class (`sparse_layer_class`) that remembers the scope. Whenever such a layer makes a
weight, then or when it builds later, the scope decides whether it is sparsified; and
what the layer saves restores the scope around it, so that a saved model comes back
sparse. The same code serves Keras 3 and tf_keras.
"""

import contextlib
import functools
import inspect
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from topkast_tf.core import kernel_rule
from topkast_tf.core.thread_stack import (
    activated,
    activated_rule,
    active_rule,
    active_scope,
)
from topkast_tf.layers import calls as layer_calls
from topkast_tf.layers import export_warning, weight_lists
from topkast_tf.layers import products as linear
from topkast_tf.layers.weight_lists import STATE_KEY
from topkast_tf.layers.weights import (
    consider_weight,
    random_state,
    state_hidden,
    state_list,
    state_of,
    weights_of,
    without_state,
)
from topkast_tf.variables import decay_warning, hooks
from topkast_tf.variables.scope_state import SparsityScope, joined
from topkast_tf.variables.weight import restart

hooks.around_update.append(decay_warning.warning_of_decay)

PACKAGE = "topkast_tf"
SAVED_NAME = "SparseLayer"
SAVED_KEY = "topkast"

_WEIGHTLESS = (
    "BatchNormalization",
    "LayerNormalization",
    "GroupNormalization",
    "RMSNormalization",
    "Add",
    "Average",
    "Concatenate",
    "Dot",
    "Maximum",
    "Minimum",
    "Multiply",
    "Subtract",
    "PReLU",
    "InputLayer",
)
_lock = threading.RLock()
_open_doors: dict[Any, int] = {}


@contextlib.contextmanager
def constructing_sparse(library: Any) -> Iterator[None]:
    """While it is open, layers of a Keras library are constructed for the active scope.

    Args:
      library: the module `keras` or `tf_keras`.
    """
    layer_class = library.layers.Layer
    with _lock:
        _open_doors[layer_class] = _open_doors.get(layer_class, 0) + 1
        if _open_doors[layer_class] == 1:
            _hook_construction(layer_class, library)
    try:
        yield
    finally:
        with _lock:
            _open_doors[layer_class] -= 1
            if not _open_doors[layer_class]:
                layer_class.__new__ = layer_class.__new__.original


@contextlib.contextmanager
def _reentered(
    scope: SparsityScope, rule: linear.ProductRule | None, library: Any
) -> Iterator[None]:
    """A scope, for the layers that are constructed late or from a file."""
    with activated(scope), activated_rule(rule), constructing_sparse(library):
        yield


def _hook_construction(layer_class: type, library: Any) -> None:
    original = layer_class.__new__

    def new(cls, *args, **kwargs):
        scope = active_scope()  # of this thread: others are not affected
        if scope is None or not _is_of_interest(cls, library):
            return original(cls, *args, **kwargs)
        layer = original(sparse_layer_class(cls, library), *args, **kwargs)
        # Keras tracks what is set as an attribute; this is not for it to see.
        object.__setattr__(layer, "_topkast_scope", scope)
        object.__setattr__(layer, "_topkast_rule", active_rule())
        return layer

    new.original = original  # type: ignore[attr-defined]
    layer_class.__new__ = new  # type: ignore[method-assign,assignment]


def _is_of_interest(cls: type, library: Any) -> bool:
    """Whether a layer class may make a kernel, or layers that do, or random numbers."""
    if issubclass(cls, _SparseLayer):
        return True
    root = cls.__module__.split(".")[0]
    if root != library.__name__:
        return True  # a user's own
    models = (library.Model, library.Sequential)
    if issubclass(cls, models):
        return False  # their layers join by themselves
    named = {getattr(library.layers, name, None) for name in _WEIGHTLESS}
    if cls in named:
        return False
    rule = active_rule()
    if rule and rule.replaces_activations and linear.is_activation(cls, library):
        return True
    builds = cls.build is not library.layers.Layer.build
    return builds or "seed" in inspect.signature(cls.__init__).parameters


class _SparseLayer:
    """Mixed into a layer's class by `sparse_layer_class`."""

    _topkast_scope: SparsityScope | None = None
    _topkast_rule: linear.ProductRule | None = None
    _topkast_library: Any = None
    _topkast_dense_class: type

    @property
    def supports_jit(self):
        rule = self._topkast_rule
        return self.__dict__.get("_topkast_jit", True) and (
            rule is None or rule.supports_jit
        )

    @supports_jit.setter
    def supports_jit(self, value):
        object.__setattr__(self, "_topkast_jit", value)

    @property
    def weights(self):
        # The sets are state, as a random seed is: among the `variables`, but no weights,
        # so that parameters are counted, and lists and files of weights ordered, as in
        # the dense model. The legacy formats of tf_keras save nothing but weights.
        found = super().weights
        if self._topkast_library.__name__ != "keras":
            return found
        state = {id(made) for made in state_of(self).values()}
        return [made for made in found if id(made) not in state]

    def add_weight(self, *args, **kwargs):
        variable = super().add_weight(*args, **kwargs)
        if self._topkast_scope is not None:
            consider_weight(
                self,
                variable,
                self._topkast_scope,
                super().add_weight,
                kwargs.get("regularizer"),
            )
        return variable

    def get_config(self):
        scope, saving = self._topkast_scope, self._topkast_library.saving
        layer = _seen_as(self, self._topkast_dense_class)
        if scope is None:
            return layer.get_config()
        saved = saving.serialize_keras_object(layer)
        if not {"config", "module"} <= saved.keys() or _is_saving_legacy_file():
            raise ValueError(
                "Expected one of the formats that can hold a sparse model: `.keras`, "
                "weights, or a `tf.train.Checkpoint`; or `strip` it first. "
                f"Received: {self.name!r}, to be saved in another"
            )
        # The layer's own configuration stays flat: wrappers such as Bidirectional read
        # and change it.
        return {**saved.pop("config"), SAVED_KEY: _saved_scope(self, scope, saved)}

    def enable_lora(self, *args, **kwargs):
        if weights_of(self):
            _refuse("LoRA", self)
        return super().enable_lora(*args, **kwargs)

    def quantize(self, *args, **kwargs):
        if self._topkast_scope is not None:
            _refuse("quantization", self)
        return super().quantize(*args, **kwargs)

    @classmethod
    def from_config(cls, config, *args, **kwargs):
        if SAVED_KEY not in config:
            return cls._topkast_dense_class.from_config(config, *args, **kwargs)
        saved = config[SAVED_KEY]["scope"]
        active = joined(saved)
        scope = active or SparsityScope.from_config(saved)
        rule = linear.loaded_rule(config[SAVED_KEY].get("rule"))
        dense, library = without_scope(config), cls._topkast_library
        name = dense["class_name"]
        # The legacy HDF5 format of tf_keras knows its own layers by no name at all here.
        own = (
            {name: getattr(library.layers, name)}
            if hasattr(library.layers, name)
            else {}
        )
        own = {} if dense["registered_name"] else own
        with _reentered(scope, rule, library):
            made = library.saving.deserialize_keras_object(dense, custom_objects=own)
        if active is None:
            scope.restored_for(made)
        return made

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        children = super()._trackable_children(save_type, **kwargs)
        if save_type != "checkpoint":
            export_warning.warn_of_theta(weights_of(self))  # by `tf.saved_model.save`
            return children
        return {**children, **random_state(self)}

    def _lookup_dependency(self, name, *args, **kwargs):
        found = random_state(self).get(name)
        if found is not None:
            return found
        return super()._lookup_dependency(name, *args, **kwargs)

    # Some layers save just the variables that they know of, by position. So each saves
    # and loads as its dense class does, and the state stands beside it by name. Saving
    # leaves the layer untouched, as it may train in another thread meanwhile.

    def save_own_variables(self, store):
        for weight in weights_of(self):
            weight.raise_if_faulty()
        name = state_list(self)
        seen = _seen_as(self, type(self), **{name: without_state(self, name)})
        super(_SparseLayer, seen).save_own_variables(store)
        for name, variable in state_of(self).items():
            store[STATE_KEY + name] = variable

    def load_own_variables(self, store):
        state = state_of(self)
        keys = list(store.keys())
        saved = {key.removeprefix(STATE_KEY) for key in keys if STATE_KEY in key}
        if saved and saved != set(state) and self.built:
            raise ValueError(
                f"Layer {self.name!r} expected the state {sorted(state)}, as the same "
                "arguments of the scope give it, or none at all, as a dense or stripped "
                f"model has it. Received: a file with the state {sorted(saved)}"
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


def _refuse(what: str, layer: Any) -> None:
    raise ValueError(
        f"Expected a dense layer for {what}: `strip` the model first. "
        f"Received: the sparse layer {layer.name!r}"
    )


def _is_saving_legacy_file() -> bool:
    """Whether Keras 3 is writing or reading its old `.h5` format, which holds no sets."""
    try:  # there is no public name for it
        from keras.src.backend.common import global_state
    except ImportError:
        return False
    return bool(global_state.get_global_attribute("use_legacy_config", False))


def _saved_scope(layer: Any, scope: SparsityScope, saved: dict) -> dict:
    kind = {key: saved[key] for key in ("module", "class_name", "registered_name")}
    config = {"layer": kind, "scope": scope.get_config(layer)}
    rule = layer._topkast_rule
    if rule is not None:
        config["rule"] = {"name": rule.name, "config": rule.get_config()}
    return config


def without_scope(config: dict) -> dict:
    """The serialised dense layer that a sparse layer's configuration stands for."""
    own = {key: value for key, value in config.items() if key != SAVED_KEY}
    return {**config[SAVED_KEY]["layer"], "config": own}


def _seen_as(layer: Any, layer_class: type, **attributes: Any) -> Any:
    """A second object with the attributes of a layer, to be read only.

    Args:
      layer: the layer, which is left as it is.
      layer_class: of the object: the layer's, or that which its author gave it.
      attributes: what the object has otherwise.
    """
    seen = object.__new__(layer_class)
    # Not by assignments, which Keras takes note of.
    vars(seen).update({**vars(layer), **attributes})
    return seen


def sparse_layer_class(cls: type, library: Any) -> type:
    """The subclass of a layer class that makes sparse weights; made once for each class.

    Args:
      cls: a layer class of Keras or of the user.
      library: the module `keras` or `tf_keras`.
    """
    if issubclass(cls, _SparseLayer):
        return cls
    return _sparse_layer_class(cls, library)


@functools.cache
def _sparse_layer_class(cls: type, library: Any) -> type:
    @functools.wraps(cls.__init__)  # type: ignore[misc]
    def init(self, *args, **kwargs):
        scope = self._topkast_scope
        # Not in `__new__`: Keras calls that for objects which it never initialises, and
        # a constructor may raise, after it has made layers of its own.
        with scope.construction(self) if scope else contextlib.nullcontext():
            # Looked up now: Keras changes the bases of functional models' subclasses.
            cls.__init__(self, *args, **kwargs)  # type: ignore[misc]

    # Keras looks at the arguments of a constructor, and not through wrappers.
    init.__signature__ = inspect.signature(cls.__init__)  # type: ignore

    @functools.wraps(cls.build)
    def build(self, *args, **kwargs):
        scope = self._topkast_scope
        if scope is None:
            return cls.build(self, *args, **kwargs)
        # Layers that are constructed only now belong to the scope too; and inside a
        # `tf.function` the sets can be selected only from weights that hold values.
        with (
            _reentered(scope, self._topkast_rule, library),
            tf.init_scope(),
            hooks.building(),
        ):
            return cls.build(self, *args, **kwargs)

    body = {
        "__init__": init,
        "build": build,
        "__module__": __name__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "_topkast_dense_class": cls,
        "_topkast_library": library,
    }
    _leave_out_scopes(cls)
    form = linear.form_of(cls, library)
    if form is not None:
        body["call"] = layer_calls.by_rule(cls, form)
    elif linear.is_activation(cls, library):
        body["call"] = layer_calls.of_activation(cls, library)
    elif kernel_rule.makes_output_embedding(cls.__mro__):
        body["__call__"] = layer_calls.of_output_embedding(cls)
    sparse = type(cls)(cls.__name__, (_SparseLayer, cls), body)
    # All share one saved name: whichever class is found, `from_config` is the same.
    library.saving.register_keras_serializable(PACKAGE, SAVED_NAME)(sparse)
    return sparse


def _leave_out_scopes(cls: type) -> None:
    """Lets a dense layer class take the configuration of its sparse layers.

    ``Dense.from_config(sparse_dense.get_config())`` asks for a `Dense`: it gets what the
    layer was written as, without the scope.
    """
    owner = next(base for base in cls.__mro__ if "from_config" in vars(base))
    original = vars(owner)["from_config"]
    if not isinstance(original, classmethod):
        return
    function = original.__func__
    if hasattr(function, "leaves_out_scopes"):
        return

    @functools.wraps(function)
    def from_config(cls, config, *args, **kwargs):
        if isinstance(config, dict) and SAVED_KEY in config:
            config = {key: v for key, v in config.items() if key != SAVED_KEY}
        return function(cls, config, *args, **kwargs)

    # tf_keras looks at the arguments, and not through wrappers.
    from_config.__signature__ = inspect.signature(function)  # type: ignore
    from_config.leaves_out_scopes = True  # type: ignore[attr-defined]
    owner.from_config = classmethod(from_config)  # type: ignore[attr-defined]


def _refusing_quantization(original: Any) -> Any:
    """Has models with sparse layers refuse what their layers refuse, before any does it."""

    def quantize(self, *args, **kwargs):
        for layer in all_layers(self):
            if getattr(layer, "_topkast_scope", None) is not None:
                _refuse("quantization", layer)
        return original(self, *args, **kwargs)

    return quantize


@functools.cache  # each scope asks for it
def register_for_loading(library: Any) -> None:
    """Lets a Keras library load sparse layers before any has been made."""
    _sparse_layer_class(library.layers.Layer, library)
    if library.__name__ == "keras":  # tf_keras quantises nothing
        hooks.wrap_method(library.Model, "quantize", _refusing_quantization)
    weight_lists.install(library)
    export_warning.install(library)


def library_of(layer: Any) -> Any:
    """The Keras library (a module) of a layer, or None if it is not a layer."""
    for library in hooks.loaded_keras_libraries():
        if isinstance(layer, library.layers.Layer):
            return library
    return None


def dense_class(layer: Any) -> type:
    """The class that a layer's author gave it."""
    return getattr(layer, "_topkast_dense_class", type(layer))


def seen_dense(layer: Any) -> Any:
    """A layer as its dense class sees it, without the state of sparse weights."""
    name = state_list(layer)
    hidden = {name: without_state(layer, name)}
    return _seen_as(layer, dense_class(layer), **hidden)


def all_layers(layer: Any) -> list[Any]:
    """A layer and, depth first, all layers within it."""
    return list(layer._flatten_layers(include_self=True, recursive=True))


def scopes_of(model: Any) -> list[SparsityScope]:
    """The scopes in which the layers of a model were made."""
    if library_of(model) is None:
        return []
    made = [getattr(layer, "_topkast_scope", None) for layer in all_layers(model)]
    return [scope for scope in made if scope is not None]
