"""A second model from the configuration of a first one, with all that it computes with.

As saving and loading by Keras, but within one process: functions and classes that belong
to the model's layers are handed over as they are, so that none of them needs to be
registered, and nothing is executed that was read from a file.
"""

import inspect
import tempfile
from typing import Any

from topkast_tf import layers, variables
from topkast_tf.report import planned_weights

_FUNCTION = {"module": "builtins", "class_name": "function"}


def made_again(model: Any) -> Any:
    """A second model, or layer, from the configuration of a built one, without scopes.

    Args:
      model: of Keras 3 or tf_keras.

    Returns:
      The second model, with values of its own, not compiled.

    Raises:
      ValueError: if the model is not built, or cannot be made again.
    """
    library = layers.library_of(model)
    try:
        config = library.saving.serialize_keras_object(model)
        known = _own_objects(model)
        config = _with_functions(_without_scopes(config), model, known)
        with library.saving.custom_object_scope(known):
            made = library.saving.deserialize_keras_object(config)
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
        for key, function in _functions_of(layer):
            # By place, where two layers of one name have different ones.
            setattr(made, key, function)
    alphas = {id(w.variable): w.effective() for w in planned_weights(source)}
    weights = zip(own_weights(source), own_weights(target), strict=True)
    for variable, made in weights:
        alpha = alphas.get(id(variables.raw_variable(variable)))
        made.assign(variable.numpy() if alpha is None else alpha)


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
    for layer in layers.all_layers(model):
        found.setdefault(layers.dense_class(layer), []).append(layer)
    return found


def own_weights(model: Any) -> list[Any]:
    """The weights of a model without the state of those that are sparse."""
    state = {
        id(variables.raw_variable(made))
        for weight in planned_weights(model)
        for made in weight.state_variables().values()
    }
    return [v for v in model.weights if id(variables.raw_variable(v)) not in state]


def _copy_own_state(layer: Any, made: Any) -> None:
    dense, base = layers.dense_class(layer), layers.library_of(layer).layers.Layer
    if _overrides(dense, base, "load_own_variables"):
        store: dict[str, Any] = {}
        layers.seen_dense(layer).save_own_variables(store)
        made.load_own_variables(store)
    if hasattr(dense, "save_assets") and hasattr(dense, "load_assets"):
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            made.load_assets(folder)
    # Where its random numbers have got to; tf_keras does not keep it so.
    generators = [getattr(each, "_seed_generators", ()) for each in (layer, made)]
    for one, other in zip(*generators, strict=True):
        other.state.assign(one.state)


def _overrides(cls: type, base: type, name: str) -> bool:
    return getattr(cls, name, None) is not getattr(base, name, None)


def _without_scopes(config: Any) -> Any:
    """A serialised model without scopes, and without how it was compiled."""
    if isinstance(config, list | tuple):
        return type(config)(map(_without_scopes, config))
    if not isinstance(config, dict):
        return config
    inner = config.get("config")
    if isinstance(inner, dict) and layers.SAVED_KEY in inner:
        config = {**config, **layers.without_scope(inner)}
    return {
        key: _without_scopes(value)
        for key, value in config.items()
        if key != "compile_config"
    }


def _with_functions(config: Any, model: Any, known: dict[str, Any]) -> Any:
    """A serialised model that names the functions of its layers, which join `known`.

    A lambda would else be made anew from its code, without what it refers to.
    """
    by_name: dict[str, list[Any]] = {}
    for layer in layers.all_layers(model):
        by_name.setdefault(layer.name, []).append(layer)

    def changed(part: Any) -> Any:
        if isinstance(part, list | tuple):
            return type(part)(map(changed, part))
        if not isinstance(part, dict):
            return part
        part = {key: changed(value) for key, value in part.items()}
        inner = part.get("config")
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            return part
        named = by_name.get(inner["name"], ())
        same = [
            x for x in named if layers.dense_class(x).__name__ == part["class_name"]
        ]
        for key, function in _functions_of(same[0]) if same else ():
            name = f"{inner['name']}.{key}"
            known[name] = function
            named_function = {**_FUNCTION, "config": name, "registered_name": name}
            inner[key.removeprefix("_")] = named_function
        return part

    return changed(config)


def _functions_of(layer: Any) -> list[tuple[str, Any]]:
    """The functions that its author has given a layer, by their attributes."""
    library = layers.library_of(layer).__name__
    found = [
        (key, value)
        for key, value in vars(layer).items()
        if inspect.isfunction(value) and value.__module__.split(".")[0] != library
    ]
    if not found:
        return []
    try:
        saved = layers.seen_dense(layer).get_config()
    except NotImplementedError:
        return []  # a part of a layer, which makes it and gives it its functions
    return [(key, value) for key, value in found if key.removeprefix("_") in saved]


def _own_objects(model: Any) -> dict[str, Any]:
    """The classes that the model's author wrote, by the names they are saved under."""
    library = layers.library_of(model)
    found: dict[str, Any] = {}
    for layer in layers.all_layers(model):
        parts = [v for v in vars(layer).values() if hasattr(type(v), "get_config")]
        for cls in (layers.dense_class(layer), *map(type, parts)):
            if cls.__module__.split(".")[0] not in (library.__name__, "topkast_tf"):
                found[library.saving.get_registered_name(cls)] = cls
    return found
