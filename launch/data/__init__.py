"""The data sets that the launcher can train on, by name.

Nothing here imports TensorFlow, so that a missing data set is reported before its slow
import.
"""

from launch.data import (
    byte_files,
    cifar10,
    cifar100,
    digits,
    imagenet,
    python_sources,
    word_files,
)
from launch.data.source import ImageData, ImageStream, Source
from launch.data.text import TextData, TextSource
from launch.support.errors import UserError

DATASETS: dict[str, Source | TextSource] = {
    source.name: source
    for source in (
        digits.SOURCE,
        cifar10.SOURCE,
        cifar100.SOURCE,
        imagenet.SOURCE,
        python_sources.SOURCE,
        *byte_files.SOURCES,
        *word_files.SOURCES,
    )
}

__all__ = [
    "DATASETS",
    "ImageData",
    "ImageStream",
    "Source",
    "TextData",
    "TextSource",
    "find",
]


def find(name: str, kind: str | None = None) -> Source | TextSource:
    """The source of a name.

    Args:
      name: the value of `--dataset`.
      kind: `image` or `text`, the kind that the caller can train on; None: either.

    Raises:
      UserError: for a name that is not registered or of another kind.
    """
    names = [n for n, source in DATASETS.items() if kind in (None, source.kind)]
    if name not in names:
        raise UserError(
            f"Expected --dataset to be one of {', '.join(names)}. Received: {name!r}"
        )
    return DATASETS[name]
