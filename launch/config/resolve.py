"""Defaults that depend on other flags, and what can be wrong between them.

Nothing here imports TensorFlow: a mistake is reported before the seconds that costs.
"""

from absl import flags

from launch import data, models
from launch.config import methods
from launch.data.source import Source
from launch.data.text import TextSource
from launch.distribute import devices
from launch.models import transformer_xl_config
from launch.support.errors import UserError

# mypy: disable-error-code="assignment"
# absl's types do not know that flags are set as attributes.

_TEXT_MODEL = "txl_small"
_IMAGES_ONLY = ("train_examples", "label_smoothing", "width")
_LEARNING_RATES = {"sgd": 0.1, "adam": 2.5e-4}
_TEXT_ONLY = (
    *("segment_length", "memory_length", "evaluation_segment", "evaluation_memory"),
    *("evaluation_batch", "dropout", "attention_dropout", "sparse_embeddings"),
)


def resolved(settings: flags.FlagValues) -> flags.FlagValues:
    """Fills in the defaults that depend on other flags and checks them together.

    Raises:
      UserError: for a name that is not registered, or flags that exclude each other.
    """
    source = data.find(settings.dataset)
    if isinstance(source, TextSource):
        _text(settings)
    else:
        _expect_default(settings, _TEXT_ONLY, "images", "text")
        of_images(settings, source)
    devices.check(settings)
    settings.run_dir = settings.run_dir or "-".join(
        (f"runs/{source.name}", settings.model, settings.method)
    )
    return settings


def without_effect(settings: flags.FlagValues) -> dict[str, list[str]]:
    """The flags that are given and speak of what another flag has not chosen.

    No mistake, as methods that are compared share a flagfile. A dense run has none of
    the sparse methods'.

    Args:
      settings: the resolved flags.

    Returns:
      {choice, such as `method=swat`: the flags without effect there}.
    """
    of_others = sorted(methods.without_effect(settings.method))
    if settings.method == "dense":
        of_others = []  # a baseline takes the flagfile of what it is compared with
    found = {f"method={settings.method}": of_others}
    if settings.lr_schedule != "steps":
        found[f"lr_schedule={settings.lr_schedule}"] = ["lr_drop_steps", "lr_drop"]
    if settings.optimizer != "sgd":
        found[f"optimizer={settings.optimizer}"] = ["momentum", "nesterov"]
    given = {
        choice: [n for n in names if settings[n].value != settings[n].default]
        for choice, names in found.items()
    }
    return {choice: names for choice, names in given.items() if names}


def of_images(settings: flags.FlagValues, source: Source) -> None:
    """Fills in and checks what concerns images, for any program that trains on them."""
    settings.model = settings.model or source.model
    models.find(settings.model)
    _optimizer(settings, "sgd")
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
    _optimizer(settings, "adam")
    _expect_default(settings, _IMAGES_ONLY, "text", "images")
    if settings.sparse_embeddings and (
        settings.include or "fwd" not in methods.METHODS[settings.method].flag_names
    ):
        raise UserError(
            "Expected --sparse_embeddings with Top-KAST and without --include, whose "
            f"place it takes. Received: --method={settings.method}, "
            f"--include={settings.include}"
        )


def _optimizer(settings: flags.FlagValues, default: str) -> None:
    settings.optimizer = settings.optimizer or default
    if settings.learning_rate is None:
        settings.learning_rate = _LEARNING_RATES[settings.optimizer]


def _expect_default(
    settings: flags.FlagValues, names: tuple[str, ...], of: str, about: str
) -> None:
    for name in names:
        if settings[name].value != settings[name].default:
            raise UserError(
                f"Expected no --{name} for {of}, as it speaks of {about}. "
                f"Received: {settings[name].value}"
            )
