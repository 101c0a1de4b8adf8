"""The sensitivity study: grid, rows, resume, plots and messages."""

import csv
import math
import re

import pytest

from launch import sensitivity
from launch.config import sensitivity_flags as study_flags
from launch.plots import sensitivity as sensitivity_plot
from launch.studies import results
from launch.studies import runs as studies
from launch.studies import training as study_training
from launch.studies.table import table
from launch.support.errors import UserError
from tests.launch import plain_model

TINY = (
    "--dataset=digits",
    "--model=normed",
    "--train_examples=64",
    "--batch_size=32",
    "--steps=2",
    "--learning_rate=0.05",
    "--seeds=0",
    "--sparsities=0.5",
    "--nodeterministic",  # which would hold for all tests after this one
)


@pytest.fixture(autouse=True)
def _a_model_that_is_quickly_traced():
    plain_model.register()


def plan(*arguments):
    settings = study_flags.parse(["sensitivity.py", *TINY, *arguments])
    return sensitivity.planned(sensitivity.resolved(settings))


def test_the_grid_of_the_paper():
    runs = plan("--sparsities=0.5,0.9", "--seeds=0,1", "--periods=10,20")
    assert len(runs) == len(set(runs)) == 2 * (1 + 4 * 2 + 2 + 1 + 2)
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)


@pytest.mark.parametrize(
    ("study", "expected"),
    [
        ("dense", None),
        ("forward_weights", {"forward": ("weights",), "backward": (), "sparsity": 0.7}),
        (
            "forward_activations",
            {"forward": ("activations",), "backward": (), "sparsity": 0.7},
        ),
        ("backward_weights_activations", {"forward": (), "sparsity": 0.7}),
        (
            "backward_errors",
            {"forward": (), "backward": (), "errors": 0.7, "errors_per": "batch"},
        ),
        ("swat", {"sparsity": 0.7}),
        ("masked_updates", {"updates": "masked", "sparsity": 0.7}),
        ("freeze", {"freeze_at": 4, "sparsity": 0.7}),
        ("period", {"topk_period": 4, "sparsity": 0.7}),
    ],
)
def test_scope_arguments_of_each_study(study, expected):
    run = studies.Run(study, 0.7, 4, 0)
    if expected is not None:
        expected = {"topk_period": 3, **expected}
    assert run.scope_arguments(3, "batch") == expected


@pytest.mark.slow
def test_study_resumes_and_is_plotted(tmp_path, capsys):
    folder = tmp_path / "study"
    arguments = [
        "sensitivity.py",
        *TINY,
        "--studies=dense,forward_activations,masked_updates",
        f"--run_dir={folder}",
    ]
    assert sensitivity.main(arguments) == 0
    printed = capsys.readouterr().out
    path = folder / "results.csv"
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["study"] for row in rows] == [
        "dense",
        "forward_activations",
        "masked_updates",
    ]
    assert all(0 <= float(row["test_accuracy"]) <= 1 for row in rows)
    assert rows[1]["weight_density"] != "1.0" and rows[0]["weight_density"] == "1.0"
    assert "masked_updates" in printed
    # A line for each run, as it ends, and no control character.
    said = [line for line in printed.splitlines() if "  test accuracy" in line]
    assert [line.partition("  ")[0] for line in said] == ["1/3", "2/3", "3/3"]
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", printed)
    assert max(map(len, said)) <= 100
    for name in ("figures.png", "ablations.png"):
        assert (folder / name).stat().st_size > 1000

    # A kill after the second run, in the middle of a line: the rest is run again.
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][:20])
    assert sensitivity.main(arguments) == 0
    with open(path, newline="") as file:
        again = list(csv.DictReader(file))
    assert again[:2] == rows[:2] and len(again) == 3
    assert [row["seed"] for row in again] == ["0"] * 3
    assert [row["steps"] for row in again] == ["2"] * 3
    assert sensitivity.main([*arguments, "--batch_size=16"]) == 2
    assert "--batch_size is 32 there, 16 now" in capsys.readouterr().err


def test_scope_errors_are_raised_before_the_first_run(tmp_path, capsys):
    folder = tmp_path / "study"
    arguments = [
        "sensitivity.py",
        *TINY,
        "--studies=dense,swat",
        "--exempt=zzz",
        f"--run_dir={folder}",
    ]
    assert sensitivity.main(arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: Expected each regex of `exempt`") and "zzz" in said
    assert not folder.exists()


def test_diverged_run_is_a_row_without_an_accuracy():
    settings = sensitivity.resolved(
        study_flags.parse(["", *TINY, "--learning_rate=1e30"])
    )
    from launch import data

    images = data.find("digits").load(None).subset(64)
    row = study_training.train(studies.Run("swat", 0.5, 0, 0), settings, images)
    assert row["diverged"] == 1
    for name in ("test_accuracy", "test_loss", "train_loss", "weight_density"):
        assert math.isnan(row[name])


def row(study, sparsity, seed, accuracy, value=0):
    return {
        **{"study": study, "sparsity": sparsity, "value": value, "seed": seed},
        **{"test_accuracy": accuracy, "diverged": int(math.isnan(accuracy))},
    }


def test_the_table_by_hand():
    rows = [row("period", 0.9, seed, a, 10) for seed, a in enumerate((0.5, 0.7))]
    rows.append(row("period", 0.9, 2, math.nan, 10))
    rows.append(row("swat", 0.9, 0, math.nan))
    period, swat = table(rows).splitlines()[3:]
    shown = ["period", "10", "0.90", "3", "60.00%", "50.00%", "70.00%", "1", "of", "3"]
    assert period.split() == shown
    assert swat.split() == ["swat", "0.90", "1", "1", "of", "1"]
    longest = [row("backward_weights_activations", 0.9, 0, a) for a in (0.5, math.nan)]
    assert max(map(len, table(rows + longest).splitlines())) <= 80
    assert "diverged" not in table(longest[:1])


def test_diverged_run_is_plotted_as_a_cross(tmp_path, monkeypatch):
    figures = {}

    def saved(figure, path):
        figures[path.stem] = figure
        return path

    monkeypatch.setattr(sensitivity_plot, "save", saved)
    rows = [
        row("forward_weights", 0.5, 0, 0.6),
        row("forward_weights", 0.5, 1, math.nan),
        row("forward_weights", 0.9, 0, math.nan),
        row("forward_weights", 0.9, 1, math.nan),
        row("swat", 0.9, 0, math.nan),
        row("swat", 0.9, 1, 0.5),
    ]
    sensitivity_plot.draw(rows, tmp_path)
    forward = figures["figures"].axes[0]
    line, *crosses = forward.lines
    assert list(line.get_xdata()) == [50, 90]
    assert line.get_ydata()[0] == 60 and math.isnan(line.get_ydata()[1])
    assert [cross.get_marker() for cross in crosses] == ["x", "x"]
    said = [text.get_text() for text in forward.texts]
    assert said == ["1 of 2 diverged", "2 of 2 diverged"]
    [ablations] = figures["ablations"].axes
    assert [text.get_text() for text in ablations.texts] == ["1 of 2 diverged"]
    points = [x for x in ablations.lines if x.get_marker() == "o"]
    assert [list(x.get_xdata()) for x in points] == [[50]]


def test_results_record_the_arguments_of_each_run(tmp_path):
    settings = sensitivity.resolved(study_flags.parse(["", *TINY, "--topk_period=3"]))

    def arguments(study, value=0):
        run = studies.Run(study, 0.7, value, 0)
        found = results.arguments(run, settings)
        assert tuple(found) == results.ARGUMENTS
        assert found["dataset"] == "digits" and found["learning_rate"] == "0.05"
        return {name: found[name] for name in results._OF_SCOPE if found[name]}

    assert arguments("dense") == {}
    common = {"exempt": "first", "topk_period": "3"}
    assert arguments("swat") == common
    assert arguments("forward_weights") == {
        **common,
        **{"forward": "weights", "backward": "none"},
    }
    assert arguments("freeze", 4) == {**common, "freeze_at": "4"}
    assert arguments("period", 4) == {**common, "topk_period": "4"}
    assert arguments("masked_updates") == {**common, "updates": "masked"}
    errors = {"errors": "0.7", "errors_per": "batch"}
    errors |= {"forward": "none", "backward": "none"}
    assert arguments("backward_errors") == {**common, **errors}
    # An older file without these columns is continued.
    path = tmp_path / "results.csv"
    path.write_text(
        ",".join(results.MEASURED)
        + "\nswat,0.9,0.0,1.0,300,0.5,1.5,1.6,0.1,1.0,0.0,9.5\n"
    )
    [old] = results.read(path)
    assert old["seed"] == 1 and old["dataset"] == ""
    results.append(path, {**old, "seed": 2, "dataset": "digits"})
    assert [x["dataset"] for x in results.read(path)] == ["", "digits"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--studies=dense,forwards", "Received: 'forwards'"),
        ("--sparsities=0.5,1", r"in \[0, 1\). Received: 1.0"),
        ("--studies=", "one of dense, .* Received: none"),
        ("--errors_per=row", "batch, sample. Received: 'row'"),
        ("--topk_period=0", "topk_period=0"),
        ("--seeds=0,1,0", "each of --seeds once. Received: 0,1,0"),
        ("--sparsities=half", "to be numbers with commas between them"),
        ("--freeze_at=0", "at least 1. Received: 0"),
        ("--periods=1.5", "to be whole numbers"),
        ("--seeds=-1", "at least 0. Received: -1"),
        ("--study=dense", "did you mean --studies"),
        ("--method=swat", "unknown flag --method"),
    ],
)
def test_bad_input_is_refused(argument, message):
    with pytest.raises(UserError, match=message):
        study_flags.parse(["", argument])


def test_help_names_flags_and_files(capsys):
    assert sensitivity.main(["", "--help"]) == 0
    printed = capsys.readouterr().out
    for word in ("--studies", "sensitivity_digits.cfg", "figures.png", "--freeze_at"):
        assert word in printed
