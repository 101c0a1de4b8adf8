"""The command line as a user sees it: exit codes, error messages, the table."""

import csv
import os
import resource
import subprocess
import sys
import time

import pytest

from launch import train
from launch.config import flags as launch_flags
from launch.config.methods import METHODS
from launch.storage import report, run_folder


def error(launch, *arguments, **options):
    """The error message, one sentence, of a command that must be refused."""
    ended = launch(*arguments, **options)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert "Traceback" not in ended.stderr
    return ended.stderr


def cpu_of_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_has_examples(launch):
    ended = launch("--help")
    assert ended.returncode == 0
    assert ended.stdout.count("python launch/train.py --") >= 4
    assert ended.stderr == ""


def test_flagfile_with_an_unknown_flag(launch, tmp_path):
    path = tmp_path / "mine.cfg"
    path.write_text("--fwd=0.9\n--bakward=topk\n")
    said = error(launch, f"--flagfile={path}")
    assert said == (
        f"error: unknown flag --bakward ({path}, line 2); did you mean --backward?\n"
    )


def test_missing_data_fails_within_a_second_and_leaves_nothing(launch, tmp_path):
    folder = tmp_path / "none"
    start, cpu = time.perf_counter(), cpu_of_children()
    said = error(launch, "--dataset=cifar10", f"--data_dir={folder}", cwd=tmp_path)
    # CPU time does not depend on the load of the machine; the wall time shows that
    # nothing waits for a network (which takes minutes).
    assert cpu_of_children() - cpu < 1
    assert time.perf_counter() - start < 10
    assert f"CIFAR-10 is not prepared in {folder}" in said
    assert os.listdir(tmp_path) == []


def test_unwritable_run_folder(launch, tmp_path):
    (tmp_path / "taken").touch()
    said = error(launch, f"--run_dir={tmp_path}/taken/run")
    assert "cannot be created" in said and "choose another --run_dir" in said


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (
            "--dataset=mnist",
            "bytes, wikitext103, wikitext2, words. Received: 'mnist'",
        ),
        ("--model=vgg", "one of resnet8, resnet20, resnet32, resnet56,"),
        ("--train_examples=1438", "at most 1437, the size of digits. Received: 1438"),
        ("--batch_size=1438", "training examples, 1437. Received: 1438"),
    ],
)
def test_invalid_names_and_sizes_are_refused(capsys, argument, expected):
    assert train.main(["train.py", argument]) == 2
    assert expected in capsys.readouterr().err


def test_flags_of_another_method_are_named(capsys, tmp_path):
    shared = ("--fwd=0.85", "--sparsity=0.5", "--topk_period=3", "--errors=0.0")
    found = {}
    for method in METHODS:
        asked = launch_flags.parse(["train.py", *shared, f"--method={method}"])
        found[method] = train.without_effect(train.resolved(asked))
    assert found == {
        "dense": {},
        "topkast": {"method=topkast": ["sparsity", "topk_period"]},
        "swat": {"method=swat": ["fwd"]},
        "topkast_swat": {},
        **{
            method: {f"method={method}": ["fwd", "topk_period"]}
            for method in METHODS
            if method not in ("dense", "topkast", "swat", "topkast_swat")
        },
    }
    (tmp_path / "mine").write_text("")  # so that it ends before it trains
    arguments = ["train.py", *shared, "--method=topkast", f"--run_dir={tmp_path}"]
    assert train.main(arguments) == 2
    first = capsys.readouterr().err.splitlines()[0]
    assert first == (
        "warning: without effect with --method=topkast: --sparsity, --topk_period."
    )


def test_results_record_the_flags_of_each_run(tmp_path):
    shared = ("--seed=3", "--sparsity=0.7", "--fwd=0.95", "--distribution=erk")
    found = []
    for method in ("topkast", "swat", "topkast_swat", "dense"):
        asked = ["train.py", f"--method={method}", "--steps=9", *shared]
        settings = train.resolved(launch_flags.parse(asked))
        folder = tmp_path / method
        folder.mkdir()
        report.write_results(folder, [{"method": method, "step": 9}], settings)
        with open(folder / "results.csv", newline="") as file:
            found += csv.DictReader(file)
    names = ("method", "seed", "fwd", "sparsity", "distribution", "epochs", "steps")
    assert [tuple(row[name] for name in names) for row in found] == [
        ("topkast", "3", "0.95", "", "erk", "", "9"),
        ("swat", "3", "", "0.7", "erk", "", "9"),
        ("topkast_swat", "3", "0.95", "0.7", "erk", "", "9"),
        ("dense", "3", "", "", "", "", "9"),
    ]
    assert all(row.keys() == found[0].keys() for row in found)
    assert not {"run_dir", "data_dir", "compare_dense"} & found[0].keys()


def test_flags_of_another_schedule_or_optimizer_are_named():
    def without_effect(*arguments):
        asked = launch_flags.parse(["train.py", "--method=dense", *arguments])
        return train.without_effect(train.resolved(asked))

    drops = ("--lr_drop_steps=3", "--lr_drop=0.5")
    assert without_effect(*drops) == {
        "lr_schedule=cosine": ["lr_drop_steps", "lr_drop"]
    }
    assert without_effect(*drops, "--lr_schedule=steps") == {}
    assert without_effect("--optimizer=adam", "--nesterov") == {
        "optimizer=adam": ["nesterov"]
    }


def test_flag_overridden_by_a_later_one_is_named(capsys, tmp_path):
    (tmp_path / "mine").write_text("")  # so that it ends before it trains
    flagfile = "--flagfile=launch/flagfiles/cifar10_resnet20_90_80.cfg"
    assert train.main(["", flagfile, "--epochs=3", f"--run_dir={tmp_path}"]) == 2
    assert capsys.readouterr().err.splitlines()[0] == (
        "--epochs=3 counts, and --steps=64000, which came before it, does not."
    )


@pytest.mark.parametrize(
    "program", ["train.py", "plan.py", "evaluate.py", "simulate.py"]
)
def test_closed_pipe_is_no_error(root, program):
    """The reader has closed the pipe, as `--help | head -1` does."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, root / "launch" / program, "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_scope_error_is_the_only_output(launch, tmp_path):
    said = error(launch, "--exempt=zzz", f"--run_dir={tmp_path}/run")
    assert said.startswith("error: Expected each regex of `exempt`")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        (["--bwd=-0.1"], "--bwd to be in [0, 1). Received: -0.1"),
        (["--fwd=1"], "--fwd to be in [0, 1). Received: 1.0"),
        (["--refresh_every=0"], "refresh_every=0"),
        (["--distribution=erdos"], "erdos"),
        (["--exploration_norm=l3"], "l3"),
        (["--exempt=no_such_layer"], "no_such_layer"),
        (["--include=stem", "--exempt=stem"], "stem"),
        (["--block=3"], "3"),
    ],
)
def test_scope_error_is_one_sentence_and_leaves_no_folder(
    capsys, tmp_path, arguments, received
):
    folder = tmp_path / "run"
    flags = ["train.py", "--nodeterministic", f"--run_dir={folder}", *arguments]
    assert train.main(flags) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert received in said
    assert not folder.exists()


def test_file_instead_of_the_method_folder_is_reported(capsys, tmp_path):
    flags = ["train.py", "--nodeterministic", f"--run_dir={tmp_path}", "--steps=1"]
    with run_folder.claim(tmp_path, train.resolved(launch_flags.parse(flags))):
        (tmp_path / "topkast").write_text("mine")
    assert train.main(flags) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path}/topkast" in said and "last checkpoint" in said
    assert said.startswith("error: ") and said.count("\n") == 1
    assert (tmp_path / "topkast").read_text() == "mine"


@pytest.fixture(scope="module")
def reduced(launch, root, tmp_path_factory):
    """The quickstart, narrower and shorter: the ended process and its folder."""
    folder = tmp_path_factory.mktemp("quickstart")
    flagfile = root / "launch" / "flagfiles" / "quickstart.cfg"
    ended = launch(f"--flagfile={flagfile}", "--width=0.5", "--epochs=3", cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return ended, folder / "runs" / "quickstart"


@pytest.mark.slow
def test_quickstart_prints_lines_and_a_table_and_no_noise(reduced):
    ended, _ = reduced
    assert ended.stderr == ""
    assert sum("  step " in line for line in ended.stdout.splitlines()) == 6
    (heads,) = [
        x for x in ended.stdout.splitlines() if x.split() == ["dense", "topkast"]
    ]
    assert heads
    for row in ("test accuracy", "sparsified layers: forward", "parameters kept"):
        assert row in ended.stdout
    text = " ".join(ended.stdout.split())  # its lines may break anywhere
    assert "elsewhere sparsity is simulated by masks" in text
    assert "FLOPs are counted, not measured" in text


@pytest.mark.slow
def test_quickstart_writes_results_metrics_and_models(reduced):
    _, folder = reduced
    with open(folder / "results.csv", newline="") as file:
        dense, sparse = csv.DictReader(file)
    assert float(dense["training_flops_ratio"]) == 1
    assert (sparse["seed"], sparse["fwd"], sparse["bwd"]) == ("0", "0.9", "0.8")
    assert (dense["seed"], dense["fwd"], dense["sparsity"]) == ("0", "", "")
    assert sparse["exempt"] == "first,last" and sparse["dataset"] == "digits"
    assert float(dense["exploration_loss"]) == 0 < float(sparse["exploration_loss"])
    assert float(dense["forward_sparsity"]) == 0
    assert float(sparse["forward_sparsity"]) == pytest.approx(0.9, abs=0.01)
    assert float(sparse["backward_sparsity"]) == pytest.approx(0.8, abs=0.01)
    assert float(sparse["training_flops_ratio"]) < 0.35
    assert int(sparse["kept_parameters"]) < int(dense["kept_parameters"]) / 4
    for method in ("dense", "topkast"):
        with open(folder / method / "metrics.csv", newline="") as file:
            found = list(csv.DictReader(file))
        assert [row["epoch"] for row in found] == ["1", "2", "3"]
        assert (folder / method / "model.keras").is_file()
        assert list((folder / method / "events").iterdir())
    assert found[-1]["test_accuracy"] == sparse["test_accuracy"]


def test_layer_without_native_kernels_is_one_sentence(launch_forked, tmp_path):
    ended = launch_forked(
        *("--dataset=digits", "--model=resnet8", "--kernels=native", "--steps=2"),
        *("--method=swat", "--backward_sparse=activations"),
        f"--run_dir={tmp_path / 'run'}",
    )
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert "Expected a layer that has native kernels" in line
    assert "no native kernel for these operands" in line
    assert line.endswith("See --kernels.")
