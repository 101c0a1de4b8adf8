"""Vocabularies of bytes and of words: the tokens and their ids."""

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

END_OF_LINE = "<eos>"
UNKNOWN = "<unk>"


def byte_counts(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """The number of occurrences of each byte: int64 of shape [256].

    Args:
      blocks: arrays of bytes.

    >>> byte_counts([np.frombuffer(b"abba", "uint8")])[97:99].tolist()
    [2, 2]
    """
    counts = np.zeros(256, "int64")
    for block in blocks:
        counts += np.bincount(block, minlength=256)
    return counts


def byte_vocabulary(train_counts: np.ndarray, held_out_counts: np.ndarray) -> list[str]:
    """The bytes of the training part in ascending order, then the other bytes.

    Bytes that occur only in the held-out parts have their own ids, so that no byte is
    lost and bits per character are exact. The model has not seen them in training, which
    increases its loss.

    Args:
      train_counts, held_out_counts: occurrences of each byte, [256].

    Returns:
      chr(byte) for each id.

    >>> train, rest = np.zeros(256), np.zeros(256)
    >>> train[[99, 97]] = rest[[98, 97]] = 1
    >>> byte_vocabulary(train, rest)
    ['a', 'c', 'b']
    """
    seen = np.flatnonzero(train_counts)
    others = np.flatnonzero((train_counts == 0) & (held_out_counts > 0))
    return [chr(byte) for byte in [*seen, *others]]


def byte_table(vocabulary: list[str]) -> np.ndarray:
    """The id of each byte, uint8 [256]; 0 for bytes that are not in the vocabulary."""
    table = np.zeros(256, "uint8")
    table[[ord(token) for token in vocabulary]] = np.arange(len(vocabulary))
    return table


def words(text: str) -> list[str]:
    """The words of a text, separated by white space, and `<eos>` at the end of a line.

    >>> words("one two\\n\\nthree")
    ['one', 'two', '<eos>', '<eos>', 'three']
    """
    return text.replace("\n", f" {END_OF_LINE} ").split()


def word_vocabulary(counts: Counter[str], min_count: int = 1) -> list[str]:
    """`<eos>`, then the words from the most to the least frequent.

    Words with equal counts are in the order of their first occurrence. `<unk>` replaces
    words that occur fewer than `min_count` times; its count is the sum of theirs and its
    own. If the text has no such word, `<unk>` is last, for words of other texts.

    Args:
      counts: occurrences of each word of the training part, in the order of their first
        occurrence.
      min_count: at least 1.

    Returns:
      The word of each id.

    >>> word_vocabulary(Counter("b a c c d".split()))
    ['<eos>', 'c', 'b', 'a', 'd', '<unk>']
    >>> word_vocabulary(Counter("b a c c d".split()), min_count=2)
    ['<eos>', '<unk>', 'c']
    """
    special = (END_OF_LINE, UNKNOWN)
    kept = Counter()
    rare = 0
    for word, count in counts.items():
        if count >= min_count or word in special:
            kept[word] = count
        else:
            rare += count
    del kept[END_OF_LINE]
    kept[UNKNOWN] += rare
    return [END_OF_LINE, *sorted(kept, key=kept.get, reverse=True)]


def encode_words(
    blocks: Iterable[list[str]], vocabulary: list[str], dtype: np.dtype
) -> Iterator[np.ndarray]:
    """The ids of blocks of words; words without an id get that of `<unk>`.

    >>> [block.tolist() for block in encode_words([["a", "z"]], ["<unk>", "a"], "uint8")]
    [[1, 0]]
    """
    ids = {word: i for i, word in enumerate(vocabulary)}
    unknown = ids[UNKNOWN]
    for block in blocks:
        found = (ids.get(word, unknown) for word in block)
        yield np.fromiter(found, dtype, len(block))
