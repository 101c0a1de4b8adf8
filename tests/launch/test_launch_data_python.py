"""Python's own sources as text: equal on every run, with no file in two parts."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from launch.data import encoded, python_sources
from launch.support.errors import UserError


@pytest.fixture(scope="module")
def sources():
    return python_sources.load(None)


def test_python_sources_are_the_same_on_every_run(sources, root):
    again = subprocess.run(
        [
            sys.executable,
            "-c",
            "from launch.data import python_sources as p; import hashlib\n"
            "t = p.load(None)\n"
            "print(hashlib.sha256(t.train.tobytes() + t.test.tobytes()).hexdigest())",
        ],
        cwd=root,
        env=os.environ | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    ours = hashlib.sha256(sources.train.tobytes() + sources.test.tobytes()).hexdigest()
    assert again.stdout.strip() == ours


def test_python_sources_share_no_file_between_parts(sources):
    found = python_sources.files()
    assert list(found) == sorted(found)
    by_part = {part: [] for part in encoded.PARTS}
    for name in found:
        by_part[python_sources.part_of(name)].append(name)
    assert not any(
        "site-packages" in name or "/test/" in name or name.startswith("test/")
        for name in found
    )
    whole = 0
    for part, names in by_part.items():
        text = b"".join(found[name].read_bytes() for name in names)
        ids = getattr(sources, part)
        codes = np.array([ord(token) for token in sources.vocabulary], "uint8")
        assert codes[ids].tobytes() == text
        whole += len(text)
    assert 5e6 < whole < 40e6
    for part in ("valid", "test"):
        assert 0.01 < len(getattr(sources, part)) / whole < 0.12
        assert len(by_part[part]) > 10
    assert sources.unit == "byte" and 90 < sources.vocabulary_size <= 256


def test_assignment_of_files_to_parts_is_fixed():
    parts = {name: python_sources.part_of(name) for name in ("abc.py", "json/tool.py")}
    digests = {
        name: int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) % 20
        for name in parts
    }
    expected = {
        name: {0: "valid", 1: "test"}.get(drawn, "train")
        for name, drawn in digests.items()
    }
    assert parts == expected
    many = [python_sources.part_of(f"module{i}.py") for i in range(2000)]
    assert 60 < many.count("valid") < 140 and 60 < many.count("test") < 140


def test_missing_python_sources_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(
        python_sources.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)}
    )
    (tmp_path / "os.py").write_text("pass")
    with pytest.raises(UserError, match="only 4 bytes.*--dataset=bytes"):
        python_sources.check(None)
