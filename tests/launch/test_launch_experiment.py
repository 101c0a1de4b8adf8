"""Which run a folder belongs to; a refusal leaves the folder unchanged."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from launch.config import flags as launch_flags
from launch.data.text import TextData
from launch.storage import run_folder
from launch.support import files
from launch.support.errors import UserError
from launch.tasks.metrics import METRICS
from tests.launch.runs import parsed


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def refusal(folder, *arguments):
    with (
        pytest.raises(UserError) as caught,
        run_folder.claim(folder, parsed(*arguments)),
    ):
        pass
    said = str(caught.value)
    assert "\n" not in said
    assert str(folder) in said
    return said


def test_flags_of_a_new_folder_are_a_flagfile(tmp_path):
    folder = tmp_path / "a" / "b"
    asked = parsed("--fwd=0.95", f"--run_dir={folder}")
    with run_folder.claim(folder, asked):
        pass
    again = parsed(f"--flagfile={folder / 'flags.cfg'}")
    assert launch_flags.differences(asked, again) == []
    assert again.run_dir == str(folder)


def test_same_flags_resume_even_with_other_paths(tmp_path):
    with run_folder.claim(tmp_path, parsed("--fwd=0.95")):
        pass
    before = contents(tmp_path)
    with run_folder.claim(tmp_path, parsed("--fwd=0.95", "--data_dir=x")):
        pass
    assert contents(tmp_path) == before


def test_other_flags_are_refused_and_named(tmp_path):
    with run_folder.claim(tmp_path, parsed()):
        pass
    before = contents(tmp_path)
    said = refusal(tmp_path, "--fwd=0.95", "--epochs=7")
    assert "--fwd is 0.9 there, 0.95 now" in said
    assert "--epochs is 30 there, 7 now" in said
    assert "--bwd" not in said
    assert contents(tmp_path) == before


def test_folder_without_a_run_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "not a run" in refusal(tmp_path)
    assert contents(tmp_path)["thesis.tex"] == b"years of work"


def test_leftovers_of_a_kill_before_the_first_file_are_accepted(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / f"{files.TEMPORARY}-flags.cfg").write_text("--fw")
    with run_folder.claim(tmp_path, parsed()):
        assert (tmp_path / "flags.cfg").is_file()


def test_flags_of_another_version_are_refused(tmp_path):
    (tmp_path / "flags.cfg").write_text("--flag_of_tomorrow=1\n")
    said = refusal(tmp_path)
    assert "flag_of_tomorrow" in said and "not a flagfile of this version" in said


@pytest.mark.parametrize("below", [".", "deep/er"])
def test_file_instead_of_the_folder_is_refused(tmp_path, below):
    taken = tmp_path / "taken"
    taken.write_text("x")
    folder = taken / below
    said = refusal(folder)
    assert "is not a folder" in said
    assert taken.read_text() == "x"


@pytest.mark.skipif(
    getattr(os, "geteuid", lambda: 1)() == 0, reason="root may write anywhere"
)
def test_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    try:
        assert "may not write" in refusal(tmp_path / "run")
    finally:
        tmp_path.chmod(0o700)


def test_folder_in_use_by_another_process_is_refused(tmp_path, root):
    holder = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import pathlib\n"
        "from launch.config import flags\n"
        "from launch.storage import run_folder\n"
        "with run_folder.claim(pathlib.Path(sys.argv[2]), flags.parse(['x'])):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(root), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        assert "in use by another process" in refusal(tmp_path)
        process.kill()
    # The lock is released when its process ends, for any reason.
    with run_folder.claim(tmp_path, parsed()):
        pass


def test_flagfile_of_a_moved_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with run_folder.claim(tmp_path / "run", parsed("--run_dir=run")):
        pass
    argv = ["train.py", "--flagfile=run/flags.cfg"]
    run_folder.check_flagfiles(argv, launch_flags.parse(argv))
    (tmp_path / "run").rename(tmp_path / "moved")
    argv = ["train.py", "--flagfile", "moved/flags.cfg"]
    with pytest.raises(UserError, match="Expected --run_dir=moved with"):
        run_folder.check_flagfiles(argv, launch_flags.parse(argv))
    argv.append("--run_dir=another")
    run_folder.check_flagfiles(argv, launch_flags.parse(argv))
    # A flagfile that was not written by a run may set --run_dir.
    (tmp_path / "own.cfg").write_text("--run_dir=another\n")
    argv = ["train.py", "--flagfile=own.cfg"]
    run_folder.check_flagfiles(argv, launch_flags.parse(argv))


def test_damaged_result_is_reported_with_a_remedy(tmp_path):
    (tmp_path / "dense").mkdir()
    run_folder.write_result(tmp_path / "dense", {"step": 3})
    path = tmp_path / "dense" / "result.json"
    path.write_text(path.read_text()[:7])
    with pytest.raises(UserError, match="result.json is damaged .*: remove it"):
        run_folder.finished(tmp_path, "dense")


WHOLE = {
    **dict.fromkeys(run_folder._COLUMNS, 1),
    **{metric.column: 0.25 for metric in METRICS["image"].metrics},
    "method": "dense",
}


def test_result_marks_a_method_as_finished(tmp_path):
    assert run_folder.finished(tmp_path, "dense") is None
    (tmp_path / "dense").mkdir()
    run_folder.write_result(tmp_path / "dense", WHOLE)
    metrics = METRICS["image"].metrics
    assert run_folder.finished(tmp_path, "dense", metrics) == WHOLE


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "not an object"),
        ("x" * 1000, "not an object"),
        ({}, "its method is None"),
        ({**WHOLE, "method": "topkast"}, "its method is 'topkast', not 'dense'"),
        ({**WHOLE, "parameters": "many"}, "its parameters is 'many', not a number"),
        ({**WHOLE, "step": None}, "its step is None, not a number"),
        ({**WHOLE, "seconds": True}, "its seconds is True, not a number"),
        ({**WHOLE, "test_accuracy": [1]}, r"its test_accuracy is \[1\], not a number"),
    ],
)
def test_invalid_result_is_reported_in_one_sentence(tmp_path, content, said):
    (tmp_path / "dense").mkdir()
    (tmp_path / "dense" / "result.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=said) as caught:
        run_folder.finished(tmp_path, "dense", METRICS["image"].metrics)
    assert "remove it" in str(caught.value) and len(str(caught.value)) < 400


# --- Names and links -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["x" * 300, "d/" * 3000])
def test_too_long_folder_name_is_reported_in_one_sentence(tmp_path, name):
    with pytest.raises(UserError, match="short enough for this file system") as caught:
        run_folder.check(tmp_path / name, parsed())
    assert len(str(caught.value)) < 200
    assert not list(tmp_path.iterdir())


def test_symbolic_link_inside_the_run_folder_is_refused(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / ".part").mkdir(parents=True)
    run = tmp_path / "run"
    with run_folder.claim(run, parsed()):
        pass
    for name in ("topkast", "topkast/checkpoints", "topkast/events"):
        link = run / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(elsewhere)
        with pytest.raises(UserError, match=f"symbolic link {link}"):
            run_folder.check(run, parsed())
        link.unlink()
    run_folder.check(run, parsed())
    # The run folder itself may be a link, for example to another disk.
    (tmp_path / "link").symlink_to(run)
    run_folder.check(tmp_path / "link", parsed())


def test_interrupted_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.replacing(path) as part:
        part.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    files.write_text(path, "new")
    assert path.read_text() == "new"


# --- The data of a run ---------------------------------------------------------------


def test_data_is_recorded_once_and_other_data_is_refused(tmp_path):
    run_folder.check_data(tmp_path, "aaaa", first=False)
    assert not list(tmp_path.iterdir())
    run_folder.check_data(tmp_path, "aaaa", first=True)
    run_folder.check_data(tmp_path, "aaaa", first=True)
    with pytest.raises(UserError, match=r"trained on \(aaaa\). Received: other data"):
        run_folder.check_data(tmp_path, "bbbb", first=True)
    run_folder.check_data(tmp_path, "aaaa", first=False)


def test_different_data_has_different_digests():
    letters = np.arange(6, dtype="uint8")
    of = TextData(letters, letters[:2], letters[:2], ["a", "b"], "byte").digest
    assert of == TextData(letters, letters[:2], letters[:2], ["a", "b"], "byte").digest
    for other in (
        TextData(letters, letters[:2], letters[:2], ["a", "c"], "byte"),
        TextData(letters[:5], letters[:2], letters[:2], ["a", "b"], "byte"),
        TextData(letters[::-1], letters[:2], letters[:2], ["a", "b"], "byte"),
        TextData(letters, letters[1:3], letters[:2], ["a", "b"], "byte"),
    ):
        assert other.digest != of
