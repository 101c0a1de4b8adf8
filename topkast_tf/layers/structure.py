"""The library and the class of a Keras layer."""

from typing import Any

from topkast_tf.variables import hooks


def library_of(layer: Any) -> Any:
    """The Keras library (a module) of a layer, or None if it is not a layer."""
    for library in hooks.loaded_keras_libraries():
        if isinstance(layer, library.layers.Layer):
            return library
    return None


def dense_class(layer: Any) -> type:
    """The original, dense class of a layer."""
    return getattr(layer, "_topkast_dense_class", type(layer))


def seen_as(layer: Any, layer_class: type, **attributes: Any) -> Any:
    """A second, read-only object with the attributes of a layer.

    Args:
      layer: the layer, which is not changed.
      layer_class: the class of the object: the layer's class or its dense class.
      attributes: values that replace the layer's attributes.
    """
    seen = object.__new__(layer_class)
    # Not by assignment, which Keras tracks.
    vars(seen).update({**vars(layer), **attributes})
    return seen
