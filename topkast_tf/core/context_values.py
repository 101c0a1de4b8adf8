"""Context variables that hold a value within a `with` block."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def holding(variable: contextvars.ContextVar[T], value: T) -> Iterator[None]:
    """Within it, a context variable holds a value; afterwards the one before.

    >>> depth = contextvars.ContextVar("depth", default=0)
    >>> with holding(depth, 1):
    ...     depth.get()
    1
    >>> depth.get()
    0
    """
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
