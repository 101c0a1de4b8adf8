"""Text as numbers: what the launcher knows of it before it is read, and once it is."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import numpy as np

from launch.data.digest import digest

BYTE, WORD = "byte", "word"

# Ranks of words at which an adaptive softmax is cut; for WikiText-103 those of
# Transformer-XL (Dai et al. 2019).
_CUTOFFS = (20_000, 40_000, 200_000)


@dataclasses.dataclass(frozen=True)
class TextData:
    """The parts of a text as token ids, and how its loss is commonly given.

    For bytes that is bits per character, for words perplexity, of the mean loss L in
    nats a token:

        bits per character = L / ln 2,    perplexity = exp(L)

    A character is a byte here, as in all published figures of enwik8 and text8.

    Attributes:
      train, valid, test: integers of shape [tokens], from 0 to `vocabulary_size` - 1;
        mapped from files where the text was read from files.
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
        """Number of different tokens."""
        return len(self.vocabulary)

    @property
    def digest(self) -> str:
        """A name that a text with other tokens or of another length does not have."""
        return digest(self.vocabulary, self.train, self.valid, self.test)

    @property
    def cutoffs(self) -> tuple[int, ...]:
        """Ids at which an adaptive softmax may cut the vocabulary.

        Ids of words are ranks by frequency: 20,000, 40,000 and 200,000, as far as there
        are so many words. None for bytes.
        """
        if self.unit == BYTE:
            return ()
        return tuple(cut for cut in _CUTOFFS if cut < self.vocabulary_size)

    @property
    def measure(self) -> str:
        """What `measured` gives: "bits per character" or "perplexity"."""
        return "bits per character" if self.unit == BYTE else "perplexity"

    def measured(self, nats: float) -> float:
        """The mean loss of a token in the unit that `measure` names.

        Args:
          nats: mean cross entropy of a token with the natural logarithm.

        Returns:
          nats / ln 2 for bytes; exp(nats), or infinity where that is too large, for
          words.

        >>> none = np.zeros(0, "uint8")
        >>> round(TextData(none, none, none, ["a", "b"], "byte").measured(math.log(2)), 6)
        1.0
        >>> round(TextData(none, none, none, ["a", "b"], "word").measured(math.log(2)), 6)
        2.0
        """
        if self.unit == BYTE:
            return nats / math.log(2)
        try:
            return math.exp(nats)
        except OverflowError:
            return math.inf

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; words with a space between them.

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
      name: what `--dataset` calls it.
      unit: "byte" or "word".
      check: raises `UserError` with what to do if the text is not at `data_dir`; quick
        and without a network.
      load: reads it from `data_dir`, with the folder of the encoded text (None: beside
        it) as second argument; never touches a network.
    """

    name: str
    unit: str
    check: Callable[[str | None], None]
    load: Callable[[str | None, str | None], TextData]
    kind: ClassVar[str] = "text"
