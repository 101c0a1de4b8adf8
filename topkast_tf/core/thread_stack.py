"""Thread-local stacks, innermost entry last."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class ThreadStack(threading.local, Generic[T]):
    """A stack of any objects; each thread has its own.

    >>> names = ThreadStack()
    >>> with names.pushed("outer"), names.pushed("inner"):
    ...     names.top(), list(names)
    ('inner', ['outer', 'inner'])
    >>> names.top() is None
    True
    """

    def __init__(self) -> None:
        self._entries: list[T] = []

    def __iter__(self) -> Iterator[T]:
        return iter(self._entries)

    def top(self) -> T | None:
        """The innermost entry of this thread, or None."""
        return self._entries[-1] if self._entries else None

    @contextlib.contextmanager
    def pushed(self, entry: T) -> Iterator[None]:
        """Pushes an entry on this thread's stack; pops it on exit."""
        self._entries.append(entry)
        try:
            yield
        finally:
            self._entries.pop()
