"""The notebooks: made from their sources, with outputs, and executed in a slow test."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "examples" / "notebooks").glob("*.py"))
NAMES = {
    *("quickstart", "cifar_resnet", "fine_tuning", "transformer_text"),
    *("deployment", "comparing_methods"),
}


def test_all_are_there():
    assert {path.stem for path in SOURCES} == NAMES


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_notebook_was_made_from_its_source(source):
    notebook = json.loads(source.with_suffix(".ipynb").read_text("utf-8"))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    # If it was not: python tools/notebooks.py
    assert notebook["metadata"]["source_digest"] == digest
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    outputs = [each for cell in cells for each in cell["outputs"]]
    assert all(cell["execution_count"] for cell in cells)
    assert outputs and not [each for each in outputs if each["output_type"] == "error"]
    text = json.dumps(notebook)
    assert str(ROOT) not in text and os.path.expanduser("~") + "/" not in text


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_it_runs_as_a_script_within_three_minutes_of_two_cores(source, tmp_path):
    if source.stem == "cifar_resnet" and not os.environ.get("CIFAR10_DIR"):
        data = os.environ.get("TOPKAST_TEST_DATA")
        if data is None:
            pytest.skip("CIFAR10_DIR and TOPKAST_TEST_DATA name no prepared CIFAR-10")
        os.environ["CIFAR10_DIR"] = str(pathlib.Path(data) / "tfds")
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(source)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout
    print(f"{source.stem}: {time.monotonic() - begun:.0f} s")
