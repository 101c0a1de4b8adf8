"""What a terminal can show. Nothing here imports TensorFlow."""

import os
import sys
from collections.abc import Callable
from typing import TextIO

_CODES = {"bold": 1, "dim": 2, "red": 31, "yellow": 33}
_close: Callable[[], None] | None = None


def moves(out: TextIO) -> bool:
    """Whether a line that has been written can be written over: a bar may be drawn."""
    return out.isatty() and os.environ.get("TERM") != "dumb"


def colours(out: TextIO) -> bool:
    """Whether colours are shown and wanted: see https://no-color.org."""
    return moves(out) and not os.environ.get("NO_COLOR")


def styled(text: str, style: str, out: TextIO) -> str:
    """The text in a style, where `out` shows colours, otherwise as it is.

    Args:
      text: of one line.
      style: bold, dim, red or yellow.
      out: where it will be written.

    >>> import io
    >>> styled("plain", "red", io.StringIO())
    'plain'
    """
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if colours(out) else text


def before_messages(close: Callable[[], None] | None) -> None:
    """Has a bar that is drawn closed before a message is printed; None: there is none."""
    global _close
    _close = close


def error(sentence: object) -> None:
    """Prints what has ended the program to stderr."""
    _message(f"{styled('error:', 'red', sys.stderr)} {sentence}")


def warning(sentence: object) -> None:
    """Prints to stderr what a person should know, though the program goes on."""
    _message(f"{styled('warning:', 'yellow', sys.stderr)} {sentence}")


def note(sentence: object) -> None:
    """Prints to stderr what is neither."""
    _message(str(sentence))


def show(text: str) -> None:
    """Prints what was asked for to stdout; a reader that has seen enough is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        stop_writing()


def stop_writing() -> None:
    """Sends the rest of stdout nowhere, or Python fails when it ends, writing it out."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _message(text: str) -> None:
    if _close is not None:
        _close()
    print(text, file=sys.stderr)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> duration(3725.4)
    '1:02:05'
    """
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
