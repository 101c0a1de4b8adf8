"""The help of each program, and suggestions for misspelt names."""

import pytest

from launch import evaluate, simulate
from launch import train as launch_train
from launch.config import (
    flag_help,
    flag_table,
    plan_flags,
    sensitivity_flags,
    simulate_flags,
)
from launch.config.flag import new_flags

PROGRAMS = {
    "plan": (plan_flags.HEAD, plan_flags.GROUPS),
    "train": (flag_help.HEAD, flag_table.GROUPS),
    "evaluate": (evaluate.HEAD, evaluate.GROUPS),
    "simulate": (simulate_flags.HEAD, simulate_flags.GROUPS),
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
def test_each_program_prints_help(asked, capsys):
    for main in (launch_train.main, evaluate.main, simulate.main):
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
def test_misspelt_name_gets_a_suggestion(main, argument, meant, capsys, tmp_path):
    folder = [str(tmp_path)] if main is evaluate.main else []
    assert main(["program.py", *folder, argument]) == 2
    assert meant in capsys.readouterr().err


def test_every_flag_is_in_the_help():
    said = flag_help.help_text()
    for name in new_flags(flag_table.GROUPS):
        assert f"--{name}" in said
