"""From a sparse model to a plain one."""

from typing import Any

from topkast_tf import layers, variables
from topkast_tf.report import planned_weights


def strip(model: Any) -> Any:
    """A plain Keras model with the same outputs, and zeros in its kernels.

    ``kernel = alpha = theta on A, 0 elsewhere``. It is made of the layer classes that
    the model was written with, so that it saves and loads without this library, and its
    dropout goes on with the same random numbers; the given model is not changed. Its
    optimizer and metrics are left behind: compile it anew to evaluate or train it
    (training would fill the zeros). Activations that SWAT made sparse in the forward
    pass, for a study, are dense in it: there alone the outputs differ.

    Args:
      model: a built Keras 3 or tf_keras model or layer. A subclassed one must define
        `get_config`, as for any saving by Keras.

    Returns:
      The plain model.

    Raises:
      TypeError: for anything but a Keras model or layer.
      ValueError: if the model is not built, or cannot be made again from its config.

    >>> import keras
    >>> from topkast_tf import strip, topkast_scope
    >>> with topkast_scope(fwd=0.9, bwd=0.8):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])
    >>> plain = strip(model)
    >>> int((plain.layers[0].kernel.numpy() != 0).sum()), len(plain.weights)
    (10, 2)
    """
    if layers.library_of(model) is None:
        raise TypeError(f"Expected a Keras model or layer. Received: {model!r}")
    plain = made_again(model)
    copy_values(model, plain)
    return plain


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
        with library.saving.custom_object_scope(_classes(model)):
            made = library.saving.deserialize_keras_object(_without_scopes(config))
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            "Expected a model that can be made again from its configuration: give it a "
            f"`get_config`. Received: {model!r} ({error})"
        ) from error
    sources, targets = _own_weights(model), _own_weights(made)
    if not model.built or len(sources) != len(targets):
        raise ValueError(
            "Expected a built model, which its configuration makes again. Received: "
            f"{model!r} with {len(sources)} weights, and {len(targets)} of them when "
            "made again"
        )
    return made


def copy_values(source: Any, target: Any) -> None:
    """Gives a second model what the first computes with: its weights, and alphas.

    Args:
      source: a model.
      target: as `made_again` makes it, dense or sparse.
    """
    alphas = {id(w.variable): w.effective() for w in planned_weights(source)}
    pairs = zip(_own_weights(source), _own_weights(target), strict=True)
    for variable, made in pairs:
        alpha = alphas.get(id(variables.raw_variable(variable)))
        made.assign(variable.numpy() if alpha is None else alpha)
    for state, made in zip(_random(source), _random(target), strict=True):
        made.assign(state)


def _own_weights(model: Any) -> list[Any]:
    """The weights of a model without the state of those that are sparse."""
    state = {
        id(variables.raw_variable(made))
        for weight in planned_weights(model)
        for made in weight.state_variables().values()
    }
    return [v for v in model.weights if id(variables.raw_variable(v)) not in state]


def _random(model: Any) -> list[Any]:
    """Where a model's random numbers have got to; tf_keras does not keep it so."""
    found = [
        getattr(layer, "_seed_generators", ()) for layer in model._flatten_layers()
    ]
    return [generator.state for each in found for generator in each]


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


def _classes(model: Any) -> dict[str, type]:
    """The classes that the model's author wrote, by the names they are saved under."""
    library = layers.library_of(model)
    found = {}
    for layer in layers.all_layers(model):
        cls = layers.dense_class(layer)
        if cls.__module__.split(".")[0] != library.__name__:
            found[library.saving.get_registered_name(cls)] = cls
    return found
