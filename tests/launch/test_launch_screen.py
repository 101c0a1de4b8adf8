"""What a person sees: the bar on a terminal, lines in a pipe, colours, help, names."""

import fcntl
import io
import os
import pathlib
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
import time
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from launch import evaluate
from launch import train as launch_train
from launch.callbacks import EvaluationBar, Progress
from launch.config import flag_help, flag_table, plan_flags, sensitivity_flags
from launch.storage import report
from launch.support import terminal
from launch.support.pace import Pace
from launch.tasks.metrics import METRICS, Items

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
    """The lines that stay when a terminal has shown a text.

    Args:
      text: what it was sent; ("resize", columns) among the parts of a list: the terminal
        has become narrower there, and has broken its lines anew.
      columns: its width at first; None: without end.
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


@pytest.fixture
def plain_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    yield
    terminal.before_messages(None)


@pytest.fixture
def screen():
    """A pseudo-terminal of 240 columns."""
    made = Terminal()
    yield made
    made.close()


# --- The bar and the lines -----------------------------------------------------------

ROW = {
    **{"step": 4, "epoch": 1, "objective": 1.0, "learning_rate": 0.1, "seconds": 65.0},
    **{"forward_sparsity": 0.9, "backward_sparsity": 0.8, "test_top5": 0.99},
    **{"test_accuracy": 0.5, "test_loss": 1.5, "train_accuracy": 0.25},
    "train_loss": 1.25,
}
TEXT_ROW = {
    **{k: ROW[k] for k in ("step", "epoch", "objective", "learning_rate", "seconds")},
    **{"forward_sparsity": 0.0, "backward_sparsity": 0.0, "valid_bpc": 2.5},
    **{"valid_perplexity": 5.6, "valid_loss": 1.7, "train_loss": 1.8},
}
LOGS = {"loss": 9.0, "accuracy": 0.375, "cross_entropy": 1.125, "top5": 0.75}
TEXT_LOGS = {"loss": 9.0, "nll": 1.75, "bpc": 2.25, "perplexity": 5.0}


def followed(out, monkeypatch, unit="image", logs=LOGS, row=ROW, end=True):
    """Shows a run of two rounds of four steps, and gives what follows it."""
    clock = iter(range(10_000))
    ticking = types.SimpleNamespace(monotonic=lambda: next(clock) / 4)
    monkeypatch.setattr(terminal, "time", ticking)
    recorder = types.SimpleNamespace(rows=[], metrics=METRICS[unit].metrics)
    items = Items("images" if unit == "image" else "tokens", 128)
    progress = Progress("topkast", 8, recorder, items, out)
    progress._pace = Pace(8, ticking.monotonic)
    steps = types.SimpleNamespace(numpy=lambda: progress._pace.done)
    optimizer = types.SimpleNamespace(iterations=steps)
    model = keras.Sequential()
    object.__setattr__(model, "optimizer", optimizer)
    progress.set_model(model)
    progress.on_train_begin()
    for epoch in range(2):
        progress.on_epoch_begin(epoch)
        for batch in range(4):
            progress.on_train_batch_end(batch, logs)
        progress.on_test_begin()
        progress.on_test_batch_end(0, logs)
        recorder.rows.append({**row, "step": 4 * (epoch + 1), "epoch": epoch + 1})
        progress.on_epoch_end(epoch)
    if end:
        progress.on_train_end()
    return progress


def test_a_terminal_shows_a_bar_with_every_field_and_keeps_the_lines(
    screen, monkeypatch, plain_terminal
):
    followed(screen.out, monkeypatch)
    said = screen.read()
    bars = [part for part in re.split(r"[\r\n]", said) if "%|" in part]
    running = [bar for bar in bars if "loss 1.1250  accuracy 37.50%" in bar]
    assert len(running) >= 4
    assert re.search(r"[\d.,]+ images/s", running[-1])
    assert re.search(r"0:00:\d\d left", running[-1])
    assert "sparsity 90.0%/80.0%" in running[-1]
    assert "7/8" in running[-2] or "7/8" in running[-1]
    assert any("evaluating, batch 1" in bar for bar in bars)
    # What stays is a line a round, and nothing of the bar.
    left = on_screen(said)
    assert [line.split("  epoch")[0] for line in left] == [
        "topkast  step 4/8",
        "topkast  step 8/8",
    ]


@pytest.mark.parametrize(
    ("unit", "expected", "other"),
    [("byte", "bpc 2.2500", "perplexity 5"), ("word", "perplexity 5.0000", "bpc")],
)
def test_the_bar_of_a_text_has_the_figure_of_its_unit(
    screen, monkeypatch, plain_terminal, unit, expected, other
):
    followed(screen.out, monkeypatch, unit, TEXT_LOGS, TEXT_ROW)
    said = screen.read()
    running = [part for part in re.split(r"[\r\n]", said) if "%|" in part]
    assert any(f"loss 1.7500  {expected}" in bar for bar in running)
    assert not any(other in bar for bar in running)
    assert "tokens/s" in said and "sparsity" not in said


def test_the_bar_is_drawn_at_most_four_times_a_second(
    screen, monkeypatch, plain_terminal
):
    progress = followed(screen.out, monkeypatch, end=False)
    screen.read()
    standing = types.SimpleNamespace(monotonic=lambda: progress._bar._last + 0.2)
    monkeypatch.setattr(terminal, "time", standing)
    for batch in range(100):
        progress.on_train_batch_end(batch, LOGS)
    assert screen.read() == ""
    progress.close()


def test_a_message_takes_the_bar_away_first(
    screen, monkeypatch, capsys, plain_terminal
):
    followed(screen.out, monkeypatch, end=False)
    assert "%|" in on_screen(screen.read())[-1]
    terminal.error("it is over.")
    assert capsys.readouterr().err == "error: it is over.\n"
    assert not on_screen(screen.read())


@pytest.mark.parametrize("kind", ["pipe", "dumb"])
def test_elsewhere_there_is_a_line_a_round_and_no_control_character(
    screen, kind, monkeypatch, plain_terminal
):
    if kind == "pipe":
        out = io.StringIO()
        followed(out, monkeypatch)
        said = out.getvalue()
    else:
        monkeypatch.setenv("TERM", "dumb")
        followed(screen.out, monkeypatch)
        said = screen.read().replace("\r\n", "\n")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", said)
    first, second = said.splitlines()
    columns = 100 if kind == "pipe" else 240
    assert max(len(first), len(second)) <= columns
    metrics = "test accuracy 50.00% (train 25.00%)  loss 1.5000 (1.2500)  "
    if kind == "pipe":
        assert first.startswith(f"topkast  step 4/8  {metrics}")
        assert re.search(r"  0:00:\d\d left$", first)
        assert re.search(r"  0:00:00 left$", second)
        return
    assert first.startswith(
        f"topkast  step 4/8  epoch 1  {metrics}top5 99.00%  sparsity 90.0%/80.0%  lr 0.1  "
    )
    assert re.search(r"  [\d.,]+ images/s  0:00:\d\d left  0:01:05 gone$", first)
    assert re.search(r"  0:00:00 left  0:01:05 gone$", second)


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 240])
@pytest.mark.parametrize(
    ("unit", "logs", "row"), [("image", LOGS, ROW), ("byte", TEXT_LOGS, TEXT_ROW)]
)
def test_bar_and_lines_fit_the_terminal(
    screen, monkeypatch, plain_terminal, columns, unit, logs, row
):
    screen.resize(columns)
    followed(screen.out, monkeypatch, unit, logs, row)
    said = screen.read()
    left = on_screen(said, columns)
    assert [line.split("  ")[1] for line in left] == ["step 4/8", "step 8/8"]
    drawn = [re.sub(r"\x1b\[\d*[AJ]", "", x) for x in re.split(r"[\r\n]", said)]
    assert max(map(len, drawn)) <= columns
    bars = [x for x in drawn if "%|" in x]
    assert bars and max(map(len, bars)) < columns
    if columns >= 80:
        what = "test accuracy" if unit == "image" else "valid bpc"
        assert all(what in line and " left" in line for line in left)
    assert columns < 240 or "lr 0.1" in left[0]


def test_a_narrower_terminal_shows_no_ghost_of_the_bar(screen, plain_terminal):
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


def test_where_nothing_can_be_written_over_a_status_is_a_line_now_and_then(monkeypatch):
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


def test_parts_are_left_out_by_rank_and_the_first_is_cut():
    parts = [(0, "aaaa"), (2, "bb"), (1, "c"), (3, "d")]
    assert terminal.fitted(parts, 100) == "aaaa  bb  c  d"
    assert terminal.fitted(parts, 13) == "aaaa  bb  c"
    assert terminal.fitted(parts, 10) == "aaaa  c"
    assert terminal.fitted(parts, 3) == "aaa"


def test_an_evaluation_on_a_terminal_has_a_bar_that_goes(
    screen, capsys, plain_terminal
):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    for out in (screen.out, sys.stderr):
        bar = EvaluationBar("topkast, memory 8", out)
        ones = np.ones((6, 2)), np.ones((6, 1))
        model.evaluate(*ones, batch_size=2, verbose=0, callbacks=[bar])
    said = screen.read()
    assert "topkast, memory 8:" in said and "/3" in said
    assert not on_screen(said)
    # Elsewhere, a line when it begins and one when it ends.
    begin, end = capsys.readouterr().err.splitlines()
    assert begin == "topkast, memory 8: begins"
    assert "100%|##########|  batch 3/3  0:00:0" in end.replace("█", "#")


# --- The pace ------------------------------------------------------------------------


def test_the_pace_leaves_out_compilation_and_evaluation():
    now = 0.0
    pace = Pace(100, lambda: now)
    pace.round_begins(10)
    assert pace.steps_a_second is None and pace.seconds_left is None
    now = 60.0  # the first step is compiled
    pace.step()
    assert pace.steps_a_second is None and pace.seconds_left is None
    now = 62.0
    pace.step()
    now = 64.0
    pace.step()
    assert pace.done == 13
    assert pace.steps_a_second == 0.5
    assert pace.seconds_left == 2.0 * 87
    now = 74.0  # ten seconds of evaluation: they count for the end, not for the rate
    assert pace.seconds_left == 7.0 * 87
    pace.round_begins(13)
    now = 76.0
    pace.step()
    assert pace.steps_a_second == 0.5
    assert pace.seconds_left == pytest.approx((76 - 60) / 3 * 86)


# --- Colours -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("term", "no_color", "coloured"),
    [("xterm", "", True), ("xterm", "1", False), ("dumb", "", False)],
)
def test_colours_are_for_terminals_that_want_them(
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


# --- The table at the end ------------------------------------------------------------


def result(method):
    shares = (
        *("forward_sparsity", "backward_sparsity", "forward_sparsity_network"),
        *("backward_sparsity_network", "inference_flops_ratio", "seconds"),
        *("training_flops_ratio", "test_accuracy", "test_top5", "test_loss"),
        *("train_accuracy", "train_loss"),
    )
    counts = ("parameters", "kept_parameters", "inference_flops", "step")
    found = {**dict.fromkeys(shares, 0.5), **dict.fromkeys(counts, 7)}
    return {**found, "training_flops_total": 7, "method": method}


def test_the_end_names_files_and_commands_that_can_be_pasted(
    screen, monkeypatch, tmp_path, plain_terminal
):
    monkeypatch.chdir(tmp_path)
    run = pathlib.Path("runs/my run")
    results = [result("dense"), result("topkast")]
    said = report.text(run, results, METRICS["image"], io.StringIO())
    assert ESCAPE not in said
    files, commands = said.split("Files:\n")[1].split("What next:\n")
    named = [shlex.split(x)[0] for x in files.splitlines() if x.startswith("  ")]
    assert "runs/my run/topkast/model.keras" in named
    assert named[:2] == ["runs/my run/results.csv", "runs/my run/flags.cfg"]
    (_, script, folder), board = map(shlex.split, commands.splitlines())
    assert pathlib.Path(script).is_file() and folder == "runs/my run"
    assert board == ["tensorboard", "--logdir", "runs/my run"]
    absolute = report.text(tmp_path / run, results, METRICS["image"], io.StringIO())
    assert absolute == said
    coloured = report.text(run, results, METRICS["image"], screen.out)
    assert coloured.count(ESCAPE) == 2


# --- Help and names ------------------------------------------------------------------

PROGRAMS = {
    "plan": (plan_flags.HEAD, plan_flags.GROUPS),
    "train": (flag_help.HEAD, flag_table.GROUPS),
    "evaluate": (evaluate.HEAD, evaluate.GROUPS),
    "sensitivity": (sensitivity_flags.HEAD, sensitivity_flags.GROUPS),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_help_fits_80_columns_and_explains_each_flag_once(program):
    head, groups = PROGRAMS[program]
    for said in (
        flag_help.help_text(head, groups),
        flag_help.short_help(head, groups),
    ):
        assert max(map(len, said.splitlines())) <= 80
    lines = flag_help.help_text(head, groups).splitlines()
    for _, group in groups:
        for flag in group:
            negative = f", --no{flag.name}" if flag.kind == "boolean" else ""
            shown = f"  --{flag.name}{negative}"
            (place,) = [i for i, line in enumerate(lines) if line == shown]
            assert lines[place + 1].startswith("      ")
    said = " ".join(" ".join(lines).split())
    assert said.count("[default: ") == sum(len(group) for _, group in groups)
    assert lines.count("  --flagfile=FILE") == 1


@pytest.mark.parametrize("asked", ["-h", "--help", "-help", "--helpshort"])
def test_each_program_helps(asked, capsys):
    for main in (launch_train.main, evaluate.main):
        assert main(["program.py", asked]) == 0
        said = capsys.readouterr().out
        assert ("python launch/" in said) == (asked != "--helpshort")


def test_the_help_gives_the_choices_and_defaults():
    said = " ".join(flag_help.help_text().split())
    assert "cosine, steps or constant [default: cosine]" in said
    assert "weights, activations [default: weights]" not in said.partition("SWAT:")[0]
    assert "[default: true]" in said and "[default: none]" in said


@pytest.mark.parametrize(
    ("main", "argument", "meant"),
    [
        (launch_train.main, "--refresh_evry=3", "did you mean --refresh_every?"),
        (launch_train.main, "--method=topkats", "did you mean topkast?"),
        (launch_train.main, "--optimizer=adma", "did you mean adam?"),
        (evaluate.main, "--striped", "did you mean --stripped?"),
        (evaluate.main, "--memroy=3", "did you mean --memory?"),
    ],
)
def test_the_nearest_name_is_given(main, argument, meant, capsys, tmp_path):
    folder = [str(tmp_path)] if main is evaluate.main else []
    assert main(["program.py", *folder, argument]) == 2
    assert meant in capsys.readouterr().err


# --- The launcher itself -------------------------------------------------------------


def test_a_run_on_a_terminal_leaves_lines_the_table_and_its_events(
    screen, command, tmp_path
):
    arguments = ("--width=0.25", "--steps=4", "--evaluate_every=2", "--batch_size=256")
    ended = subprocess.Popen(
        [*command, *arguments, f"--run_dir={tmp_path}/run"],
        stdout=screen.out,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TERM": "xterm", "NO_COLOR": "1"},
    )
    said = ""
    while ended.poll() is None:
        said += screen.read()
        time.sleep(0.2)
    said += screen.read()
    assert ended.communicate()[1] == "" and ended.returncode == 0
    assert "%|" in said
    assert not re.findall(r"\x1b\[\d+m", said)
    left = on_screen(said)
    assert [line[:17] for line in left[:2]] == [
        "topkast  step 2/4",
        "topkast  step 4/4",
    ]
    assert not any("%|" in line for line in left)
    assert "What next:" in left
    tags = set()
    for path in (tmp_path / "run/topkast/events").glob("events.*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            tags |= {(value.tag, event.step) for value in event.summary.value}
    assert ("flags", 0) in tags
    for step in (2, 4):
        assert {("loss/objective", step), ("accuracy/test", step)} <= tags
        pictures = [tag for tag, at in tags if tag.startswith("sets/") and at == step]
        assert len(pictures) == 8
