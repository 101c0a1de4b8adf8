"""Terminal output: a line drawn over another, parts by rank, colours."""

import io
import re
import sys
import types

import pytest

from launch.support import terminal
from tests.launch.screens import ESCAPE, on_screen


def test_resized_terminal_keeps_no_remains_of_the_bar(screen, plain_terminal):
    status = terminal.Status(screen.out)
    screen.out.write("what was there\n")
    status.draw("x" * 150)
    parts = [screen.read()]
    for columns in (100, 30, 80):
        screen.resize(columns)
        parts.append(("resize", columns))
        status.draw("bar", "y" * 20)
        parts.append(screen.read())
        assert on_screen(parts, 240) == ["what was there", "bar  " + "y" * 20]
    status.clear()
    parts.append(screen.read())
    assert on_screen(parts, 240) == ["what was there"]


def test_status_without_a_terminal_is_a_line_every_ten_seconds(monkeypatch):
    now = 100.0
    clock = types.SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(terminal, "time", clock)
    out = io.StringIO()
    status = terminal.Status(out)
    assert status.is_due
    status.draw("one", "x" * 200)
    now = 109.0
    assert not status.is_due
    now = 110.0
    assert status.is_due
    status.draw("two", "three")
    status.clear()
    assert out.getvalue() == "one\ntwo  three\n"


def test_parts_are_dropped_by_rank_and_the_first_is_truncated():
    parts = [(0, "aaaa"), (2, "bb"), (1, "c"), (3, "d")]
    assert terminal.fitted(parts, 100) == "aaaa  bb  c  d"
    assert terminal.fitted(parts, 13) == "aaaa  bb  c"
    assert terminal.fitted(parts, 10) == "aaaa  c"
    assert terminal.fitted(parts, 3) == "aaa"


@pytest.mark.parametrize(
    ("term", "no_color", "coloured"),
    [("xterm", "", True), ("xterm", "1", False), ("dumb", "", False)],
)
def test_colours_are_used_on_colour_terminals_only(
    screen, monkeypatch, term, no_color, coloured
):
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys, "stderr", screen.out)
    terminal.error("one")
    terminal.warning("two")
    said = screen.read().replace("\r\n", "\n")
    assert (ESCAPE in said) == coloured
    assert re.sub(r"\x1b\[\d+m", "", said) == "error: one\nwarning: two\n"
    if coloured:
        assert said.startswith("\x1b[31merror:\x1b[0m one")


def test_no_colours_in_a_pipe(capsys, plain_terminal):
    terminal.error("one")
    assert capsys.readouterr().err == "error: one\n"
