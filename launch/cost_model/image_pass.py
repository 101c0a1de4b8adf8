"""The forward pass of an image model, from its Keras graph."""

import math

import keras
from keras import layers

from launch.cost_model.forward_pass import OTHER, RELU, Amount, ForwardPass, Kept

_FLOAT32 = 4
_KEEPS_NOTHING = (
    layers.InputLayer,
    layers.Add,
    layers.AveragePooling2D,
    layers.Concatenate,
    layers.Flatten,
    layers.GlobalAveragePooling2D,
    layers.Rescaling,
    layers.Reshape,
    layers.ZeroPadding2D,
)


def image_pass(model: keras.Model, compute_itemsize: int = _FLOAT32) -> ForwardPass:
    """The products of an image model, and the tensors kept for its backward pass.

    It follows TensorFlow's gradients of Keras's layers: a convolution or dense layer
    keeps its input, a ReLU its output, a batch norm its input in float32, a max pool
    both, dropout one byte per entry. A tensor that several layers keep counts once.
    Vectors with one entry per channel are ignored.

    Args:
      model: a Functional model, with or without values.
      compute_itemsize: bytes per entry of an activation.

    Raises:
      ValueError: for an unknown kind of layer.
    """
    found: dict[tuple[int, int], tuple[int, list[str]]] = {}

    def keep(tensor, reader, itemsize=compute_itemsize):
        entries = math.prod(tensor.shape[1:])
        _, readers = found.setdefault((id(tensor), itemsize), (entries, []))
        readers.append(reader)

    macs: dict[str, Amount] = {}
    masks = []
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D | layers.Dense):
            keep(layer.input, layer.kernel.path)
            places = math.prod(layer.output.shape[1:-1])
            macs[layer.kernel.path] = Amount(places * math.prod(layer.kernel.shape))
        elif isinstance(layer, layers.BatchNormalization):
            keep(layer.input, OTHER, _FLOAT32)
        elif isinstance(layer, layers.ReLU):
            keep(layer.output, RELU)
        elif isinstance(layer, layers.MaxPooling2D | layers.GlobalMaxPooling2D):
            keep(layer.input, OTHER)
            keep(layer.output, OTHER)
        elif isinstance(layer, layers.Dropout):
            masks.append(Kept(Amount(math.prod(layer.output.shape[1:])), 1))
        elif not isinstance(layer, _KEEPS_NOTHING):
            raise ValueError(
                "Expected layers of the image models. "
                f"Received: {type(layer).__name__} {layer.name!r}"
            )
    kept = [
        Kept(Amount(entries), itemsize, tuple(readers))
        for (_, itemsize), (entries, readers) in found.items()
    ]
    classes = model.output_shape[-1]
    kept.append(Kept(Amount(2 * classes), _FLOAT32))  # for the loss
    pixels = math.prod(model.input_shape[1:])
    inputs = Amount(_FLOAT32 * (pixels + classes))
    return ForwardPass(macs, Amount(), (*kept, *masks), inputs)
