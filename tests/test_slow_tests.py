"""The list of tests that are slow for their time alone."""

import pathlib

from tests.conftest import slow_tests

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_each_of_the_list_is_there():
    """A renamed test would otherwise run in the quick suite again, unnoticed."""
    for name in slow_tests():
        path, _, test = name.partition("::")
        assert f"def {test.partition('[')[0]}(" in (ROOT / path).read_text("utf-8"), (
            name
        )
