"""Output to a terminal: bars, styles, messages. Nothing here imports TensorFlow."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

COLUMNS = 100
"""The width of a line in a pipe or a file."""
DRAW_SECONDS = 0.25
LINE_SECONDS = 10.0
_CODES = {"bold": 1, "dim": 2, "red": 31, "yellow": 33}
_close: Callable[[], None] | None = None
_spelled: Callable[[str], str] = str


def moves(out: TextIO) -> bool:
    """Whether a line can be overwritten, so that a bar can be drawn."""
    return out.isatty() and os.environ.get("TERM") != "dumb"


def colours(out: TextIO) -> bool:
    """Whether to use colours: see https://no-color.org."""
    return moves(out) and not os.environ.get("NO_COLOR")


def columns(out: TextIO) -> int:
    """The maximum width of a line: that of the terminal at this time, else `COLUMNS`."""
    if not out.isatty():
        return COLUMNS
    try:
        return os.get_terminal_size(out.fileno()).columns or COLUMNS
    except OSError:
        return COLUMNS


def fitted(parts: Sequence[tuple[int, str]], most: int) -> str:
    """A line of the most important parts that fit, separated by two spaces.

    Args:
      parts: (rank, text) in the order of the line; rank 0 is the most important.
      most: maximum number of columns.

    >>> fitted([(0, "step 3"), (2, "epoch 1"), (1, "accuracy 50%")], 24)
    'step 3  accuracy 50%'
    """
    chosen: set[int] = set()
    length = -2
    for place in sorted(range(len(parts)), key=lambda place: parts[place][0]):
        length += len(parts[place][1]) + 2
        if length > most and chosen:
            break
        chosen.add(place)
    return "  ".join(parts[place][1] for place in sorted(chosen))[:most]


class Status:
    """A status line, which is overwritten on a terminal.

    Elsewhere a new line is written from time to time. If the terminal has become narrower
    since the line was drawn, the line wraps, and all its rows are removed.

    Args:
      out: the stream to write to.
      lines: whether to write lines if they cannot be overwritten.
    """

    def __init__(self, out: TextIO, lines: bool = True):
        self._out = out
        self._moves = moves(out)
        self._every = DRAW_SECONDS if self._moves else LINE_SECONDS
        self._lines = lines
        self._last = float("-inf")
        self._length = 0

    @property
    def is_due(self) -> bool:
        """Whether it is time to draw again."""
        shown = self._moves or self._lines
        return shown and time.monotonic() - self._last >= self._every

    def draw(self, *parts: str) -> None:
        """Draws the line, due or not, with the first of the parts that fit."""
        if not (self._moves or self._lines):
            return
        self._last = time.monotonic()
        most = columns(self._out)
        # Some terminals wrap after the last column.
        text = fitted(list(enumerate(p for p in parts if p)), most - self._moves)
        if self._moves:
            self._out.write(self._away() + text)
            self._length = len(text)
        else:
            self._out.write(text + "\n")
        self._out.flush()

    def clear(self) -> None:
        """Removes the line, so that something else can be written."""
        if self._length:
            self._out.write(self._away())
            self._out.flush()
            self._length = 0

    def _away(self) -> str:
        above = max(self._length - 1, 0) // columns(self._out)
        up = f"\x1b[{above}A" if above else ""
        return f"{up}\r\x1b[J"


def bar(share: float, out: TextIO) -> str:
    """A share as a percentage and a bar of ten characters.

    >>> import io
    >>> bar(0.5, io.StringIO())
    ' 50%|#####     |'
    """
    full = round(10 * share)
    is_utf = (getattr(out, "encoding", None) or "").lower().startswith("utf")
    return f"{share:4.0%}|{('█' if is_utf else '#') * full:10}|"


def styled(text: str, style: str, out: TextIO) -> str:
    """The text in a style if `out` shows colours, otherwise unchanged.

    Args:
      text: text of one line.
      style: bold, dim, red or yellow.
      out: the stream that it is for.

    >>> import io
    >>> styled("plain", "red", io.StringIO())
    'plain'
    """
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if colours(out) else text


def before_messages(close: Callable[[], None] | None) -> None:
    """Sets the function that closes the bar before a message is printed; None: no bar."""
    global _close
    _close = close


def spell(how: Callable[[str], str]) -> None:
    """Sets how messages and output are spelled: with the names of scripts, or of files."""
    global _spelled
    _spelled = how


def error(sentence: object) -> None:
    """Prints to stderr an error that ends the program."""
    _message(f"{styled('error:', 'red', sys.stderr)} {sentence}")


def warning(sentence: object) -> None:
    """Prints to stderr a warning, after which the program continues."""
    _message(f"{styled('warning:', 'yellow', sys.stderr)} {sentence}")


def note(sentence: object) -> None:
    """Prints to stderr a message that is neither an error nor a warning."""
    _message(str(sentence))


def show(text: str) -> None:
    """Prints the output of the program; a reader that closes the pipe is not an error."""
    try:
        print(_spelled(text), flush=True)
    except BrokenPipeError:
        stop_writing()


def stop_writing() -> None:
    """Discards the rest of stdout, which Python could not flush at exit."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _message(text: str) -> None:
    if _close is not None:
        _close()
    print(_spelled(text), file=sys.stderr)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> duration(3725.4)
    '1:02:05'
    """
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
