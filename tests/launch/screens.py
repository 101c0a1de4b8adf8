"""Terminals for tests: a pseudo-terminal, and the lines left on its screen."""

import fcntl
import os
import pty
import re
import struct
import termios

ESCAPE = "\x1b"


class Terminal:
    """A pseudo-terminal: `out` to write to, `read()` for what has arrived."""

    def __init__(self):
        self._main, far = pty.openpty()
        self.out = os.fdopen(far, "w")
        self.resize(240)

    def resize(self, columns):
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(self.out.fileno(), termios.TIOCSWINSZ, size)

    def close(self):
        self.out.close()
        os.close(self._main)

    def read(self):
        self.out.flush()
        os.set_blocking(self._main, False)
        parts = []
        while True:
            try:
                parts.append(os.read(self._main, 65536))
            except (BlockingIOError, OSError):
                break
        return b"".join(parts).decode()


def on_screen(text, columns=None):
    """The lines left on a terminal after it has shown a text.

    Args:
      text: the text, or a list of texts; a part ("resize", columns) resizes the
        terminal, which then wraps its lines again.
      columns: the initial width; None is unlimited.
    """
    lines, row, column = [[]], 0, 0
    for part in [text] if isinstance(text, str) else text:
        if isinstance(part, tuple):
            columns = part[1]
            broken = [
                [line[i : i + columns] for i in range(0, max(len(line), 1), columns)]
                for line in lines
            ]
            row = sum(len(pieces) for pieces in broken[: row + 1]) - 1
            lines = [piece for pieces in broken for piece in pieces]
            column = len(lines[row])
            continue
        for piece in re.split(r"(\x1b\[[0-9;]*[A-Za-z]|\r|\n)", part):
            if piece == "\r":
                column = 0
            elif piece == "\n":
                row += 1
                lines += [[] for _ in range(row + 1 - len(lines))]
            elif re.fullmatch(r"\x1b\[\d*A", piece):
                row = max(row - int(piece[2:-1] or 1), 0)
            elif piece == "\x1b[J":
                lines[row:] = [lines[row][:column]]
            elif not piece.startswith(ESCAPE):
                line = lines[row]
                line += [" "] * (column + len(piece) - len(line))
                line[column : column + len(piece)] = piece
                column += len(piece)
                assert columns is None or len(line) <= columns
    return [line for line in ("".join(x).rstrip() for x in lines) if line]
