"""The public names are typed: whole annotations, and no error for a user of strict mypy."""

import inspect
import pathlib
import subprocess
import sys

import pytest

import swat_tf
import topkast_tf

ROOT = pathlib.Path(__file__).resolve().parent.parent
USER = """
from collections.abc import Sequence
from typing import Any

import topkast_tf
from swat_tf import swat_scope
from topkast_tf import (
    compact, count_flops, count_memory, prune, sparse_scope, sparse_weights, sparsify,
    strip, summary, topkast_scope,
)


def use(model: Any, batch: Any) -> Sequence[float]:
    with topkast_scope(fwd=0.9, bwd=0.8, exempt=("first", "last")), swat_scope(0.7):
        pass
    with sparse_scope("rigl", sparsity=0.9, distribution={"a": 0.5}, total_steps=100):
        pass
    kept: int = summary(sparsify(strip(model), 0.9, 0.8)).kept_parameters
    ratio: float = count_flops(model).training_ratio
    peak: int = count_memory(model, (32, 8)).peak
    shapes: list[tuple[int, ...]] = [tuple(w.shape) for w in sparse_weights(model)]
    prune(model, batch)
    print(compact(model), shapes)
    return [kept, ratio, peak]
"""


def callables():
    for package in (topkast_tf, swat_tf):
        for name in package.__all__:
            found = getattr(package, name)
            if inspect.ismodule(found):
                continue
            if not inspect.isclass(found):
                yield f"{package.__name__}.{name}", found
                continue
            for member, value in vars(found).items():
                if isinstance(value, property):
                    value = value.fget
                elif isinstance(value, classmethod | staticmethod):
                    value = value.__func__
                is_public = not member.startswith("_") or member == "__init__"
                if is_public and inspect.isfunction(value):
                    yield f"{package.__name__}.{name}.{member}", value


CALLABLES = dict(callables())


@pytest.mark.parametrize("name", CALLABLES)
def test_every_parameter_and_result_is_annotated(name):
    signature = inspect.signature(CALLABLES[name])
    bare = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.annotation is parameter.empty
        and parameter.name not in ("self", "cls")
    ]
    assert not bare
    is_init = name.endswith("__init__")
    assert is_init or signature.return_annotation is not signature.empty


def test_strict_mypy_accepts_a_user_and_knows_the_types(tmp_path):
    mypy = pytest.importorskip("mypy").__name__
    lines = USER.replace(
        "    return [", "    reveal_type(swat_scope(0.7))\n    return ["
    )
    (tmp_path / "user.py").write_text(lines)
    done = subprocess.run(
        [
            *(sys.executable, "-m", mypy, "--strict", "--ignore-missing-imports"),
            *("--follow-imports=silent", "--config-file=", "user.py"),
        ],
        cwd=tmp_path,
        env={"MYPYPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "ReusableScope" in done.stdout
