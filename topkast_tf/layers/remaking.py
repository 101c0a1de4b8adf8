"""A second model from the configuration of a first one, with all that it computes with.

As saving and loading by Keras, but within one process: functions and classes that belong
to the model's layers are handed over as they are, so that none of them needs to be
registered, and nothing is executed that was read from a file.
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
    """A second model, or layer, from the configuration of a built one, without scopes.

    Args:
      model: of Keras 3 or tf_keras.

    Returns:
      The second model, with values of its own, not compiled.

    Raises:
      ValueError: if the model is not built, or cannot be made again.
    """
    library = library_of(model)
    try:
        with _functions_handed_over(model) as functions, _not_compiled(model):
            config = library.saving.serialize_keras_object(model)
        known = {**_own_classes(model), **functions}
        with library.saving.custom_object_scope(known):
            # What is code in it comes from this process, and not from a file.
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
            "Expected a model that can be made again from its configuration: give it, and "
            f"what it is made of, a `get_config`. Received: {model!r} ({reason})"
        ) from error
    sources, targets = own_weights(model), own_weights(made)
    if not model.built or len(sources) != len(targets):
        raise ValueError(
            "Expected a built model, which its configuration makes again. Received: "
            f"{model!r} with {len(sources)} weights, and {len(targets)} of them when "
            "made again"
        )
    return made


def copy_values(source: Any, target: Any) -> None:
    """Gives a second model what the first computes with: its state, and alphas.

    Layers that save more than their weights (a vocabulary, moments they have adapted
    to) hand it over by the methods that Keras saves them with.

    Args:
      source: a model.
      target: as `made_again` makes it, dense or sparse.
    """
    for layer, made in _pairs(source, target):
        _copy_own_state(layer, made)
    alphas = {id(w.variable): w.effective() for w in planned_weights(source)}
    weights = zip(own_weights(source), own_weights(target), strict=True)
    for variable, made in weights:
        alpha = alphas.get(id(raw_variable(variable)))
        made.assign(variable.numpy() if alpha is None else alpha)
    for layer in layers_within(target):
        cls, base = dense_class(layer), library_of(layer).layers.Layer
        # In tf_keras what follows from adapted weights is not made when these are loaded.
        if hasattr(base, "finalize_state") and _overrides(cls, base, "finalize_state"):
            layer.finalize_state()


def _pairs(source: Any, target: Any) -> list[tuple[Any, Any]]:
    """Each layer of a model with that of the second one that stands for it.

    Layers of one class are paired by their names where these are the same, and else in
    their order. The order of all is not the same: that of inputs may differ.
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
            continue  # it holds nothing, and constructors may make some of their own
        found.setdefault(dense_class(layer), []).append(layer)
    return found


def own_weights(model: Any) -> list[Any]:
    """The weights of a model without the state of those that are sparse.

    tf_keras counts vocabularies among them, which are no variables.
    """
    state = {
        id(raw_variable(made))
        for weight in planned_weights(model)
        for made in weight.state_variables().values()
    }
    return [
        variable
        for variable in model.weights
        if isinstance(raw := raw_variable(variable), tf.Variable)
        and id(raw) not in state
    ]


def _copy_own_state(layer: Any, made: Any) -> None:
    dense, base = dense_class(layer), library_of(layer).layers.Layer
    if _overrides(dense, base, "load_own_variables"):
        store: dict[str, Any] = {}
        seen_dense(layer).save_own_variables(store)
        made.load_own_variables(store)
    if hasattr(dense, "save_assets") and hasattr(dense, "load_assets"):
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            made.load_assets(folder)
    # What a stateful recurrent layer remembers, which Keras does not save.
    remembered = [tf.nest.flatten(getattr(x, "states", None)) for x in (layer, made)]
    for one, other in zip(*remembered, strict=False):
        if hasattr(one, "assign") and hasattr(other, "assign"):
            other.assign(one)
    # Where its random numbers have got to; tf_keras does not keep it so.
    generators = map(compat.seed_generators, (layer, made))
    for one, other in zip(*generators, strict=True):
        other.state.assign(one.state)


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
    """Stands for a function of a layer while this is serialised, and is read as it.

    Keras saves a function by its name, which need not be registered, and a lambda by its
    code, without what it refers to. This computes the same, also for those who call the
    layer meanwhile in another thread.
    """

    functions: list[Any]  # of one serialisation

    def __init__(self, function: Any, name: str | None):
        # Keras asks functions for their arguments; some of C have no signature.
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
    """While it is open, the functions of a model's layers are saved as they are.

    Args:
      model: that is to be serialised.

    Yields:
      What the configuration names, for the scope in which it is read.
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
                ):  # which saves a function by its name alone
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
    """While it is open, this thread saves a model without how it was compiled.

    Keras would warn of a loss that is a lambda, which nobody is going to load.
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
    """The functions that its author has given a layer, by their attributes."""
    return [
        (key, value)
        for key, value in vars(layer).items()
        if isinstance(value, _FUNCTIONS)
        and (getattr(value, "__module__", None) or "").split(".")[0] != library.__name__
        and not callable(getattr(type(layer), key, None))  # a method that Keras wraps
    ]


def _own_classes(model: Any) -> dict[str, type]:
    """The classes that the model's author wrote, by the names they are saved under."""
    library = library_of(model)
    found: dict[str, Any] = {}
    for layer in layers_within(model):
        parts = [v for v in vars(layer).values() if hasattr(type(v), "get_config")]
        for cls in (dense_class(layer), *map(type, parts)):
            if cls.__module__.split(".")[0] not in (library.__name__, "topkast_tf"):
                found[library.saving.get_registered_name(cls)] = cls
    return found
