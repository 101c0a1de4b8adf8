"""The examples run as their docstrings say."""

import csv
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from topkast_tf.kernels import build
from topkast_tf.kernels.library import is_available

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


@pytest.mark.slow
@pytest.mark.skipif(
    not is_available() or shutil.which("gcc") is None, reason="no kernels, or no gcc"
)
def test_serve_in_c(tmp_path):
    with tk.topkast_scope(0.9, 0.8):
        model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32)])
    served = tk.strip(model, kernels="native")
    served.export(tmp_path / "served", verbose=False)
    signature = tf.saved_model.load(tmp_path / "served").signatures["serving_default"]
    tf_folder = tf.sysconfig.get_lib()
    source = ROOT / "examples" / "serve.c"
    # The command of its comment.
    command = re.search(r"gcc (.*?) -o serve", source.read_text(), re.DOTALL)[1]
    arguments = command.replace("\\\n", " ").replace("$TF", tf_folder).split()
    arguments[arguments.index("serve.c")] = str(source)
    program = str(tmp_path / "serve")
    subprocess.run(["gcc", "-Wall", "-Werror", *arguments, "-o", program], check=True)
    shown = subprocess.run(
        [
            *(sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "show"),
            *("--dir", str(tmp_path / "served"), "--tag_set", "serve"),
            *("--signature_def", "serving_default"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = re.findall(r"name: (\w+:\d)", shown)
    assert len(names) == len(signature.inputs[:1]) + len(signature.outputs)
    x = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    ended = subprocess.run(
        [program, str(build.built()), str(tmp_path / "served"), *names, "8,64"],
        input=x.tobytes(),
        capture_output=True,
        check=True,
    )
    found = np.frombuffer(ended.stdout, np.float32).reshape(8, 32)
    np.testing.assert_array_equal(found, served(x))
