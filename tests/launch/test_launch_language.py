"""Language models through the command line: trained, resumed, evaluated."""

import csv
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from launch import evaluate
from launch.models import transformer_xl  # noqa: F401, registers the class
from launch.support.errors import UserError
from launch.tasks import task_of
from tests.launch.runs import settings

STEPS = 14


@pytest.fixture(scope="module")
def arguments(text):
    return [
        *("--dataset=bytes", f"--data_dir={text}", "--model=txl_tiny"),
        *(f"--text_cache={text.parent / 'cache'}", "--batch_size=5", "--dropout=0.1"),
        *("--segment_length=16", "--memory_length=8", f"--steps={STEPS}"),
        *("--evaluation_batch=2", "--learning_rate=0.01", "--clip_norm=0.5"),
        *("--fwd=0.5", "--bwd=0.3", "--checkpoint_steps=4", "--dynamics_every=0"),
    ]


@pytest.fixture(scope="module")
def finished(launch_forked, arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("language") / "run"
    ended = launch_forked(*arguments, f"--run_dir={folder}")
    assert ended.returncode == 0, ended.stderr
    return folder, ended.stdout


def test_run_ends_with_its_metrics(finished):
    folder, said = finished
    with open(folder / "topkast" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["10", "14"]
    last = rows[-1]
    nll = float(last["valid_loss"])
    assert float(last["valid_bpc"]) == pytest.approx(nll / np.log(2), rel=1e-5)
    assert float(last["valid_perplexity"]) == pytest.approx(np.exp(nll), rel=1e-4)
    assert f"{float(last['valid_bpc']):.4f}" in said
    assert float(last["forward_sparsity"]) == pytest.approx(0.5, abs=0.01)


def test_resumed_run_equals_uninterrupted_run(finished, launch, arguments, tmp_path):
    """From inside an epoch: memory, dropout and text position are restored."""
    whole, _ = finished
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "topkast" / "result.json").unlink()
    last = "step-00000014.keras"
    (folder / "topkast" / "checkpoints" / last).unlink()
    ended = launch(*arguments, f"--run_dir={folder}")
    assert ended.returncode == 0, ended.stderr
    assert "resumed after step 12" in ended.stdout
    models = [
        keras.models.load_model(run / "topkast" / "checkpoints" / last)
        for run in (whole, folder)
    ]
    ours, theirs = (m.variables + m.optimizer.variables for m in models)
    assert len(ours) == len(theirs) > 50
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine.numpy().tobytes() == yours.numpy().tobytes(), mine.path


def test_evaluation_with_memories_and_of_the_stripped_model(finished):
    folder, _ = finished
    asked = evaluate._parse(["evaluate.py", str(folder), "--memory=0,8"])[1]
    lines = evaluate.run(folder, asked).splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == [
        "topkast, memory 0",
        "topkast, memory 8",
    ]
    stripped = evaluate._parse(["e", str(folder), "--stripped", "--part=valid"])[1]
    with open(folder / "topkast" / "metrics.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    shown = evaluate.run(folder, stripped).splitlines()[-1].split()
    assert float(shown[1]) == pytest.approx(float(last["valid_bpc"]), abs=1e-3)


def test_evaluation_of_the_best_checkpoint(finished):
    folder, _ = finished
    with open(folder / "topkast" / "metrics.csv", newline="") as file:
        best = min(csv.DictReader(file), key=lambda row: float(row["valid_bpc"]))
    arguments = ["e", str(folder), "--checkpoint=best", "--part=valid"]
    shown = evaluate.run(folder, evaluate._parse(arguments)[1]).splitlines()[-1]
    assert float(shown.split()[1]) == pytest.approx(float(best["valid_bpc"]), abs=1e-3)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["--part=train"], "one of test, valid. Received: 'train'"),
        (["--memory=many"], "whole numbers"),
        (["--nothing"], "nothing"),
        (["--checkpoint=first"], "one of last, best. Received: 'first'"),
        (["--checkpoint=best", "--stripped"], "--stripped without --checkpoint"),
    ],
)
def test_invalid_evaluation_flags_are_reported(finished, capsys, asked, expected):
    folder, _ = finished
    assert evaluate.main(["evaluate.py", str(folder), *asked]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert expected in said


def test_evaluation_on_another_text_is_refused(finished, capsys, tmp_path):
    folder, _ = finished
    other = tmp_path / "other.txt"
    other.write_bytes(bytes(range(65, 91)) * 20)
    asked = [str(folder), f"--data_dir={other}"]
    assert evaluate.main(["evaluate.py", *asked]) == 2
    said = capsys.readouterr().err
    assert "was trained on" in said and "Received: other data" in said


def test_evaluation_errors_are_raised_without_tensorflow(finished, root):
    folder, _ = finished
    code = (
        "import sys; from launch import evaluate\n"
        "assert evaluate.main(sys.argv) == 2\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(folder), "--data_dir=none"],
        cwd=root,
        check=True,
        timeout=60,
    )


def test_evaluation_of_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert evaluate.main(["evaluate.py", str(tmp_path)]) == 2
    assert "Expected the folder of a run" in capsys.readouterr().err


def test_evaluate_runs_as_a_program(root):
    ended = subprocess.run(
        [sys.executable, str(root / "launch" / "evaluate.py"), "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0
    assert ended.stdout.count("python launch/evaluate.py") == 4


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["--train_examples=9"], "no --train_examples for --dataset=python"),
        (["--model=resnet8"], "to be one of enwik8_base"),
        (["--sparse_embeddings", "--method=swat"], "with Top-KAST"),
        (["--sparse_embeddings", "--include=x"], "without --include"),
    ],
)
def test_flags_incompatible_with_text_are_refused(asked, expected):
    with pytest.raises(UserError, match=expected):
        settings("--dataset=python", *asked)


def test_text_flags_are_refused_for_images():
    with pytest.raises(UserError, match="no --memory_length for --dataset=digits"):
        settings("--dataset=digits", "--memory_length=3")


def test_configuration_follows_the_flags_and_the_text(arguments):
    task = task_of(settings(*arguments, "--evaluation_memory=20"))
    assert task.config.vocabulary == task.text.vocabulary_size == 5
    assert (task.config.segment_length, task.config.memory_length) == (16, 8)
    assert task.config.evaluation_memory_length == 20
    assert task.config.dropout == 0.1


def test_sparse_embeddings(arguments):
    from launch.run import sparsity, training

    asked = settings(*arguments, "--sparse_embeddings")
    paths = sparsity.sparse_paths(training.build(task_of(asked), "topkast"))
    assert any("embeddings_0" in path for path in paths)
    asked = settings(*arguments)
    paths = sparsity.sparse_paths(training.build(task_of(asked), "topkast"))
    assert not any("embeddings_0" in path for path in paths)


def test_weight_paths_do_not_depend_on_earlier_models(arguments):
    """Otherwise a run after its dense twin would have other names in its files."""
    task = task_of(settings(*arguments))
    task.load()
    first, second = ([v.path for v in task.build().weights] for _ in range(2))
    assert first == second
