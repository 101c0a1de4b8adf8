"""Text as words, from files of the user: WikiText or any other text.

WikiText-103 and WikiText-2 (Merity et al. 2017) are words separated by white space. The
vocabulary is that of Transformer-XL (Dai et al. 2019): `<eos>`, the end of a line, with
id 0, then the words of the training part by frequency; for WikiText-103 it has 267,735
entries.
"""

import functools
import pathlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from launch.data import byte_files, encoded, progress, vocabulary
from launch.data.text import WORD, TextData, TextSource
from launch.support.errors import UserError

MIN_COUNT = 3
_TITLES = {"wikitext103": "wikitext-103", "wikitext2": "wikitext-2"}
_BLOCK = 1 << 20
_HEAD = 1 << 16


class Span(NamedTuple):
    """The bytes [start, stop) of a file."""

    path: pathlib.Path
    start: int
    stop: int


def check_wikitext(name: str, data_dir: str | None) -> None:
    """Raises `UserError` unless the three files exist and begin with text.

    Args:
      name: "wikitext103" or "wikitext2".
      data_dir: the folder of wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens.
    """
    remedy = (
        "download them once, on a machine with a network, with `curl -O "
        f"https://wikitext.smerity.com/{_TITLES[name]}-v1.zip && unzip "
        f"{_TITLES[name]}-v1.zip`"
    )
    if data_dir is None:
        raise UserError(
            f"--dataset={name} needs --data_dir, the folder of wiki.train.tokens, "
            f"wiki.valid.tokens and wiki.test.tokens; {remedy}."
        )
    for path in _wikitext_files(data_dir).values():
        if not path.is_file():
            raise UserError(
                f"{path} does not exist: pass the folder of wiki.train.tokens, "
                f"wiki.valid.tokens and wiki.test.tokens with --data_dir, or {remedy}."
            )
        if not path.stat().st_size:
            raise UserError(
                f"Expected {path} to hold text. Received: 0 bytes; {remedy}."
            )
        _check_head(path)


def load_wikitext(
    name: str, data_dir: str | None, cache: str | None = None
) -> TextData:
    """Reads WikiText as words, with its published split.

    It is encoded once, into `cache`: a minute and 400 MB for WikiText-103.

    Args:
      name, data_dir: as for `check_wikitext`.
      cache: folder of the encoded text; by default `.topkast_tf` next to the files.

    Raises:
      UserError: if the files do not exist or are not text.
    """
    check_wikitext(name, data_dir)
    files = _wikitext_files(data_dir)
    spans = {part: Span(path, 0, path.stat().st_size) for part, path in files.items()}
    return _load(name, spans, cache, min_count=1)


def check_own(data_dir: str | None) -> None:
    """Raises `UserError` unless `data_dir` is a text file long enough for three parts."""
    if data_dir is None:
        raise UserError("--dataset=words needs --data_dir, a text file.")
    path = pathlib.Path(data_dir).expanduser()
    if not path.is_file():
        raise UserError(
            f"Expected --data_dir={path} to be a text file for --dataset=words. "
            f"Received: {'a folder' if path.is_dir() else 'no such file'}"
        )
    _check_head(path)
    if not all(span.start < span.stop for span in own_spans(path).values()):
        raise UserError(
            f"Expected {path} to hold enough words for three parts, 90, 5 and 5 % of it. "
            f"Received: {path.stat().st_size} bytes"
        )


def load_own(
    data_dir: str | None, cache: str | None = None, min_count: int = MIN_COUNT
) -> TextData:
    """Reads any text file in UTF-8 as words separated by white space.

    Args:
      data_dir: the file.
      cache: folder of the encoded text; by default `.topkast_tf` next to the file.
      min_count: words that occur less often in the training part become `<unk>`, as in
        WikiText; with 1, only words that do not occur in it.

    Raises:
      UserError: if the file does not exist, is too short, or is not UTF-8.
      ValueError: if `min_count` is below 1.
    """
    if min_count < 1:
        raise ValueError(f"Expected min_count of at least 1. Received: {min_count}")
    check_own(data_dir)
    path = pathlib.Path(data_dir).expanduser()
    return _load("words", own_spans(path), cache, min_count=min_count)


def own_spans(path: pathlib.Path) -> dict[str, Span]:
    """The first 90 % of a file, then 5 % and 5 %, each cut after the next white space."""
    size = path.stat().st_size
    first, second = (_after_space(path, size * cut // 100) for cut in (90, 95))
    return {
        "train": Span(path, 0, first),
        "valid": Span(path, first, second),
        "test": Span(path, second, size),
    }


def read_text(span: Span) -> Iterator[str]:
    """The text of a span in blocks that end with white space; its last line is ended.

    Raises:
      UserError: if it is not UTF-8.
    """
    size = span.path.stat().st_size
    begin, rest = span.start, b""
    for block in byte_files.read_blocks([span.path], span.start, span.stop):
        rest += block.tobytes()
        cut = 1 + max(rest.rfind(b" "), rest.rfind(b"\n"))
        yield _decoded(span.path, rest[:cut], begin)
        begin, rest = begin + cut, rest[cut:]
    # An unterminated line is ended at the end of the file, but not at a cut.
    end = "\n" if span.stop == size and not _ends_line(span.path) else ""
    yield _decoded(span.path, rest, begin) + end


def _load(name: str, spans: dict[str, Span], cache, *, min_count: int) -> TextData:
    def encode():
        size = sum(span.stop - span.start for span in spans.values())
        bar = progress.Bytes(f"{name}: encoding", 2 * size)

        def blocks(part):
            for text in read_text(spans[part]):
                yield vocabulary.words(text)
                bar.advance(len(text.encode()))

        counts = {part: Counter() for part in encoded.PARTS}
        for part, counter in counts.items():
            for block in blocks(part):
                counter.update(block)
        tokens = vocabulary.word_vocabulary(counts["train"], min_count)
        dtype = encoded.Encoding(tokens, {}, blocks).dtype
        return encoded.Encoding(
            tokens,
            {part: counter.total() for part, counter in counts.items()},
            lambda part: vocabulary.encode_words(blocks(part), tokens, dtype),
        )

    files = sorted({span.path for span in spans.values()})
    home = files[0].parent / encoded.FOLDER
    folder = pathlib.Path(cache).expanduser() if cache else home
    tokens, parts = encoded.load(folder, name, files, encode, min_count=min_count)
    return TextData(**parts, vocabulary=tokens, unit=WORD)


def _wikitext_files(data_dir: str) -> dict[str, pathlib.Path]:
    root = pathlib.Path(data_dir).expanduser()
    return {part: root / f"wiki.{part}.tokens" for part in encoded.PARTS}


def _check_head(path: pathlib.Path) -> None:
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    # The last character may be truncated.
    _decoded(path, head[: head.rfind(b" ") + 1] or head[:-3], 0)


def _decoded(path: pathlib.Path, text: bytes, begin: int) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"Expected {path} to be text in UTF-8. Received: byte "
            f"0x{text[error.start]:02x} at {begin + error.start}"
        ) from None


def _after_space(path: pathlib.Path, place: int) -> int:
    with open(path, "rb") as file:
        file.seek(place)
        while block := file.read(_BLOCK):
            cut = min((i for i in map(block.find, (b" ", b"\n")) if i >= 0), default=-1)
            if cut >= 0:
                return place + cut + 1
            place += len(block)
    return place


def _ends_line(path: pathlib.Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


SOURCES = (
    *(
        TextSource(
            name,
            WORD,
            functools.partial(check_wikitext, name),
            functools.partial(load_wikitext, name),
        )
        for name in _TITLES
    ),
    TextSource("words", WORD, check_own, load_own),
)
