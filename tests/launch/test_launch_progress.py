"""Progress of a run: the bar on a terminal, lines in a pipe, events."""

import io
import os
import re
import subprocess
import sys
import time
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from launch.callbacks import EvaluationBar, Progress
from launch.support import terminal
from launch.support.pace import Pace
from launch.tasks.metrics import METRICS, Items
from tests.launch.screens import on_screen

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
    """Shows a run of two rounds of four steps; returns its `Progress`."""
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


def test_terminal_shows_a_bar_with_every_field_and_keeps_the_lines(
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
    # A line per round is left, and nothing of the bar.
    left = on_screen(said)
    assert [line.split("  epoch")[0] for line in left] == [
        "topkast  step 4/8",
        "topkast  step 8/8",
    ]


@pytest.mark.parametrize(
    ("unit", "expected", "other"),
    [("byte", "bpc 2.2500", "perplexity 5"), ("word", "perplexity 5.0000", "bpc")],
)
def test_bar_of_a_text_shows_the_metric_of_its_unit(
    screen, monkeypatch, plain_terminal, unit, expected, other
):
    followed(screen.out, monkeypatch, unit, TEXT_LOGS, TEXT_ROW)
    said = screen.read()
    running = [part for part in re.split(r"[\r\n]", said) if "%|" in part]
    assert any(f"loss 1.7500  {expected}" in bar for bar in running)
    assert not any(other in bar for bar in running)
    assert "tokens/s" in said and "sparsity" not in said


def test_bar_is_drawn_at_most_four_times_per_second(
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


def test_message_removes_the_bar_first(screen, monkeypatch, capsys, plain_terminal):
    followed(screen.out, monkeypatch, end=False)
    assert "%|" in on_screen(screen.read())[-1]
    terminal.error("it is over.")
    assert capsys.readouterr().err == "error: it is over.\n"
    assert not on_screen(screen.read())


@pytest.mark.parametrize("kind", ["pipe", "dumb"])
def test_other_outputs_get_plain_lines_one_per_round(
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


def test_evaluation_bar_is_removed_from_the_terminal(screen, capsys, plain_terminal):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    for out in (screen.out, sys.stderr):
        bar = EvaluationBar("topkast, memory 8", out)
        ones = np.ones((6, 2)), np.ones((6, 1))
        model.evaluate(*ones, batch_size=2, verbose=0, callbacks=[bar])
    said = screen.read()
    assert "topkast, memory 8:" in said and "/3" in said
    assert not on_screen(said)
    # Other outputs get one line at the start and one at the end.
    begin, end = capsys.readouterr().err.splitlines()
    assert begin == "topkast, memory 8: begins"
    assert "100%|##########|  batch 3/3  0:00:0" in end.replace("█", "#")


def test_run_on_a_terminal_leaves_lines_table_and_events(
    screen, forked_command, tmp_path
):
    arguments = ("--width=0.25", "--steps=4", "--evaluate_every=2", "--batch_size=256")
    ended = subprocess.Popen(
        [*forked_command, *arguments, f"--run_dir={tmp_path}/run"],
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
