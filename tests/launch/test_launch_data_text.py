"""Text as tokens: small files by hand, and errors for invalid files."""

import os
import pathlib
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from launch import data
from launch.data import byte_files, encoded, vocabulary, word_files
from launch.support.errors import UserError


def refused(source, data_dir):
    """The error of a source for its data, raised within a second."""
    start = time.perf_counter()
    with pytest.raises(UserError) as caught:
        source.check(data_dir and str(data_dir))
    assert time.perf_counter() - start < 1
    said = str(caught.value)
    assert "\n" not in said
    return said


# --- Registry ------------------------------------------------------------------------


def test_names_are_found_by_kind():
    texts = {name for name, s in data.DATASETS.items() if s.kind == "text"}
    assert texts == {
        "python",
        "enwik8",
        "text8",
        "bytes",
        "wikitext103",
        "wikitext2",
        "words",
    }
    assert data.find("python", "text").unit == "byte"
    assert data.find("python") is data.DATASETS["python"]
    with pytest.raises(UserError, match="one of digits, .*Received: 'python'"):
        data.find("python", "image")
    with pytest.raises(UserError, match="one of python, .*Received: 'digits'"):
        data.find("digits", "text")


def test_missing_text_is_reported_without_tensorflow(root, tmp_path):
    code = (
        "import sys, time; start = time.process_time()\n"
        "from launch import data\n"
        "from launch.support import errors\n"
        "for name in ('enwik8', 'wikitext103', 'words', 'bytes'):\n"
        "    try: data.find(name, 'text').check(sys.argv[1])\n"
        "    except errors.UserError as error: print(error)\n"
        "assert 'tensorflow' not in sys.modules and 'tqdm' not in sys.modules\n"
        "assert time.process_time() - start < 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "none")],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert len(done.stdout.splitlines()) == 4


# --- Vocabularies --------------------------------------------------------------------


def test_vocabulary_is_ordered_by_frequency_then_occurrence():
    text = "b a <unk>\nc b\n\nd a b <unk> <unk>\n"
    found = vocabulary.words(text)
    assert found == [
        *["b", "a", "<unk>", "<eos>"],
        *["c", "b", "<eos>", "<eos>"],
        *["d", "a", "b", "<unk>", "<unk>", "<eos>"],
    ]
    assert vocabulary.word_vocabulary(Counter(found)) == [
        *["<eos>", "b", "<unk>", "a", "c", "d"]
    ]
    # c and d are rare: with them <unk> occurs five times, more often than b.
    assert vocabulary.word_vocabulary(Counter(found), 2) == ["<eos>", "<unk>", "b", "a"]


# --- Words ---------------------------------------------------------------------------


def wikitext(folder, train, valid="b\n", test="a\n"):
    folder.mkdir(exist_ok=True)
    for part, text in (("train", train), ("valid", valid), ("test", test)):
        (folder / f"wiki.{part}.tokens").write_bytes(text.encode())
    return str(folder)


@pytest.mark.parametrize("name", ["wikitext103", "wikitext2"])
def test_wikitext_by_hand(tmp_path, name):
    folder = wikitext(
        tmp_path, " = T = \n \n the cat the <unk> \n", "the dog\n", "cat =\nthe"
    )
    text = data.find(name, "text").load(folder, None)
    assert text.vocabulary == ["<eos>", "=", "the", "T", "cat", "<unk>"]
    assert text.vocabulary_size == 6 and text.unit == "word"
    assert text.train.tolist() == [1, 3, 1, 0, 0, 2, 4, 2, 5, 0]
    # `dog` is not in the training part; the last line has no newline, but an <eos>.
    assert text.valid.tolist() == [2, 5, 0]
    assert text.test.tolist() == [4, 1, 0, 2, 0]
    assert text.decode(text.test) == "cat = <eos> the <eos>"
    assert isinstance(text.train, np.memmap)


def test_long_text_is_read_completely_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(byte_files, "_BLOCK", 7)
    rng = np.random.RandomState(0)
    words = ["é" * n + str(n) for n in rng.randint(1, 9, 200)]
    spaced = "".join(w + (" ", "\n", "  ")[i % 3] for i, w in enumerate(words))
    text = word_files.load_wikitext("wikitext2", wikitext(tmp_path, spaced))
    assert text.decode(text.train) == " ".join(vocabulary.words(spaced))


def test_custom_text_in_words(tmp_path):
    path = tmp_path / "text.txt"
    lines = [f"w{i % 7} once{i} and" for i in range(100)]
    path.write_text("\n".join(lines))
    text = word_files.load_own(str(path))
    whole = [text.decode(part).split() for part in (text.train, text.valid, text.test)]
    # Only these words occur more than once; all others become <unk>.
    assert set(text.vocabulary) == {
        "<eos>",
        "<unk>",
        "and",
        *(f"w{i}" for i in range(7)),
    }
    expected = vocabulary.words("\n".join(lines) + "\n")
    known = set(text.vocabulary)
    assert sum(whole, []) == [w if w in known else "<unk>" for w in expected]
    sizes = [len(part) for part in whole]
    assert 0.88 < sizes[0] / 400 < 0.92 and 0.03 < sizes[1] / 400 < 0.07
    every = word_files.load_own(str(path), None, min_count=1)
    assert "once3" in every.vocabulary and "once99" not in every.vocabulary
    with pytest.raises(ValueError, match="Received: 0"):
        word_files.load_own(str(path), None, min_count=0)


def test_split_between_parts_adds_no_end_of_line(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(" ".join(["word"] * 400))
    text = word_files.load_own(str(path))
    assert len(text.train) + len(text.valid) + len(text.test) == 401
    assert text.decode(text.test).endswith("word <eos>")
    assert "<eos>" not in text.decode(text.train) + text.decode(text.valid)


def test_errors_of_word_data(tmp_path):
    for name in ("wikitext103", "wikitext2"):
        source = data.find(name, "text")
        assert "needs --data_dir" in refused(source, None)
        said = refused(source, tmp_path / "none")
        assert "wiki.train.tokens does not exist" in said and "unzip" in said
        folder = pathlib.Path(wikitext(tmp_path / name, "a b\n"))
        (folder / "wiki.valid.tokens").write_bytes(b"")
        assert "wiki.valid.tokens to hold text. Received: 0" in refused(source, folder)
        (folder / "wiki.valid.tokens").write_bytes(b"a \xff b\n")
        assert "UTF-8. Received: byte 0xff at 2" in refused(source, folder)
        (folder / "wiki.valid.tokens").unlink()
        assert "wiki.valid.tokens does not exist" in refused(source, folder)
    source = data.find("words", "text")
    assert "needs --data_dir" in refused(source, None)
    assert "Received: a folder" in refused(source, tmp_path)
    assert "Received: no such file" in refused(source, tmp_path / "none")
    (tmp_path / "short").write_text("word")
    assert "three parts" in refused(source, tmp_path / "short")
    (tmp_path / "empty").write_text("")
    assert "Received: 0 bytes" in refused(source, tmp_path / "empty")


def test_error_of_damaged_text_gives_the_byte_offset(tmp_path):
    folder = pathlib.Path(wikitext(tmp_path, "a\n"))
    (folder / "wiki.train.tokens").write_bytes(b"ab " * 500_000 + b"\xfe ")
    with pytest.raises(UserError, match="byte 0xfe at 1500000"):
        word_files.load_wikitext("wikitext2", str(folder))
    # No partial file is left.
    cache = folder / encoded.FOLDER
    assert not cache.exists() or not list(cache.iterdir())


# --- Bytes ---------------------------------------------------------------------------


def test_custom_bytes_by_hand(tmp_path):
    path = tmp_path / "text"
    whole = b"banana\n" * 12 + b"abcde\xff"
    path.write_bytes(whole)
    text = data.find("bytes", "text").load(str(path), None)
    assert [len(text.train), len(text.valid), len(text.test)] == [81, 4, 5]
    # Only the training part's bytes are numbered in order, the others come after them.
    assert text.vocabulary == ["\n", "a", "b", "n", "c", "d", "e", "\xff"]
    assert text.train[:7].tolist() == [2, 1, 3, 1, 3, 1, 0]
    assert text.test.tolist() == [2, 4, 5, 6, 7]
    codes = "".join(text.vocabulary[i] for i in [*text.train, *text.valid, *text.test])
    assert codes.encode("latin-1") == whole
    assert isinstance(text.valid, np.memmap) and text.train.dtype == np.uint8


def test_files_of_a_folder_are_concatenated(tmp_path, monkeypatch):
    monkeypatch.setattr(byte_files, "_BLOCK", 16)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "z").write_bytes(b"1" * 50)
    (tmp_path / "b").write_bytes(b"2" * 30)
    (tmp_path / "c").write_bytes(b"3" * 20)
    (tmp_path / ".hidden").write_bytes(b"4" * 100)
    text = byte_files.load_own(str(tmp_path))
    # The folder of the encoded text, now hidden in it, is not read.
    for again in (text, byte_files.load_own(str(tmp_path))):
        assert again.decode(again.train) == "1" * 50 + "2" * 30 + "3" * 10
        assert again.decode(again.valid) == again.decode(again.test) == "3" * 5


@pytest.fixture
def small_benchmark(monkeypatch):
    monkeypatch.setattr(byte_files, "SIZE", 1000)


def test_benchmarks_are_split_as_published(tmp_path, small_benchmark):
    assert byte_files.spans(100_000_000) == {
        "train": (0, 90_000_000),
        "valid": (90_000_000, 95_000_000),
        "test": (95_000_000, 100_000_000),
    }
    rng = np.random.RandomState(0)
    letters = "".join(rng.choice(list(" abcdefghijklmnopqrstuvwxyz"), 1000))
    (tmp_path / "text8").write_text(letters)
    source = data.find("text8", "text")
    for place in (tmp_path, tmp_path / "text8"):
        text = source.load(str(place), None)
        assert text.vocabulary_size == 27 and text.unit == "byte"
        assert text.decode(text.train) == letters[:900]
        assert text.decode(text.valid) == letters[900:950]
        assert text.decode(text.test) == letters[950:]
        assert text.train.max() == 26 and text.vocabulary[0] == " "
    xml = "<mediawiki>" + letters[11:]
    (tmp_path / "enwik8").write_text(xml)
    text = data.find("enwik8", "text").load(str(tmp_path), None)
    assert text.decode(text.train) == xml[:900]
    assert text.vocabulary[:4] == [" ", "<", ">", "a"]


@pytest.mark.parametrize("name", ["enwik8", "text8"])
def test_errors_of_benchmark_data(tmp_path, name, monkeypatch):
    source = data.find(name, "text")
    assert "needs --data_dir" in refused(source, None)
    said = refused(source, tmp_path)
    assert str(tmp_path / name) in said and f"{name}.zip" in said
    path = tmp_path / name
    path.write_bytes(b"x" * 99)
    assert "Expected" in refused(source, tmp_path)
    said = refused(source, tmp_path)
    assert "to have 100000000 bytes. Received: 99; download it once" in said
    # The right size, but without content.
    with open(path, "wb") as file:
        file.truncate(100_000_000)
    said = refused(source, path)
    assert "Received: b'\\x00" in said


def test_errors_of_byte_data(tmp_path):
    source = data.find("bytes", "text")
    assert "needs --data_dir" in refused(source, None)
    assert "does not exist" in refused(source, tmp_path / "none")
    assert "at least 40 bytes. Received: 0" in refused(source, tmp_path)


# --- Real text -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    folder = os.environ.get("TOPKAST_TEST_DATA")
    if not folder:
        pytest.skip("TOPKAST_TEST_DATA names no folder with text")
    return pathlib.Path(folder) / "text"


def test_real_words(real, tmp_path):
    folder = str(real / "wikileads")
    text = word_files.load_wikitext("wikitext103", folder, str(tmp_path))
    lines = (real / "wikileads" / "wiki.test.tokens").read_text().splitlines()
    expected = [word for line in lines for word in [*line.split(), "<eos>"]]
    known = set(text.vocabulary)
    assert text.decode(text.test).split() == [
        word if word in known else "<unk>" for word in expected
    ]
    counts = np.bincount(text.train)
    assert (np.diff(counts[1:]) <= 0).all()
    assert 860_000 < len(text.train) < 880_000


def test_real_bytes(real, tmp_path):
    path = real / "enwiki" / "enwiki.xml"
    text = byte_files.load_own(str(path), str(tmp_path))
    raw = path.read_bytes()
    codes = np.array([ord(token) for token in text.vocabulary], "uint8")
    found = np.concatenate([text.train, text.valid, text.test])
    assert codes[found].tobytes() == raw
    assert 190 < text.vocabulary_size < 256
