"""Defaults that depend on other flags, and what can be wrong between them.

Nothing here imports TensorFlow: a mistake is reported before the seconds that costs.
"""

from absl import flags

from launch import data, models
from launch.data.source import Source
from launch.data.text import TextSource
from launch.errors import UserError
from launch.models import transformer_xl_config

_TEXT_MODEL = "txl_small"
_IMAGES_ONLY = ("train_examples", "label_smoothing", "width")


def resolved(settings: flags.FlagValues) -> flags.FlagValues:
    """Fills in the defaults that depend on other flags and checks them together.

    Raises:
      UserError: for a name that is not registered, or flags that exclude each other.
    """
    source = data.find(settings.dataset)
    if isinstance(source, TextSource):
        _text(settings)
    else:
        _images(settings, source)
    settings.run_dir = settings.run_dir or "-".join(
        (f"runs/{source.name}", settings.model, settings.method)
    )
    return settings


def _images(settings: flags.FlagValues, source: Source) -> None:
    settings.model = settings.model or source.model
    models.find(settings.model)
    settings.optimizer = settings.optimizer or "sgd"
    settings.train_examples = settings.train_examples or source.train_examples
    if settings.train_examples > source.train_examples:
        raise UserError(
            f"Expected --train_examples of at most {source.train_examples}, all that "
            f"{source.name} has. Received: {settings.train_examples}"
        )
    if settings.batch_size > settings.train_examples:
        raise UserError(
            "Expected --batch_size of at most the number of training examples, "
            f"{settings.train_examples}. Received: {settings.batch_size}"
        )


def _text(settings: flags.FlagValues) -> None:
    settings.model = settings.model or _TEXT_MODEL
    names = transformer_xl_config.CONFIGS
    if settings.model not in names:
        raise UserError(
            f"Expected --model to be one of {', '.join(names)} for text. "
            f"Received: {settings.model!r}"
        )
    settings.optimizer = settings.optimizer or "adam"
    for name in _IMAGES_ONLY:
        if settings[name].value != settings[name].default:
            raise UserError(
                f"Expected no --{name} for text, as it speaks of images. "
                f"Received: {settings[name].value}"
            )
