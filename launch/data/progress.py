"""The progress of what is read."""

import sys

from launch.support import terminal


class Bytes:
    """Counts bytes to a total; a bar on stderr shows them, on terminals only.

    Args:
      title: what is done.
      total: bytes.
    """

    def __init__(self, title: str, total: int):
        self._title = title
        self._total = total
        self._done = 0
        self._status = terminal.Status(sys.stderr, lines=False)

    def advance(self, count: int) -> None:
        """Notes that `count` more bytes are done."""
        self._done += count
        if self._done >= self._total:
            self._status.clear()
        elif self._status.is_due:
            self._status.draw(
                f"{self._title} {terminal.bar(self._done / self._total, sys.stderr)}",
                f"{self._done / 1e6:,.0f}/{self._total / 1e6:,.0f} MB",
            )
