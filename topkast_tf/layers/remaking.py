"""Rebuilds a model from its configuration, and copies its state.

Like saving and loading by Keras, but within one process: functions and classes of the
model's layers are passed by reference, so that none needs to be registered, and no code
from a file is executed.
"""

import contextlib
import functools
import inspect
import tempfile
import threading
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from topkast_tf import compat
from topkast_tf.compat import layers_within, raw_variable
from topkast_tf.layers.compressed import held_by
from topkast_tf.layers.saving import SAVED_KEY, seen_dense, without_scope
from topkast_tf.layers.structure import dense_class, library_of
from topkast_tf.variables.lookup import planned_weights

_FUNCTIONS = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    functools.partial,
    np.ufunc,
)


def made_again(model: Any) -> Any:
    """Rebuilds a built model, or layer, from its configuration, without scopes.

    Args:
      model: a Keras 3 or tf_keras model or layer.

    Returns:
      The rebuilt model, with its own values, not compiled.

    Raises:
      ValueError: if the model is not built, or cannot be rebuilt.
    """
    library = library_of(model)
    try:
        with _functions_handed_over(model) as functions, _not_compiled(model):
            config = library.saving.serialize_keras_object(model)
        known = {**_own_classes(model), **functions}
        with library.saving.custom_object_scope(known):
            # Any code in it comes from this process, not from a file.
            made = library.saving.deserialize_keras_object(
                _without_scopes(config), safe_mode=False
            )
        for layer in layers_within(made):
            for key, value in list(vars(layer).items()):
                if isinstance(value, _HandedOver):
                    vars(layer)[key] = value.function
    except (NotImplementedError, TypeError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            "Expected a model that can be rebuilt from its configuration: give it, and "
            f"its parts, a `get_config`. Received: {model!r} ({reason})"
        ) from error
    sources, targets = own_weights(model), own_weights(made)
    compressed = sum(held_by(layer) is not None for layer in layers_within(model))
    if not model.built or len(sources) + compressed != len(targets):
        raise ValueError(
            "Expected a built model, which its configuration reproduces. Received: "
            f"{model!r} with {len(sources) + compressed} weights, and {len(targets)} when "
            "rebuilt"
        )
    return made


def copy_values(source: Any, target: Any) -> None:
    """Copies the state and the alphas of one model to another.

    Layers that save more than their weights (a vocabulary, adapted moments) copy it by
    the methods with which Keras saves them.

    Args:
      source: a model.
      target: the model that `made_again` returns, dense or sparse.
    """
    pairs = counterparts(source, target)
    for layer, made in pairs:
        _copy_own_state(layer, made)
    alphas = {id(w.variable): w.effective() for w in planned_weights(source)}
    whole = set()  # kernels that are compressed in the source
    for layer, made in pairs:
        held = held_by(layer)
        if held is not None:
            made.kernel.assign(held.kernel())
            whole.add(id(made.kernel))
    targets = [made for made in own_weights(target) if id(made) not in whole]
    for variable, made in zip(own_weights(source), targets, strict=True):
        alpha = alphas.get(id(raw_variable(variable)))
        made.assign(variable.numpy() if alpha is None else alpha)
    for layer, made in pairs:
        _copy_untracked(layer, made, alphas)
    for layer in layers_within(target):
        cls, base = dense_class(layer), library_of(layer).layers.Layer
        # tf_keras does not recompute state derived from adapted weights on loading.
        if hasattr(base, "finalize_state") and _overrides(cls, base, "finalize_state"):
            layer.finalize_state()


def counterparts(source: Any, target: Any) -> list[tuple[Any, Any]]:
    """Pairs of each layer of a model and its counterpart in the rebuilt one.

    Layers of one class are paired by name if their names are the same, and otherwise in
    their order. The order of all layers is not the same: that of inputs may differ.
    """
    pairs = []
    ours, theirs = (_by_class(model) for model in (source, target))
    for cls, mine in ours.items():
        others = theirs.get(cls, [])
        names = [[layer.name for layer in each] for each in (mine, others)]
        if len(set(names[0])) == len(mine) and set(names[0]) == set(names[1]):
            by_name = {layer.name: layer for layer in others}
            others = [by_name[name] for name in names[0]]
        pairs += zip(mine, others, strict=True)
    return pairs


def _by_class(model: Any) -> dict[type, list[Any]]:
    found: dict[type, list[Any]] = {}
    inputs = library_of(model).layers.InputLayer
    for layer in layers_within(model):
        if isinstance(layer, inputs):
            continue  # it has no state, and constructors may create more of them
        found.setdefault(dense_class(layer), []).append(layer)
    return found


def own_weights(model: Any) -> list[Any]:
    """The weights of a model without the state of sparse weights and compressed kernels.

    The vocabularies that tf_keras includes are not variables, and are left out.
    """
    state = {
        id(raw_variable(made))
        for weight in planned_weights(model)
        for made in weight.state_variables().values()
    }
    for layer in layers_within(model):
        held = held_by(layer)
        if held is not None:
            state.update(id(raw_variable(part)) for part in (held.entries, held.gaps))
    return [
        variable
        for variable in model.weights
        if isinstance(raw := raw_variable(variable), tf.Variable)
        and id(raw) not in state
    ]


def _copy_own_state(layer: Any, made: Any) -> None:
    dense, base = dense_class(layer), library_of(layer).layers.Layer
    if _overrides(dense, base, "load_own_variables") and held_by(layer) is None:
        store: dict[str, Any] = {}
        seen_dense(layer).save_own_variables(store)
        made.load_own_variables(store)
    if hasattr(dense, "save_assets") and hasattr(dense, "load_assets"):
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            made.load_assets(folder)
    # The states of a stateful recurrent layer, which Keras does not save.
    remembered = [tf.nest.flatten(getattr(x, "states", None)) for x in (layer, made)]
    for one, other in zip(*remembered, strict=False):
        if hasattr(one, "assign") and hasattr(other, "assign"):
            other.assign(one)
    # The state of its random numbers; tf_keras stores it elsewhere.
    generators = map(compat.seed_generators, (layer, made))
    for one, other in zip(*generators, strict=True):
        other.state.assign(one.state)


def _copy_untracked(layer: Any, made: Any, alphas: dict[int, np.ndarray]) -> None:
    """Copies the values of attributes that are `tf.Variable`s: Keras 3 saves none."""
    for name, value in vars(layer).items():
        other = vars(made).get(name)
        both = isinstance(value, tf.Variable) and isinstance(other, tf.Variable)
        if both and value.shape == other.shape:
            alpha = alphas.get(id(value))
            other.assign(value.numpy() if alpha is None else alpha)


def _overrides(cls: type, base: type, name: str) -> bool:
    return getattr(cls, name, None) is not getattr(base, name, None)


def _without_scopes(config: Any) -> Any:
    """A serialised model without scopes."""
    if isinstance(config, list | tuple):
        return type(config)(map(_without_scopes, config))
    if not isinstance(config, dict):
        return config
    inner = config.get("config")
    if isinstance(inner, dict) and SAVED_KEY in inner:
        config = {**config, **without_scope(inner)}
    return {key: _without_scopes(value) for key, value in config.items()}


class _HandedOver:
    """Replaces a layer's function during serialisation, and is deserialised as it.

    Keras saves a function by its name, which need not be registered, and a lambda by its
    code, without its closure. The replacement computes the same, so another thread may
    call the layer meanwhile.
    """

    functions: list[Any]  # of one serialisation

    def __init__(self, function: Any, name: str | None):
        # Keras inspects signatures; some C functions have none.
        with contextlib.suppress(TypeError, ValueError):
            self.__signature__ = inspect.signature(function)
        self.__name__ = name or getattr(function, "__name__", type(function).__name__)
        self.__module__ = None  # type: ignore[assignment]
        self.function, self.number = function, len(self.functions)
        self.functions.append(function)

    def __call__(self, *args, **kwargs):
        return self.function(*args, **kwargs)

    def get_config(self):
        return {"number": self.number}

    @classmethod
    def from_config(cls, config):
        return cls.functions[config["number"]]


@contextlib.contextmanager
def _functions_handed_over(model: Any) -> Iterator[dict[str, Any]]:
    """Within it, the functions of a model's layers are serialised by reference.

    Args:
      model: the model to serialise.

    Yields:
      The custom objects needed to deserialise the configuration.
    """
    library = library_of(model)
    handed_over = type("HandedOver", (_HandedOver,), {"functions": []})
    known = {library.saving.get_registered_name(handed_over): handed_over}
    replaced = []
    try:
        for layer in layers_within(model):
            for key, function in _functions_of(layer, library):
                name = None
                if library.__name__ != "keras" and isinstance(
                    layer, library.layers.Lambda
                ):  # which saves a function only by its name
                    name = f"topkast_tf function {len(replaced)}"
                stand_in = handed_over(function, name)
                known.update({name: stand_in} if name else {})
                replaced.append((layer, key, function))
                vars(layer)[key] = stand_in
        yield known
    finally:
        for layer, key, function in replaced:
            vars(layer)[key] = function


@contextlib.contextmanager
def _not_compiled(model: Any) -> Iterator[None]:
    """Within it, this thread serialises a model without its compile configuration.

    Otherwise Keras warns of a lambda loss, which is never loaded here.
    """
    thread, changed = threading.get_ident(), []

    def hidden_here(original):
        return lambda: None if threading.get_ident() == thread else original()

    for layer in layers_within(model):
        if hasattr(layer, "get_compile_config"):
            own = vars(layer)
            if "get_compile_config" not in own:
                own["get_compile_config"] = hidden_here(layer.get_compile_config)
                changed.append(own)
    try:
        yield
    finally:
        for own in changed:
            own.pop("get_compile_config", None)


def _functions_of(layer: Any, library: Any) -> list[tuple[str, Any]]:
    """The user's functions in a layer, by attribute name."""
    return [
        (key, value)
        for key, value in vars(layer).items()
        if isinstance(value, _FUNCTIONS)
        and (getattr(value, "__module__", None) or "").split(".")[0] != library.__name__
        and not callable(getattr(type(layer), key, None))  # a method that Keras wraps
    ]


def _own_classes(model: Any) -> dict[str, type]:
    """The user's classes in a model, by the names under which they are saved."""
    library = library_of(model)
    found: dict[str, Any] = {}
    for layer in layers_within(model):
        parts = [v for v in vars(layer).values() if hasattr(type(v), "get_config")]
        for cls in (dense_class(layer), *map(type, parts)):
            if cls.__module__.split(".")[0] not in (library.__name__, "topkast_tf"):
                found[library.saving.get_registered_name(cls)] = cls
    return found
