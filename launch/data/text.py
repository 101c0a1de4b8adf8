"""Text as token ids, and the description of a text before it is read."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import numpy as np

from launch.data.digest import digest

BYTE, WORD = "byte", "word"


@dataclasses.dataclass(frozen=True)
class TextData:
    """The parts of a text as token ids.

    Attributes:
      train, valid, test: integers of shape [tokens], from 0 to `vocabulary_size` - 1;
        memory-mapped if the text comes from files.
      vocabulary: the token of each id: a word, or chr(byte).
      unit: "byte" or "word".
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    vocabulary: Sequence[str]
    unit: str

    @property
    def vocabulary_size(self) -> int:
        """Number of distinct tokens."""
        return len(self.vocabulary)

    @property
    def digest(self) -> str:
        """A digest of the tokens and the length of the text."""
        return digest(self.vocabulary, self.train, self.valid, self.test)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; words are joined by spaces.

        >>> none = np.zeros(0, "uint8")
        >>> TextData(none, none, none, ["a", "b"], "byte").decode([1, 0, 0])
        'baa'
        """
        tokens = [self.vocabulary[i] for i in ids]
        if self.unit == WORD:
            return " ".join(tokens)
        return "".join(tokens).encode("latin-1").decode("utf-8", "replace")


@dataclasses.dataclass(frozen=True)
class TextSource:
    """A text that can be read.

    Attributes:
      kind: "text".
      name: the value of `--dataset`.
      unit: "byte" or "word".
      check: raises `UserError` with what to do if the text is not at `data_dir`; quick
        and without a network.
      load: reads it from `data_dir`; the second argument is the folder of the encoded
        text (None: next to the text). Never accesses a network.
    """

    name: str
    unit: str
    check: Callable[[str | None], None]
    load: Callable[[str | None, str | None], TextData]
    kind: ClassVar[str] = "text"
