"""The console scripts: packaged flagfiles, the spelling of commands, exit codes."""

import importlib

import pytest

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


def test_messages_name_scripts(capsys):
    assert console.main("multiworker", ["topkast-multiworker"]) == 2
    assert capsys.readouterr().err.startswith("error: Expected the flags of")
    terminal.note("go on with python /x/site-packages/launch/evaluate.py RUN")
    assert capsys.readouterr().err == "go on with topkast-evaluate RUN\n"
