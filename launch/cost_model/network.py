"""The network of a run with its method, from which the costs are computed."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from absl import flags

from launch import data, models
from launch.cost_model.forward_pass import ForwardPass
from launch.cost_model.image_pass import image_pass
from launch.cost_model.language_pass import language_pass
from launch.cost_model.parameters import (
    Parameter,
    built,
    parameters_of,
    variable_bytes,
)
from launch.cost_model.text_sizes import text_size
from launch.data import pipeline
from launch.models.transformer_xl import TransformerXL
from launch.tasks.language import OVERRIDES, config_of

SIZES = ("layers", "d_model", "heads", "d_head", "d_inner")
"""Flags that are fields of a `TransformerXLConfig` of the same name."""
_OVERRIDES = {**OVERRIDES, **{name: name for name in SIZES}}


@dataclasses.dataclass(frozen=True)
class Network:
    """A network with its method.

    Attributes:
      name: name of the model.
      parameters: its trainable weights.
      forward_pass: its forward pass in training.
      statistics_bytes: bytes of variables that are neither trained nor the method's.
      steps_per_epoch: steps of one pass over the training examples; None if unknown.
      data_bytes: bytes of training data in the memory of the host.
      unit: the unit of the batch size.
    """

    name: str
    parameters: tuple[Parameter, ...]
    forward_pass: ForwardPass
    statistics_bytes: int
    steps_per_epoch: int | None
    data_bytes: int
    unit: str


Scope = Callable[[int | None], contextlib.AbstractContextManager]
"""Maps the steps of the run, None if unknown, to the scope of the method."""


def network_of(settings: flags.FlagValues, scope: Scope) -> Network:
    """The network that the flags describe, with no values of its weights.

    Args:
      settings: the resolved flags, including those of the plan.
      scope: opens the scope of the method.

    Raises:
      UserError: for flags that the scope or the model refuse, and for a text whose
        vocabulary cannot be determined.
    """
    if data.find(settings.dataset).kind == "text":
        return _language(settings, scope)
    return _image(settings, scope)


def total_steps(settings: flags.FlagValues, an_epoch: int | None) -> int | None:
    """The steps of a run, or None if the length of an epoch is unknown.

    Args:
      settings: the resolved flags.
      an_epoch: steps of one pass over the data, or None.
    """
    if settings.steps:
        return settings.steps
    return None if an_epoch is None else settings.epochs * an_epoch


def compute_itemsize(settings: flags.FlagValues) -> int:
    """Bytes per entry in the compute dtype of a run."""
    mixed = "mixed_precision" in settings and settings.mixed_precision
    return 2 if mixed else 4


def _image(settings: flags.FlagValues, scope: Scope) -> Network:
    source = data.find(settings.dataset)
    height, width, channels = source.image_shape
    if settings.image_size:
        height = width = settings.image_size
    shape = (height, width, channels)
    classes = settings.classes or source.classes
    builder = models.find(settings.model)
    an_epoch = pipeline.steps_per_epoch(settings.train_examples, settings.batch_size)
    total = total_steps(settings, an_epoch)
    model = built(lambda: builder(shape, classes, settings.width), scope(total))
    streamed = source.stream is not None
    return Network(
        name=settings.model,
        **_measured(model),
        forward_pass=image_pass(model, compute_itemsize(settings)),
        steps_per_epoch=an_epoch,
        data_bytes=(
            0 if streamed else settings.train_examples * height * width * channels
        ),
        unit="image",
    )


def _language(settings: flags.FlagValues, scope: Scope) -> Network:
    text = text_size(settings)
    config = config_of(settings, text.vocabulary, _OVERRIDES)
    an_epoch = text.steps_per_epoch(settings.batch_size, config.segment_length)
    total = total_steps(settings, an_epoch)
    model = built(lambda: TransformerXL(config), scope(total))
    resized = any(settings[name].value is not None for name in SIZES)
    return Network(
        name="Transformer-XL" if resized else settings.model,
        **_measured(model),
        forward_pass=language_pass(config, model.name, compute_itemsize(settings)),
        steps_per_epoch=an_epoch,
        data_bytes=text.bytes_in_memory,
        unit=f"segment of {config.segment_length} tokens",
    )


def _measured(model: keras.Model) -> dict[str, Any]:
    """Its parameters, and the bytes of variables neither trained nor the method's."""
    parameters = tuple(parameters_of(model))
    every = sum(variable_bytes(variable) for variable in model.non_trainable_variables)
    method = sum(each.set_bytes + each.state_bytes for each in parameters)
    return {"parameters": parameters, "statistics_bytes": every - method}
