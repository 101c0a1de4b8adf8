"""The console scripts: packaged flagfiles, the spelling of commands, exit codes."""

import importlib

import pytest
from absl.flags import FlagValues

from launch import console
from launch.support import terminal


@pytest.fixture(autouse=True)
def _spelling():
    yield
    terminal.spell(str)


def test_each_program_has_a_script():
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    with open("pyproject.toml", "rb") as file:
        scripts = tomllib.load(file)["project"]["scripts"]
    assert scripts == {
        f"topkast-{name}": f"launch.console:{name}" for name in console.PROGRAMS
    }
    for name in console.PROGRAMS:
        assert getattr(console, name).args == (name,)
        assert callable(importlib.import_module(f"launch.{name}").main)


@pytest.mark.parametrize("name", console.PROGRAMS)
def test_help_names_scripts_alone(name, capsys):
    assert console.main(name, [f"topkast-{name}", "--help"]) == 0
    out = capsys.readouterr().out
    assert f"topkast-{name} " in out
    assert "python launch/" not in out and "launch/flagfiles/" not in out


@pytest.mark.parametrize("given", ["quickstart.cfg", "launch/flagfiles/quickstart.cfg"])
@pytest.mark.parametrize("joined", [True, False])
def test_flagfiles_of_the_package_are_found_elsewhere(
    given, joined, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    flag = [f"--flagfile={given}"] if joined else ["--flagfile", given]
    assert console.main("plan", ["topkast-plan", *flag, "--json"]) == 0
    assert '"dense"' in capsys.readouterr().out


PACKAGED = sorted(
    path.relative_to(console.FLAGFILES).as_posix()
    for path in console.FLAGFILES.rglob("*.cfg")
)


@pytest.mark.parametrize("name", PACKAGED)
def test_each_flagfile_of_the_package_is_read_elsewhere(name, tmp_path, monkeypatch):
    flag = [f"--flagfile=launch/flagfiles/{name}"]
    expected = FlagValues().read_flags_from_files(flag)
    monkeypatch.chdir(tmp_path)
    for given in (name, f"launch/flagfiles/{name}"):
        argv = console.with_flagfiles(["x", "--flagfile", given])
        assert argv[0] == "x"
        assert FlagValues().read_flags_from_files(argv[1:]) == expected


def test_own_flagfiles_include_those_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "# mine\n--flagfile=claims/digits_base.cfg\n--steps=7\n"
    (tmp_path / "mine.cfg").write_text(text)
    argv = console.with_flagfiles(["x", "--flagfile=mine.cfg", "--seeds=9"])
    words = FlagValues().read_flags_from_files(argv[1:])
    assert "--dataset=digits" in words and words[-2:] == ["--steps=7", "--seeds=9"]


def test_a_flagfile_that_includes_itself_ends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "--flagfile=a.cfg\n--flagfile=quickstart.cfg\n"
    (tmp_path / "a.cfg").write_text(text)
    assert "--flagfile=a.cfg" in console.with_flagfiles(["x", "--flagfile=a.cfg"])


def test_a_file_in_the_working_directory_comes_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart.cfg").write_text("--no_such_flag=1\n")
    assert console.main("plan", ["topkast-plan", "--flagfile=quickstart.cfg"]) == 2
    assert "no_such_flag" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["none.cfg", "../console.py", "/none.cfg", ""])
def test_other_names_stay(name):
    assert console.with_flagfiles(["x", f"--flagfile={name}", "y"]) == [
        "x",
        f"--flagfile={name}",
        "y",
    ]


def test_a_flagfile_without_a_name_stays_an_error(capsys):
    assert console.with_flagfiles(["x", "--flagfile"]) == ["x", "--flagfile"]
    assert console.main("plan", ["topkast-plan", "--flagfile"]) == 2
    assert "flagfile" in capsys.readouterr().err


def test_messages_name_scripts(capsys):
    assert console.main("multiworker", ["topkast-multiworker"]) == 2
    assert capsys.readouterr().err.startswith("error: Expected the flags of")
    terminal.note("go on with python /x/site-packages/launch/evaluate.py RUN")
    assert capsys.readouterr().err == "go on with topkast-evaluate RUN\n"
