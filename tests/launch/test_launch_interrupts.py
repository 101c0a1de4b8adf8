"""SIGTERM, Ctrl-C and disk errors: reported in one line, and nothing is lost."""

import json
import os
import resource
import signal
import subprocess
import sys
import zipfile

import pytest

from launch import callbacks, train
from launch.storage import checkpoints
from launch.support import interrupts
from tests.launch import plain_model

RUN = (
    *("--method=dense", "--model=normed", "--train_examples=64", "--batch_size=16"),
    *("--steps=6", "--evaluate_every=4", "--nodeterministic"),
)


@pytest.fixture(autouse=True)
def _a_model_that_is_quickly_traced():
    plain_model.register()


def sent_at(monkeypatch, number, method, time, owner=callbacks.Recorder):
    """Makes the process send itself a signal at the nth call of a method."""
    original, calls = getattr(owner, method), []

    def called(self, *arguments, **options):
        calls.append(1)
        if len(calls) == time:
            os.kill(os.getpid(), number)
        return original(self, *arguments, **options)

    monkeypatch.setattr(owner, method, called)


def state(folder, step):
    path = folder / "dense" / "checkpoints" / f"step-{step:08d}.keras"
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(checkpoints.STATE_MEMBER))


def run(folder, *arguments):
    return train.main(["train.py", *RUN, f"--run_dir={folder}", *arguments])


def last_line(capsys):
    # TensorFlow warns of the many models of one process.
    return capsys.readouterr().err.splitlines()[-1]


def test_signal_within_a_step_saves_that_step(tmp_path, capsys, monkeypatch):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    for number, code, step in ((signal.SIGTERM, 143, 2), (signal.SIGINT, 130, 5)):
        # The second of the six steps; then the third of the remaining ones.
        time = 2 if step == 2 else 3
        with monkeypatch.context() as patched:
            begin = "on_train_batch_begin"
            sent_at(patched, number, begin, time, callbacks.LearningRate)
            assert run(tmp_path / "run") == code
        assert last_line(capsys) == (
            f"interrupted at step {step}: the same command resumes from there."
        )
        found = state(tmp_path / "run", step)
        # Totals of the loss and the metrics in the current round.
        assert found["metrics"] and "unevaluated" not in found
        assert [row["step"] for row in found["rows"]] == ([] if step == 2 else [4])
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert run(tmp_path / "run") == 0
    assert [row["step"] for row in state(tmp_path / "run", 6)["rows"]] == [4, 6]


def test_evaluation_interrupted_by_a_signal_is_repeated(tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patched:
        sent_at(patched, signal.SIGTERM, "on_test_begin", 1)
        assert run(tmp_path / "run") == 143
    assert last_line(capsys).startswith("interrupted at step 4:")
    found = state(tmp_path / "run", 4)
    assert found["rows"] == [] and "metrics" not in found
    assert found["unevaluated"].keys() >= {"loss", "accuracy", "cross_entropy"}
    # Interrupted again while it is repeated, and then not.
    with monkeypatch.context() as patched:
        sent_at(patched, signal.SIGTERM, "on_test_begin", 1)
        assert run(tmp_path / "run") == 143
    assert state(tmp_path / "run", 4)["unevaluated"] == found["unevaluated"]
    assert run(tmp_path / "run") == 0
    first, last = state(tmp_path / "run", 6)["rows"]
    assert (first["step"], last["step"]) == (4, 6)
    assert first["objective"] == found["unevaluated"]["loss"]
    assert first["train_accuracy"] == found["unevaluated"]["accuracy"]
    assert 0 < first["test_loss"] < 10


def test_signal_before_training_ends_at_once(tmp_path, capsys, monkeypatch):
    from launch.tasks.image import ImageTask

    sent_at(monkeypatch, signal.SIGTERM, "load", 1, ImageTask)
    assert run(tmp_path / "run") == 143
    assert last_line(capsys) == (
        "interrupted: the same command resumes from the last checkpoint."
    )


def test_second_ctrl_c_quits_at_once(root):
    waits = (
        "import os, signal, sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from launch.support import interrupts\n"
        "with interrupts.handled():\n"
        "    interrupts.defer(True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    assert interrupts.requested() == signal.SIGINT\n"
        "    print('noted', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", waits, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "noted\n"
        process.send_signal(signal.SIGINT)
        # A shell calls this 130.
        assert process.wait(10) == -signal.SIGINT


def test_repeated_sigterm_is_ignored():
    with interrupts.handled():
        interrupts.defer(True)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.requested() == signal.SIGTERM
    with interrupts.handled():
        assert interrupts.requested() is None
        with pytest.raises(interrupts.Interrupted) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
        assert caught.value.exit_code == 143


def test_full_disk_is_reported_and_the_same_command_resumes(
    tmp_path, capsys, monkeypatch
):
    """At the second checkpoint no file may grow beyond 20 kB."""
    write, calls = checkpoints.write, []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def write_on_a_full_disk(*arguments):
        calls.append(1)
        if len(calls) == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        return write(*arguments)

    try:
        with monkeypatch.context() as patched:
            patched.setattr(checkpoints, "write", write_on_a_full_disk)
            assert run(tmp_path / "run", "--checkpoint_steps=1") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    folder = tmp_path / "run" / "dense" / "checkpoints"
    assert last_line(capsys) == (
        f"error: the checkpoint of step 2 could not be written to {folder} (File too "
        "large): fix that, and the same command resumes from the last "
        "checkpoint."
    )
    assert [path.name for path in folder.iterdir()] == ["step-00000001.keras"]
    assert run(tmp_path / "run", "--checkpoint_steps=1") == 0
    assert "resumed after step 1" in capsys.readouterr().out
    assert len(state(tmp_path / "run", 6)["rows"]) == 2


def test_read_only_folder_is_reported_in_one_sentence(tmp_path, capsys, monkeypatch):
    """The error is raised by a patch, as root may write anywhere."""

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoints.files, "replacing", refuse)
    from launch.storage import run_folder

    monkeypatch.setattr(run_folder.files, "write_text", lambda *_: None)
    assert run(tmp_path / "run", "--checkpoint_steps=1") == 2
    said = last_line(capsys)
    assert said.startswith("error: the checkpoint of step 1 could not be written")
    assert "(Permission denied)" in said
