"""The sizes of texts and their vocabularies, even without the text."""

import dataclasses
import tempfile

from absl import flags

from launch import data
from launch.data.segments import steps_per_epoch
from launch.support.errors import UserError


@dataclasses.dataclass(frozen=True)
class TextSize:
    """The size of a text.

    Attributes:
      vocabulary: number of distinct tokens.
      train_tokens: tokens of its training part; None if unknown.
      bytes_in_memory: bytes of its training part in memory; 0 if it is read from a file.
    """

    vocabulary: int
    train_tokens: int | None
    bytes_in_memory: int = 0

    def steps_per_epoch(self, batch_size: int, length: int) -> int | None:
        """As `segments.steps_per_epoch`; None if the number of tokens is unknown."""
        if self.train_tokens is None:
            return None
        return steps_per_epoch(self.train_tokens, batch_size, length)


PUBLISHED = {
    "enwik8": TextSize(205, 90_000_000),
    "text8": TextSize(27, 90_000_000),
    "wikitext103": TextSize(267_735, 103_227_021),
    "wikitext2": TextSize(33_278, 2_088_628),
}
"""Sizes from the published split and the vocabulary of the training part.

Source: Mahoney 2006, Merity et al. 2017 and Dai et al. 2019 (ends of lines are tokens).
"""

_BYTES = 256  # an upper bound, which most texts nearly reach


def text_size(settings: flags.FlagValues) -> TextSize:
    """The size of the text that the flags name; `--vocabulary` overrides its own.

    The sizes of published texts are known. Other texts are read, which may take long,
    unless the flags give the sizes.

    Raises:
      UserError: if neither the flags nor a file determine the vocabulary.
    """
    found = PUBLISHED.get(settings.dataset)
    if found is None:
        found = _read(settings)
    if settings.vocabulary:
        return dataclasses.replace(found, vocabulary=settings.vocabulary)
    return found


def _read(settings: flags.FlagValues) -> TextSize:
    source = data.find(settings.dataset)
    needs_file = source.name != "python"
    if settings.vocabulary and (settings.steps or needs_file and not settings.data_dir):
        return TextSize(settings.vocabulary, None)
    if source.name == "bytes" and not settings.data_dir:
        return TextSize(_BYTES, None)
    if needs_file and not settings.data_dir:
        raise UserError(
            f"Expected --vocabulary, the number of different tokens, or --data_dir with "
            f"the text, for --dataset={source.name}, whose vocabulary depends on the "
            "text. Received: neither"
        )
    source.check(settings.data_dir)
    # Encoded in a temporary folder: a plan leaves no files.
    with tempfile.TemporaryDirectory() as cache:
        text = source.load(settings.data_dir, cache)
        in_memory = 0 if needs_file else text.train.nbytes
        return TextSize(text.vocabulary_size, len(text.train), in_memory)
