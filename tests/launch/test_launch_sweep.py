"""Sweeps: which runs there are, how they are run and resumed, what is reported."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from launch import sweep
from launch.config import sweep_flags
from launch.support.errors import UserError
from launch.sweeps import report, results
from launch.sweeps.running import Place, Sweep, _alone, seconds_left
from launch.sweeps.runs import runs_of

COMMON = ("--dataset=digits", "--model=resnet8", "--steps=20")
TRAINER = """
import json, pathlib, sys, time
flags = dict(f.lstrip("-").partition("=")[::2] for f in sys.argv[1:])
folder = pathlib.Path(flags["run_dir"]) / flags["method"]
folder.mkdir(parents=True, exist_ok=True)
with open(folder / "starts", "a") as file:
    file.write("x")
starts = len((folder / "starts").read_text())
if flags["method"] == "set" and flags["seed"] == "1" and starts < {fails}:
    print("broken")
    sys.exit(3)
if flags["seed"] == "4":
    sys.exit(4)
(folder / "metrics.csv").write_text("step,loss\\n7,1\\n")
time.sleep({sleep})
result = {{"method": flags["method"], "step": 20, "test_accuracy":
    0.5 + int(flags["seed"]) / 100 + len(flags["method"]) / 1000,
    "kept_parameters": 100, "training_flops_ratio": 0.5, "processor_seconds": 2.0}}
(folder / "result.json").write_text(json.dumps(result))
"""


def runs(*arguments):
    return runs_of(sweep_flags.parse(["launch/sweep.py", *COMMON, *arguments]))


def test_the_table_names_no_folder_of_the_machine(place):
    """The same runs go on where the data is elsewhere."""
    here, there = (
        runs("--methods=dense", "--seeds=0", f"--data_dir={folder}")
        for folder in ("/here", "/there")
    )
    Sweep(here, place()).run()
    rows = results.read(place().csv)
    assert rows[0]["arguments"] == " ".join([*COMMON, "--method=dense", "--seed=0"])
    assert results.missing(there, rows) == []


@pytest.fixture
def place(tmp_path):
    def made(fails=0, sleep=0.0):
        path = tmp_path / "trainer.py"
        path.write_text(TRAINER.format(fails=fails, sleep=sleep))
        command = (sys.executable, str(path))
        return Place(tmp_path / "runs", tmp_path / "sweep.csv", command)

    return made


# Which runs.


def test_variants_times_sparsities_times_seeds():
    found = runs(
        "--methods=dense,set",
        "--variant=half: --method=topkast --fwd={sparsity} --bwd={2*sparsity-1}",
        "--sparsities=0.9,0.950",
        "--seeds=3,4",
    )
    assert [run.name for run in found] == [
        f"{name}-{seed}"
        for seed in (3, 4)
        for name in ("dense", "set-0.9", "set-0.95", "half-0.9", "half-0.95")
    ]
    last = found[-1]
    assert last.arguments[:3] == COMMON
    assert last.arguments[3:] == (
        *("--method=topkast", "--fwd=0.95", "--bwd=0.9"),
        "--seed=4",
    )


def test_a_value_in_a_word_of_its_own_belongs_to_its_flag():
    [run] = runs(
        "--seeds=0", "--variant=one: --method set --data_dir '/a b' --nodeterministic"
    )
    assert run.arguments[3:6] == (
        "--method=set",
        "--data_dir=/a b",
        "--nodeterministic",
    )
    assert "/a b" not in run.recorded
    with pytest.raises(UserError, match="Expected no --seed in a variant"):
        runs("--variant=one: --method set --seed 3")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "Expected --methods or --variant"),
        (["--methods=sett"], "Expected --methods out of"),
        (["--methods=topkast"], "Expected a --variant for topkast"),
        (["--variant=--method=set"], "Expected --variant='NAME: FLAGS'"),
        (["--methods=set", "--variant=set: --method=set"], "a name of its own"),
        (["--methods=set", "--sparsities=1"], r"--sparsities to be in \[0, 1\)"),
        (["--methods=set", "--seeds=1,1"], "whole numbers of at least 0, each once"),
        (["--methods=set", "--sparsities=0.9,0.90"], "two named set-0.9-0"),
        (["--variant=a: --method=set --seed=3"], "Expected no --seed in a variant"),
        (["--variant=a: --method='set"], "that a shell can split"),
        (["--variant=a: --method=set --sparsity={sparsity-0.1.2}"], "of the variant a"),
        (
            ["--variant=a: --method=topkast --fwd={sparsity} --bwd={sparsity-0.95}"],
            r"\{sparsity-0.95\} of the variant a to be in \[0, 1\)",
        ),
        (["--variant=a: --method=set --drop_fraction=2"], "The run a-0: .*drop_fract"),
        (["--methods=set", "--no_such_flag=1"], "unknown flag --no_such_flag"),
    ],
)
def test_mistakes_are_named_before_anything_runs(arguments, match):
    with pytest.raises(UserError, match=match):
        runs(*arguments)


def test_help_and_mistakes_of_the_command(capsys):
    assert sweep.main(["sweep.py", "--help"]) == 0
    assert "--variant" in capsys.readouterr().out
    assert sweep.main(["sweep.py", "--methods=sett"]) == 2
    assert "Expected --methods" in capsys.readouterr().err


# How they are run.


def test_runs_are_made_side_by_side_and_written_once(place):
    here, begun = place(sleep=0.3), []

    class Out(io.StringIO):
        def write(self, text):
            if text.startswith("[1/4]"):
                begun.extend(here.folder.glob("*.log"))
            return super().write(text)

    out, found = Out(), runs("--methods=dense,set", "--seeds=0,1")
    made = Sweep(found, here, parallel=4, out=out)
    made.run()
    assert len(begun) == 4  # before the first has ended
    rows = results.read(here.csv)
    assert sorted(row["variant"] for row in rows) == ["dense", "dense", "set", "set"]
    assert all(float(row["peak_memory_mb"]) > 1 for row in rows)
    assert all(float(row["wall_seconds"]) >= 0.3 for row in rows)
    assert not made.failed and "[4/4]" in out.getvalue()
    assert results.missing(found, rows) == []
    more = runs("--methods=dense,set", "--seeds=0,1,2")
    assert [run.seed for run in results.missing(more, rows)] == [2, 2]


@pytest.mark.parametrize(
    ("fails", "retries", "lost"), [(2, 1, 0), (9, 1, 1), (2, 0, 1)]
)
def test_a_failed_run_is_begun_again_and_then_passed_over(place, fails, retries, lost):
    out, here = io.StringIO(), place(fails=fails)
    made = Sweep(
        runs("--methods=dense,set", "--seeds=0,1"), here, retries=retries, out=out
    )
    made.run()
    assert [run.name for run in made.failed] == ["set-0.9-1"] * lost
    assert len(results.read(here.csv)) == 4 - lost
    assert "exit code 3" in out.getvalue()
    assert "broken" in here.log_of(runs("--methods=set", "--seeds=1")[0]).read_text()


def test_a_run_that_diverges_has_a_row_and_is_not_begun_again(place):
    out, here = io.StringIO(), place()
    found = runs("--methods=dense,set", "--seeds=0,4")
    made = Sweep(found, here, retries=3, out=out)
    made.run()
    assert not made.failed and "set-0.9-4: diverged" in out.getvalue()
    rows = {(row["variant"], row["seed"]): row for row in results.read(here.csv)}
    assert rows["set", "4"]["test_accuracy"] == "" == rows["set", "4"]["wall_seconds"]
    assert len((here.folder / "set-0.9-4" / "set" / "starts").read_text()) == 1
    assert results.missing(found, list(rows.values())) == []
    assert "| set | 0.9 | 1 (1 lost) |" in report.write(
        list(rows.values()), here.folder
    )


def test_a_run_that_ended_before_its_row_was_written_gets_one(place):
    here = place()
    [run] = runs("--methods=dense", "--seeds=0")
    Sweep([run], here, out=io.StringIO()).run()
    here.csv.unlink()
    Sweep([run], here, out=io.StringIO()).run()
    [row] = results.read(here.csv)
    assert row["wall_seconds"] == ""  # of the last process alone, which did nothing


def test_two_sweeps_do_not_share_a_folder(place):
    here = place()
    with _alone(here.folder):
        with pytest.raises(UserError, match="no other sweep in"):
            Sweep(runs("--methods=dense", "--seeds=0"), here, out=io.StringIO()).run()


def test_methods_that_find_their_sparsity_run_once_a_seed():
    found = runs("--methods=str,set", "--sparsities=0.8,0.9", "--seeds=0")
    assert [run.name for run in found] == ["str-0", "set-0.8-0", "set-0.9-0"]


def test_a_row_of_other_flags_is_refused(place):
    here = place()
    Sweep(runs("--methods=dense", "--seeds=0"), here, out=io.StringIO()).run()
    other = runs("--methods=dense", "--seeds=0", "--momentum=0.5")
    with pytest.raises(UserError, match="with these flags: name another --sweep_dir"):
        results.missing(other, results.read(here.csv))
    here.csv.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="to be the CSV of a sweep"):
        results.read(here.csv)


def test_an_interrupt_ends_the_processes(place, tmp_path):
    here = place(sleep=60)
    program = tmp_path / "sweep.py"
    program.write_text(
        f"import sys, io, pathlib; sys.path.insert(0, {os.getcwd()!r})\n"
        "from launch.sweeps.running import Place, Sweep\n"
        "from launch.sweeps.runs import Run\n"
        f"place = Place(pathlib.Path({str(here.folder)!r}), "
        f"pathlib.Path({str(here.csv)!r}), {here.command!r})\n"
        "run = Run('dense', '', 0, ('--method=dense', '--seed=0'))\n"
        "try:\n    Sweep([run], place).run()\n"
        "except KeyboardInterrupt:\n    sys.exit(130)\n"
    )
    process = subprocess.Popen([sys.executable, str(program)])
    starts = here.folder / "dense-0" / "dense" / "starts"
    end = time.monotonic() + 30
    while not starts.exists() and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)  # an interrupt may be ignored in the background
    assert process.wait(20) == 130
    assert not results.read(here.csv)


def test_time_left_is_that_of_the_variant():
    rows = [
        {"variant": "set", "wall_seconds": "10"},
        {"variant": "set", "wall_seconds": "14"},
        {"variant": "dense", "wall_seconds": "2"},
    ]
    left = runs("--methods=dense,set,rigl", "--seeds=0")
    assert seconds_left(left, [], 1) is None
    assert seconds_left(left, rows, 2) == (2 + 12 + 10) / 2


def test_dry_run_counts(capsys):
    given = ["--methods=dense,static,small_dense", "--seeds=0,1", "--dry_run"]
    assert sweep.main(["sweep.py", *COMMON, *given]) == 0
    out = capsys.readouterr().out
    assert re.search(r"dense +2 +2 +\S+ +1\.000", out)
    assert re.search(r"static +0\.9 +2 +2 +\S+ +0\.1", out)
    assert "not planned" in out and "6 of 6 runs are left" in out


# What is reported.


def rows_of(**accuracies):
    """Rows with these accuracies by variant, one a seed, at 0.9; `dense` has none."""
    return [
        {
            "variant": variant,
            "sparsity": "" if variant == "dense" else "0.9",
            "seed": str(seed),
            "test_accuracy": str(value),
            "training_flops_ratio": "1" if variant == "dense" else "0.25",
            "kept_parameters": "1000",
            "processor_seconds": "12",
            **dict.fromkeys(results.OWN, "1"),
        }
        for variant, values in accuracies.items()
        for seed, value in enumerate(values)
    ]


def test_differences_are_paired_by_seed(tmp_path):
    """Means 0.8 and 0.75; differences -0.04, -0.05, -0.06 have a deviation of 0.01."""
    rows = rows_of(dense=[0.7, 0.8, 0.9], set=[0.66, 0.75, 0.84])
    text = report.write(rows, tmp_path)
    assert "| dense |  | 3 | 80.00 ± 10.00 |  | 1.000 | 1,000 | 12 |" in text
    assert (
        "| set | 0.9 | 3 | 75.00 ± 9.00 | -5.00 ± 1.00 | 0.250 | 1,000 | 12 |" in text
    )
    for name in ("pareto.png", "variants.png"):
        assert (tmp_path / name).stat().st_size > 8_000
    tex = (tmp_path / "table.tex").read_text()
    assert r"test\_accuracy (\%)" in tex and r"75.00 $\pm$ 9.00" in tex
    assert tex.count(r"\\") == 3


def test_a_smaller_network_costs_less_than_the_dense_one(tmp_path):
    """Its own row compares it with itself."""
    rows = rows_of(dense=[0.7], small_dense=[0.6])
    for row, total in zip(rows, ("8e12", "2e12"), strict=True):
        row |= {"method": row["variant"], "training_flops_ratio": "1"}
        row["training_flops_total"] = total
    text = report.write(rows, tmp_path)
    assert "| dense |  | 1 | 70.00 |  | 1.000 |" in text
    assert "| small_dense | 0.9 | 1 | 60.00 | -10.00 | 0.250 |" in text


def test_runs_that_diverged_are_counted_and_left_out(tmp_path):
    rows = rows_of(dense=[0.7, 0.8], set=["nan", 0.6], rigl=["nan", "nan"])
    text = report.write(rows, tmp_path, baseline="dense")
    assert "| set | 0.9 | 1 (1 lost) | 60.00 | -20.00 |" in text
    assert "| rigl | 0.9 | 0 (2 lost) | diverged | diverged |" in text


def test_tables_have_the_order_of_the_runs_and_not_of_their_ends(tmp_path):
    given = runs("--methods=dense,static,set", "--sparsities=0.9", "--seeds=0,1")
    rows = rows_of(set=[0.7, 0.7], other=[0.1], static=[0.7, 0.7], dense=[0.8, 0.8])
    names = [row["variant"] for row in results.ordered(rows[::-1], given)]
    assert names == ["dense", "static", "set"] * 2 + ["other"]


def test_what_a_report_refuses(tmp_path):
    rows = rows_of(dense=[0.7])
    for arguments, match in (
        (([], tmp_path), "without rows"),
        ((rows, tmp_path, "speed"), "Expected --metric to be one of"),
        ((rows, tmp_path, None, "set"), "Expected --baseline to be one of dense"),
    ):
        with pytest.raises(UserError, match=match):
            report.write(*arguments)


@pytest.mark.slow
def test_a_sweep_on_the_bundled_digits(tmp_path, capsys):
    given = [
        *("sweep.py", *COMMON, "--methods=dense,small_dense,snip", "--seeds=0,1"),
        "--variant=topkast: --method=topkast --fwd={sparsity} --bwd=0.5",
        *(f"--sweep_dir={tmp_path}", "--parallel=2", "--threads=1"),
    ]
    assert sweep.main(given) == 0
    rows = results.read(tmp_path / "sweep.csv")
    assert len(rows) == 8 and all(float(row["test_accuracy"]) > 0.05 for row in rows)
    assert "topkast" in (tmp_path / "table.md").read_text()
    # Of 20 steps: SNIP's dense one before training is part of the ratio.
    [dense] = {row["training_flops"] for row in rows if row["variant"] == "dense"}
    for row in rows:
        pruning = row["variant"] == "snip"
        step = float(row["training_flops"]) / float(dense)
        if row["variant"] != "small_dense":
            expected = step + pruning / 20
            assert float(row["training_flops_ratio"]) == pytest.approx(expected, 1e-5)
    capsys.readouterr()
    assert sweep.main(given) == 0
    assert "0 of 8 runs are left" in capsys.readouterr().out
    assert json.loads((tmp_path / "dense-0/dense/result.json").read_text())
