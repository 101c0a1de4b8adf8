"""The progress of reading."""

import sys

from launch.support import terminal


class Bytes:
    """Counts bytes up to a total, with a bar on stderr if that is a terminal.

    Args:
      title: the text before the bar.
      total: number of bytes.
    """

    def __init__(self, title: str, total: int):
        self._title = title
        self._total = total
        self._done = 0
        self._status = terminal.Status(sys.stderr, lines=False)

    def advance(self, count: int) -> None:
        """Adds `count` bytes."""
        self._done += count
        if self._done >= self._total:
            self._status.clear()
        elif self._status.is_due:
            self._status.draw(
                f"{self._title} {terminal.bar(self._done / self._total, sys.stderr)}",
                f"{self._done / 1e6:,.0f}/{self._total / 1e6:,.0f} MB",
            )
