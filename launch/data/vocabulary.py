"""Which tokens there are, and the id of each: for bytes and for words."""

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

END_OF_LINE = "<eos>"
UNKNOWN = "<unk>"


def byte_counts(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """How often each byte occurs: int64 of shape [256].

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
    """The bytes of the training part in their order, then those it does not have.

    Bytes that only the held-out parts have keep an id each: no byte is lost, and bits
    per character stay exact. The model has never seen them, and pays for that.

    Args:
      train_counts, held_out_counts: how often each byte occurs, [256].

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
    """The words of a text, and `<eos>` where a line ends.

    Words are what stands between white space.

    >>> words("one two\\n\\nthree")
    ['one', 'two', '<eos>', '<eos>', 'three']
    """
    return text.replace("\n", f" {END_OF_LINE} ").split()


def word_vocabulary(counts: Counter[str], min_count: int = 1) -> list[str]:
    """`<eos>`, then the words from the most to the least frequent.

    Among words that occur equally often the one that occurred first comes first.
    `<unk>` stands for words that occur fewer than `min_count` times: it counts as often
    as all of them together, with its own. Where the text has no such word it comes
    last, for those of other texts.

    Args:
      counts: how often each word of the training part occurs, in the order in which
        they first occurred.
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
    """The ids of blocks of words; that of `<unk>` for words that have none.

    >>> [block.tolist() for block in encode_words([["a", "z"]], ["<unk>", "a"], "uint8")]
    [[1, 0]]
    """
    ids = {word: i for i, word in enumerate(vocabulary)}
    unknown = ids[UNKNOWN]
    for block in blocks:
        found = (ids.get(word, unknown) for word in block)
        yield np.fromiter(found, dtype, len(block))
