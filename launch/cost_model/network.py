"""The network and the method of a run, what its costs depend on."""

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
    """A network that is planned, with its method.

    Attributes:
      name: of the model.
      parameters: its trainable weights.
      forward_pass: in training.
      statistics_bytes: of variables that are neither trained nor the method's.
      steps_per_epoch: how many steps see all training examples once; None: not known.
      data_bytes: of training data that is held in the host's memory.
      unit: what the batch counts.
    """

    name: str
    parameters: tuple[Parameter, ...]
    forward_pass: ForwardPass
    statistics_bytes: int
    steps_per_epoch: int | None
    data_bytes: int
    unit: str


Scope = Callable[[int | None], contextlib.AbstractContextManager]
"""From the steps of the run, None where they are not known, to the method's scope."""


def network_of(settings: flags.FlagValues, scope: Scope) -> Network:
    """The network that the flags ask for, without a value for any weight.

    Args:
      settings: the resolved flags, those of the plan among them.
      scope: opens the scope of the method.

    Raises:
      UserError: what the scope or the model say of the flags, and for a text whose
        vocabulary cannot be known.
    """
    if data.find(settings.dataset).kind == "text":
        return _language(settings, scope)
    return _image(settings, scope)


def total_steps(settings: flags.FlagValues, an_epoch: int | None) -> int | None:
    """The steps of a run, or None where the length of an epoch is not known.

    Args:
      settings: the resolved flags.
      an_epoch: steps in which all data is seen once, or None.
    """
    if settings.steps:
        return settings.steps
    return None if an_epoch is None else settings.epochs * an_epoch


def compute_itemsize(settings: flags.FlagValues) -> int:
    """Bytes of an entry of what a run computes with."""
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
    """Its parameters, and the bytes of what is neither trained nor the method's."""
    parameters = tuple(parameters_of(model))
    every = sum(variable_bytes(variable) for variable in model.non_trainable_variables)
    method = sum(each.set_bytes + each.state_bytes for each in parameters)
    return {"parameters": parameters, "statistics_bytes": every - method}
