"""What a Keras layer is made of: its library, its class, the layers within it."""

from typing import Any

from topkast_tf.variables import hooks


def library_of(layer: Any) -> Any:
    """The Keras library (a module) of a layer, or None if it is not a layer."""
    for library in hooks.loaded_keras_libraries():
        if isinstance(layer, library.layers.Layer):
            return library
    return None


def dense_class(layer: Any) -> type:
    """The class that a layer's author gave it."""
    return getattr(layer, "_topkast_dense_class", type(layer))


def seen_as(layer: Any, layer_class: type, **attributes: Any) -> Any:
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
