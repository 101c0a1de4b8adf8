"""A pytest plugin: each test of another project runs inside a scope that changes nothing.

KERAS_SCOPE=topkast python -m pytest -p tests.keras_scopes FOLDER
"""

import contextlib
import functools
import os
import re

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
    """Runs the test inside the scope, but not its set-up and tear-down."""
    opened = scope()
    opened.__enter__()
    try:
        return (yield)
    finally:
        # A test that makes no kernel causes an error when the scope closes.
        with contextlib.suppress(ValueError):
            opened.__exit__(None, None, None)


def without_numbers(function):
    """A serialisation without the number that differs between copies of a layer."""

    @functools.wraps(function)
    def text(value):
        return re.sub(r'"copy_of": \d+', '"copy_of": 0', function(value))

    return text


def pytest_configure(config):
    """Declares Keras's markers, and patches two functions of its test case.

    The patches allow for what a scope changes by design: a configuration names the
    layer that it copies, and the sets are non-trainable variables.
    """
    from keras.src.testing import test_case

    test_case.to_json_with_tuples = without_numbers(test_case.to_json_with_tuples)
    original = test_case.TestCase.run_layer_test

    @functools.wraps(original)
    def run_layer_test(self, *args, **kwargs):
        kwargs.pop("expected_num_non_trainable_variables", None)
        return original(self, *args, **kwargs)

    test_case.TestCase.run_layer_test = run_layer_test
    for mark in ("requires_trainable_backend", "multi_device", "skipif_backend"):
        config.addinivalue_line("markers", f"{mark}: of Keras")
