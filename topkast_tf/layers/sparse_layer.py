"""The Keras entry point: layers constructed in a scope make their weights sparse.

While a scope is active, constructing a layer returns an instance of a subclass of its
class (`sparse_layer_class`) that stores the scope. When such a layer creates a weight, at
construction or in a later build, the scope decides whether it is sparsified. The saved
configuration restores the scope, so that a saved model loads as a sparse one. The same
code serves Keras 3 and tf_keras.
"""

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from topkast_tf.compat import layers_within
from topkast_tf.core import kernel_rule
from topkast_tf.layers import calls, compressed, export_warning, weight_lists
from topkast_tf.layers.product_rule import (
    ProductRule,
    activated_rule,
    active_rule,
    loaded_rule,
)
from topkast_tf.layers.products import is_activation, product_spec
from topkast_tf.layers.saving import (
    SAVED_KEY,
    SavesScope,
    SavesState,
    without_scope,
)
from topkast_tf.layers.structure import library_of
from topkast_tf.layers.weights import consider_weight, state_of, weights_of
from topkast_tf.variables import decay_warning, hooks
from topkast_tf.variables.active_scopes import activated, active_scope, joined
from topkast_tf.variables.scope_state import SparsityScope

hooks.around_update.append(decay_warning.warning_of_decay)

PACKAGE = "topkast_tf"
SAVED_NAME = "SparseLayer"

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
_open_doors: dict[type, int] = {}
_hooked: dict[type, Callable] = {}
"""Layer class -> the `__new__` that this library has installed."""


@contextlib.contextmanager
def constructing_sparse(library: Any) -> Iterator[None]:
    """Within it, layers of a Keras library are constructed for the active scope.

    Args:
      library: the module `keras` or `tf_keras`.
    """
    layer_class = library.layers.Layer
    with _lock:
        _open_doors[layer_class] = _open_doors.get(layer_class, 0) + 1
        if layer_class not in _hooked:
            _hook_construction(layer_class, library)
    try:
        yield
    finally:
        with _lock:
            _open_doors[layer_class] -= 1
            if not _open_doors[layer_class]:
                _unhook_construction(layer_class)


@contextlib.contextmanager
def _reentered(
    scope: SparsityScope, rule: ProductRule | None, library: Any
) -> Iterator[None]:
    """Reenters a scope, for layers that are constructed later or from a file."""
    with activated(scope), activated_rule(rule), constructing_sparse(library):
        yield


def _hook_construction(layer_class: type, library: Any) -> None:
    original = layer_class.__new__

    def new(cls, *args, **kwargs):
        scope = active_scope()  # of this thread: others are not affected
        if scope is None or not _is_of_interest(cls, library):
            return original(cls, *args, **kwargs)
        layer = original(sparse_layer_class(cls, library), *args, **kwargs)
        # Keras tracks attribute assignments; this bypasses it.
        object.__setattr__(layer, "_topkast_scope", scope)
        object.__setattr__(layer, "_topkast_rule", active_rule())
        return layer

    new.original = original  # type: ignore[attr-defined]
    layer_class.__new__ = new  # type: ignore[method-assign,assignment]
    _hooked[layer_class] = new


def _unhook_construction(layer_class: type) -> None:
    """Restores the original `__new__`, unless other code has wrapped the hook meanwhile.

    That wrapper would be lost. The hook then stays; without a scope it does nothing.
    """
    hook = _hooked[layer_class]
    if layer_class.__new__ is hook:
        layer_class.__new__ = hook.original  # type: ignore
        del _hooked[layer_class]


def _is_of_interest(cls: type, library: Any) -> bool:
    """Whether a layer class may create kernels, sublayers or random numbers."""
    if issubclass(cls, _SparseLayer):
        return True
    root = cls.__module__.split(".")[0]
    if root != library.__name__:
        return True  # a user's class
    models = (library.Model, library.Sequential)
    if issubclass(cls, models):
        return False  # their layers join by themselves
    named = {getattr(library.layers, name, None) for name in _WEIGHTLESS}
    if cls in named:
        return False
    rule = active_rule()
    if rule and rule.replaces_activations and is_activation(cls, library):
        return True
    builds = cls.build is not library.layers.Layer.build
    return builds or "seed" in inspect.signature(cls.__init__).parameters


class _SparseLayer(SavesScope, SavesState):
    """Mixin that `sparse_layer_class` adds to a layer's class."""

    _topkast_scope: SparsityScope | None = None
    _topkast_rule: ProductRule | None = None
    _topkast_library: Any = None

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
        # The sets are state, like a random seed: they are `variables` but not `weights`,
        # so that parameter counts and the order of weights in lists and files are those
        # of the dense model. The legacy formats of tf_keras save only weights. Only what
        # the optimizer trains must be in `weights`, where it looks.
        found = super().weights
        if self._topkast_library.__name__ != "keras":
            return found
        state = {id(made) for made in state_of(self).values() if not made.trainable}
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
                # In a layer that is frozen, a variable is not trainable from the start.
                is_frozen=not self.trainable and kwargs.get("trainable") is not False,
            )
        return variable

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
        rule = loaded_rule(config[SAVED_KEY].get("rule"))
        dense, library = without_scope(config), cls._topkast_library
        name = dense["class_name"]
        # The legacy HDF5 format of tf_keras cannot resolve its own layers by name here.
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


def sparse_layer_class(cls: type, library: Any) -> type:
    """The subclass of a layer class that creates sparse weights; created once per class.

    Args:
      cls: a layer class, of Keras or user-defined.
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
        # Not in `__new__`: Keras calls it for objects that it never initialises, and a
        # constructor may raise after it has created sublayers.
        with scope.construction(self) if scope else contextlib.nullcontext():
            # Looked up now: Keras changes the bases of functional models' subclasses.
            cls.__init__(self, *args, **kwargs)  # type: ignore[misc]

    # Keras inspects the signature of a constructor, and does not unwrap it.
    init.__signature__ = inspect.signature(cls.__init__)  # type: ignore

    @functools.wraps(cls.build)
    def build(self, *args, **kwargs):
        scope = self._topkast_scope
        if scope is None:
            return cls.build(self, *args, **kwargs)
        # Layers that are constructed here also belong to the scope; and inside a
        # `tf.function` sets can be selected only from weights that hold values.
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
    spec = product_spec(cls, library)
    if spec is not None:
        body["call"] = calls.by_rule(cls, spec)
    elif is_activation(cls, library):
        body["call"] = calls.of_activation(cls, library)
    elif kernel_rule.makes_output_embedding(cls.__mro__):
        body["__call__"] = calls.of_output_embedding(cls)
    sparse = type(cls)(cls.__name__, (_SparseLayer, cls), body)
    # All share one saved name: whichever class is found, `from_config` is the same.
    library.saving.register_keras_serializable(PACKAGE, SAVED_NAME)(sparse)
    return sparse


def _leave_out_scopes(cls: type) -> None:
    """Lets a dense layer class accept the configuration of its sparse layers.

    ``Dense.from_config(sparse_dense.get_config())`` returns a plain `Dense`, without the
    scope.
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

    # tf_keras inspects the signature, and does not unwrap functions.
    from_config.__signature__ = inspect.signature(function)  # type: ignore
    from_config.leaves_out_scopes = True  # type: ignore[attr-defined]
    owner.from_config = classmethod(from_config)  # type: ignore[attr-defined]


def _refusing_quantization(original: Any) -> Any:
    """Makes models with sparse layers refuse quantization before any layer changes."""

    def quantize(self, *args, **kwargs):
        for layer in layers_within(self):
            if getattr(layer, "_topkast_scope", None) is not None:
                _refuse("quantization", layer)
        return original(self, *args, **kwargs)

    return quantize


@functools.cache  # each scope calls it
def register_for_loading(library: Any) -> None:
    """Lets a Keras library load sparse layers before any has been created."""
    _sparse_layer_class(library.layers.Layer, library)
    if library.__name__ == "keras":  # tf_keras quantises nothing
        hooks.wrap_method(library.Model, "quantize", _refusing_quantization)
        compressed.install(library)
    weight_lists.install(library)
    export_warning.install(library)


def _refuse(what: str, layer: Any) -> None:
    raise ValueError(
        f"Expected a dense layer for {what}: `strip` the model first. "
        f"Received: the sparse layer {layer.name!r}"
    )


def scopes_of(model: Any) -> list[SparsityScope]:
    """The scopes in which the layers of a model were created."""
    if library_of(model) is None:
        return []
    made = [getattr(layer, "_topkast_scope", None) for layer in layers_within(model)]
    return [scope for scope in made if scope is not None]
