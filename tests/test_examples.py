"""The examples run as their docstrings say."""

import csv
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
HEADER = "              kB  gzipped   ms, 1 image   ms, 32   accuracy"


@pytest.mark.slow
def test_from_dense(tmp_path):
    out = tmp_path / "out.csv"
    command = [sys.executable, str(ROOT / "examples" / "from_dense.py")]
    command += ["--steps=3", "--sparsities=0.8,0.9", f"--out={out}"]
    printed = []
    for _ in range(2):
        ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        printed.append(ended.stdout.splitlines())
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], float(row["fwd"])) for row in rows] == [
        ("fine-tuned", 0.8),
        ("fine-tuned", 0.9),
        ("dense", 0.0),
        ("from scratch", 0.8),
        ("from scratch", 0.9),
    ]
    for row in rows:
        assert float(row["forward_sparsity"]) == pytest.approx(
            float(row["fwd"]), abs=1e-3
        )
        assert int(row["kept_parameters"]) <= int(row["parameters"]) == 77_754
    assert len(printed[0]) == 6 and len(printed[1]) == 1  # nothing is run twice


@pytest.mark.slow
def test_deploy(tmp_path):
    command = [sys.executable, str(ROOT / "examples" / "deploy.py")]
    command += ["--steps=20", "--width=1"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    rows = [line.split() for line in lines[lines.index(HEADER) + 1 :]]
    assert [row[0] for row in rows[:3]] == ["Keras", "native", "LiteRT"]
    assert len({row[-1] for row in rows}) == 1  # the same accuracy
    sizes = {row[0]: int(row[-5].replace(",", "")) for row in rows}
    assert sizes["native"] < sizes["Keras"] and sizes["LiteRT"] < sizes["Keras"]
