"""Checks of arguments, with what was received."""

from __future__ import annotations

from typing import Any

from topkast_tf.core.sparsities import is_number, is_size


def check_sizes(**values: Any) -> None:
    """Raises a ValueError for the first value that is not an integer of at least 1.

    >>> check_sizes(rows=4, columns=0)
    Traceback (most recent call last):
    ValueError: Expected `columns` to be an integer of at least 1. Received: columns=0
    """
    for name, value in values.items():
        if not is_size(value):
            raise ValueError(
                f"Expected `{name}` to be an integer of at least 1. "
                f"Received: {name}={value!r}"
            )


def check_counts(**values: Any) -> None:
    """Raises a ValueError for the first value that is not an integer of at least 0."""
    for name, value in values.items():
        if type(value) is not int or value < 0:
            raise ValueError(
                f"Expected `{name}` to be an integer of at least 0. "
                f"Received: {name}={value!r}"
            )


def check_rates(**values: Any) -> None:
    """Raises a ValueError for the first value that is no number a second from 1 to 1e18.

    A machine of other rates has no meaning, and its cycles may exceed every number.
    """
    for name, value in values.items():
        if not is_number(value) or not 1 <= value <= 1e18:
            raise ValueError(
                f"Expected `{name}` to be a number from 1 to 1e18, per second. "
                f"Received: {name}={value!r}"
            )


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises a ValueError for a value that is not one of the choices."""
    if value not in choices:
        raise ValueError(
            f"Expected `{name}` to be one of {', '.join(choices)}. "
            f"Received: {name}={value!r}"
        )
