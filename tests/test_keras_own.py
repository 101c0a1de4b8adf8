"""Keras's own tests, inside the two scopes that change nothing.

    KERAS_TESTS=.../keras/src pytest -m slow tests/test_keras_own.py

`KERAS_TESTS` is the folder `src` of the installed version of Keras, with its files
`*_test.py` (the wheel has them). A test that passes without a scope must pass inside one,
except those named here.
"""

import os
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree

import keras
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = os.environ.get("KERAS_TESTS")
PARTS = (
    "layers/activations",
    "layers/attention",
    "layers/convolutional",
    "layers/core",
    "layers/merging",
    "layers/normalization",
    "layers/pooling",
    "layers/regularization",
    "layers/reshaping",
    "layers/rnn",
    "models",
    "saving",
)
MAY_DIFFER = {
    r"int4|int8|float8|quanti|gptq|awq|lora": (
        "a sparse layer is neither quantised nor given LoRA: `strip` it first"
    ),
    r"DenseTest.test_dense_sparse": (
        "the gradient of a sparse weight is a dense tensor, also for a sparse input"
    ),
    r"file_editor_test.SavingTest.test_(basics|scalar_weight)": (
        "a file holds the sets and the counters beside the weights"
    ),
    r"ModelTest.test_get_state_tree": "the sets are variables that are not trained",
}
"""Regex on a test's name -> why it may differ in a scope."""
MAY_FAIL_WITH = {
    r"[\"']replaces[\"']: [tT]rue|[\"']copy_of[\"']:": (
        "made from its configuration while the scope is open, a layer notes that it "
        "replaces another"
    ),
    r"Expected one of the formats that can hold a sparse model": (
        "Keras's old `.h5` format holds weights and no sets"
    ),
}
"""Regex on the failure of a test -> why it may fail."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOLDER is None, reason="KERAS_TESTS names no folder of tests"),
]


def outcomes(part, scope, folder):
    """Name -> failure, or "" if it passed, of the tests that were not skipped."""
    report = folder / f"{scope}.xml"
    command = [sys.executable, "-m", "pytest", f"{FOLDER}/{part}", "-q", "-vv"]
    command += ["-c", os.devnull, f"--rootdir={FOLDER}", "-p", "no:cacheprovider"]
    command += ["-p", "tests.keras_scopes", "--continue-on-collection-errors"]
    command += [f"--junitxml={report}"]
    environment = {**os.environ, "KERAS_SCOPE": scope, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    found = {}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        results = {child.tag: child for child in case}
        if "skipped" not in results:
            name = f"{case.get('classname')}.{case.get('name')}"
            failed = results.keys() & {"failure", "error"}
            found[name] = "".join(results[tag].text or tag for tag in failed)
    return found


def test_the_folder_is_of_the_installed_version():
    text = (pathlib.Path(FOLDER) / "version.py").read_text(encoding="utf-8")
    assert f'"{keras.__version__}"' in text


@pytest.mark.parametrize("part", PARTS)
def test_keras_passes_its_own_tests(part, tmp_path):
    alone = outcomes(part, "none", tmp_path)
    assert list(alone.values()).count("") > 10
    for scope in ("topkast", "swat"):
        inside = outcomes(part, scope, tmp_path)
        worse = {
            name: inside.get(name, "it was not run")
            for name, failed in alone.items()
            if not failed and inside.get(name, "it was not run")
        }
        assert [name for name in worse if not _may_differ(name, worse[name])] == []


def _may_differ(name, failed):
    return any(re.search(pattern, name) for pattern in MAY_DIFFER) or any(
        re.search(pattern, failed) for pattern in MAY_FAIL_WITH
    )
