"""A network with random masks, as the flags describe it."""

import keras
from absl import flags

from launch import data, models
from launch.cycles.subject import Subject, check_examples
from launch.support.errors import UserError
from swat_tf import simulator

_BATCH = 32
_RESNET50 = ("resnet50", "ResNet50")
_LARGE, _SMALL = "imagenet2012", "cifar10"


def of_model(values: flags.FlagValues) -> Subject:
    """A network with random masks.

    Raises:
      UserError: for an unknown model, or one that cannot be simulated, and a sparsity that
        is out of reach.
    """
    batch = values.batch_size or _BATCH
    check_examples(values.examples or 1, batch)
    model = _network(values)
    try:
        layers = simulator.layers_of(model)
        of_weights = simulator.layer_sparsities(
            layers, values.sparsity, values.distribution, values.exempt
        )
    except ValueError as error:
        raise UserError(f"{error} (--model={values.model})") from error
    given = values.examples or simulator.enough_examples(layers, batch)
    of_activations, asked = (
        of_weights,
        f"{values.sparsity:.4g} of weights and activations",
    )
    if values.activation_sparsity is not None:
        of_activations = {
            name: values.activation_sparsity if sparsity else 0.0
            for name, sparsity in of_weights.items()
        }
        asked = (
            f"{values.sparsity:.4g} of the weights and {values.activation_sparsity:.4g} of "
            "the activations"
        )
    dense = sum(not sparsity for sparsity in of_weights.values())
    image = model.inputs[0].shape[1:]
    is_published = (
        values.model in _RESNET50
        and image == (224, 224, 3)
        and values.distribution == "uniform"
        and values.activation_sparsity in (None, values.sparsity)
    )
    return Subject(
        values.model,
        f"{values.model}, {image[0]} x {image[1]}: {asked} zero at random, "
        f"{values.distribution}, {dense} of {len(layers)} layers dense.",
        layers,
        simulator.random_weights(layers, of_weights, values.seed),
        simulator.random_activations(layers, of_activations, given, values.seed),
        batch,
        values.sparsity if is_published else None,
    )


def _network(values: flags.FlagValues) -> keras.Model:
    name = values.model
    if name[:1].isupper() and hasattr(keras.applications, name):
        return _application(values)
    source = data.find(_LARGE if models.for_large_images(name) else _SMALL)
    height, width, channels = source.image_shape
    if values.image_size:
        height = width = values.image_size
    builder = models.find(name)
    return builder((height, width, channels), values.classes or source.classes)


def _application(values: flags.FlagValues) -> keras.Model:
    """One of keras.applications, at its own image size, or that of ImageNet."""
    source = data.find(_LARGE)
    build = getattr(keras.applications, values.model)
    arguments = {"weights": None, "classes": values.classes or source.classes}
    if values.image_size:
        arguments["input_shape"] = (values.image_size, values.image_size, 3)
    try:
        model = build(**arguments)
        if None in model.inputs[0].shape[1:]:
            model = build(**arguments, input_shape=source.image_shape)
    except ValueError as error:
        said = " ".join(str(error).split())
        raise UserError(f"{said} (--model={values.model})") from error
    return model
