"""A pytest plugin: each test of another project runs inside a scope that changes nothing.

KERAS_SCOPE=topkast python -m pytest -p tests.keras_scopes FOLDER
"""

import contextlib
import os

import pytest

SCOPE = os.environ.get("KERAS_SCOPE", "none")


def scope():
    """The scope that `KERAS_SCOPE` names."""
    if SCOPE == "topkast":
        from topkast_tf import topkast_scope

        return topkast_scope(0.0, 0.0, exploration=0.0)
    if SCOPE == "swat":
        from swat_tf import swat_scope

        return swat_scope(0.0)
    return contextlib.nullcontext()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Runs the test, and nothing else of its life, inside the scope."""
    opened = scope()
    opened.__enter__()
    try:
        return (yield)
    finally:
        # What a test makes may hold no kernel, which is an error of a scope as such.
        with contextlib.suppress(ValueError):
            opened.__exit__(None, None, None)


def pytest_configure(config):
    """Marks that Keras's own configuration declares."""
    for mark in ("requires_trainable_backend", "multi_device", "skipif_backend"):
        config.addinivalue_line("markers", f"{mark}: of Keras")
