"""Encoded text in files: reused, rebuilt, or kept in memory."""

import os
import pathlib

import numpy as np

from launch.data import byte_files, encoded, vocabulary, word_files


def entries(folder):
    return {p.name: p.stat().st_ino for p in pathlib.Path(folder).iterdir()}


def test_encoded_text_is_reused_until_the_text_changes(tmp_path, monkeypatch):
    folder = tmp_path / "text"
    folder.mkdir()
    for part, text in (("train", "a b a\n"), ("valid", "b\n"), ("test", "a\n")):
        (folder / f"wiki.{part}.tokens").write_text(text)
    cache = tmp_path / "cache"

    def load():
        return word_files.load_wikitext("wikitext2", str(folder), str(cache))

    first = load()
    assert not (folder / encoded.FOLDER).exists()
    before = entries(cache)
    with monkeypatch.context() as patch:
        patch.setattr(vocabulary, "words", None)
        assert load().train.tolist() == first.train.tolist() == [1, 2, 1, 0]
    assert entries(cache) == before
    # The same size at another time.
    train = folder / "wiki.train.tokens"
    train.write_text("b b a\n")
    os.utime(train, ns=(0, 1))
    assert load().vocabulary == ["<eos>", "b", "a", "<unk>"]
    # The same time with another size.
    train.write_text("b b a c\n")
    os.utime(train, ns=(0, 1))
    assert load().train.tolist() == [1, 1, 2, 3, 0]
    after = entries(cache)
    assert after.keys() == before.keys() and after != before
    # Text that was mapped before is unchanged.
    assert first.train.tolist() == [1, 2, 1, 0]


def test_damaged_encoded_text_is_rebuilt(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"abcdefgh" * 100)
    whole = byte_files.load_own(str(path)).train.tolist()
    (entry,) = (tmp_path / encoded.FOLDER).iterdir()
    for name in ("train.npy", "index.json"):
        with open(entry / name, "rb+") as file:
            file.truncate(200 if name == "train.npy" else 20)
        assert byte_files.load_own(str(path)).train.tolist() == whole
        assert (entry / "train.npy").stat().st_size > 720


def test_each_setting_has_its_own_encoded_text(tmp_path):
    path = tmp_path / "text"
    path.write_text("a b b c c c\n" * 40 + "d\n" * 100)
    sizes = [word_files.load_own(str(path), None, n).vocabulary_size for n in (1, 50)]
    assert sizes[0] > sizes[1]
    before = entries(tmp_path / encoded.FOLDER)
    assert len(before) == 2
    word_files.load_own(str(path), None, 1)
    assert entries(tmp_path / encoded.FOLDER) == before


def test_text_is_kept_in_memory_if_the_cache_is_not_writable(tmp_path, capsys):
    path = tmp_path / "text"
    path.write_bytes(b"abc" * 100)
    # A file cannot contain a folder, not even for root.
    text = byte_files.load_own(str(path), str(path / "cache"))
    assert not isinstance(text.train, np.memmap)
    assert text.decode(text.train) == "abc" * 90
    said = capsys.readouterr().err
    assert "warning:" in said and "kept in memory" in said


def test_text_is_kept_in_memory_if_the_disk_is_full(tmp_path, monkeypatch, capsys):
    path = tmp_path / "text"
    path.write_bytes(b"abc" * 100)

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(encoded, "_sync", full)
    text = byte_files.load_own(str(path))
    assert text.decode(text.train) == "abc" * 90
    assert "No space left on device" in capsys.readouterr().err
    assert not list((tmp_path / encoded.FOLDER).iterdir())


def test_concurrently_written_encoding_is_used(tmp_path, monkeypatch, capsys):
    path = tmp_path / "text"
    path.write_bytes(b"abc" * 100)
    write = encoded._write

    def late(*arguments):
        write(*arguments)
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr(encoded, "_write", late)
    assert isinstance(byte_files.load_own(str(path)).train, np.memmap)
    assert capsys.readouterr().err == ""


def test_leftovers_of_killed_runs_are_removed_after_a_day(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"abc" * 100)
    old, young = (tmp_path / encoded.FOLDER / f".part-{n}" for n in ("old", "young"))
    for left in (old, young):
        left.mkdir(parents=True)
        (left / "train.npy").touch()
    os.utime(old / "train.npy", (0, 0))
    os.utime(old, (0, 0))
    byte_files.load_own(str(path))
    assert not old.exists() and young.exists()
