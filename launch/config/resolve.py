"""Defaults that depend on other flags, and the checks of flags together.

Nothing here imports TensorFlow, so that a mistake is reported before its slow import.
"""

from absl import flags

from launch import data, models
from launch.config import flag_table, methods
from launch.config.flag import Groups, flags_in
from launch.data.source import Source
from launch.data.text import TextSource
from launch.distribute import devices
from launch.models import transformer_xl_config
from launch.support.errors import UserError

# mypy: disable-error-code="assignment"
# absl's types do not know that flags are set as attributes.

_TEXT_MODEL = "txl_small"
_LEARNING_RATES = {"sgd": 0.1, "adam": 2.5e-4}


def resolved(settings: flags.FlagValues) -> flags.FlagValues:
    """Fills in the defaults that depend on other flags and checks the flags together.

    Raises:
      UserError: for a name that is not registered, or flags that contradict each other.
    """
    source = data.find(settings.dataset)
    check_data(settings, flag_table.GROUPS)
    if isinstance(source, TextSource):
        _text(settings)
    else:
        of_images(settings, source)
    devices.check(settings)
    settings.run_dir = settings.run_dir or "-".join(
        (f"runs/{source.name}", settings.model, settings.method)
    )
    return settings


def without_effect(settings: flags.FlagValues) -> dict[str, list[str]]:
    """The given flags that have no effect because of another flag's value.

    They are no mistake: runs that are compared share a flagfile. For the same reason, a
    dense run may be given the flags of any sparse method.

    Args:
      settings: the resolved flags.

    Returns:
      {cause, such as `method=swat`: the flags without effect there}.
    """
    found: dict[str, list[str]] = {}
    if settings.method != "dense":
        of_others = sorted(methods.without_effect(settings.method))
        found[f"method={settings.method}"] = of_others
    for flag in flags_in(flag_table.GROUPS):
        if flag.only_with is None:
            continue
        other, needed = flag.only_with
        value = settings[other].value
        if value != needed:
            found.setdefault(f"{other}={value}", []).append(flag.name)
    given = {
        cause: [n for n in names if _is_given(settings, n)]
        for cause, names in found.items()
    }
    return {cause: names for cause, names in given.items() if names}


def of_images(settings: flags.FlagValues, source: Source) -> None:
    """Fills in and checks the flags of images, for any program that trains on them."""
    settings.model = settings.model or source.model
    models.find(settings.model)
    _optimizer(settings, "sgd")
    settings.train_examples = settings.train_examples or source.train_examples
    if settings.train_examples > source.train_examples:
        raise UserError(
            f"Expected --train_examples of at most {source.train_examples}, the size of "
            f"{source.name}. Received: {settings.train_examples}"
        )
    if settings.batch_size > settings.train_examples:
        raise UserError(
            "Expected --batch_size of at most the number of training examples, "
            f"{settings.train_examples}. Received: {settings.batch_size}"
        )


def check_data(settings: flags.FlagValues, groups: Groups) -> None:
    """Raises `UserError` for a given flag that applies to another kind of data.

    Args:
      settings: the flags, with the name of the data set.
      groups: the flags to check.
    """
    kind = data.find(settings.dataset).kind
    for flag in flags_in(groups):
        applies = flag.data in ("", kind) or not flag.affects_result
        if not applies and _is_given(settings, flag.name):
            raise UserError(
                f"Expected no --{flag.name} for --dataset={settings.dataset}: it applies "
                f"to {flag.data} data only. Received: {settings[flag.name].value}"
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
    if settings.sparse_embeddings and (
        settings.include or "fwd" not in methods.METHODS[settings.method].flag_names
    ):
        raise UserError(
            "Expected --sparse_embeddings with Top-KAST and without --include, which it "
            f"replaces. Received: --method={settings.method}, "
            f"--include={settings.include}"
        )


def _optimizer(settings: flags.FlagValues, default: str) -> None:
    settings.optimizer = settings.optimizer or default
    if settings.learning_rate is None:
        settings.learning_rate = _LEARNING_RATES[settings.optimizer]


def _is_given(settings: flags.FlagValues, name: str) -> bool:
    return settings[name].value != settings[name].default
