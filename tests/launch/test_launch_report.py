"""The text at the end of a run: files and commands that can be pasted."""

import io
import pathlib
import shlex

from launch.storage import report
from launch.tasks.metrics import METRICS
from tests.launch.screens import ESCAPE


def result(method):
    shares = (
        *("forward_sparsity", "backward_sparsity", "forward_sparsity_network"),
        *("backward_sparsity_network", "inference_flops_ratio", "step_ms", "seconds"),
        *("training_flops_ratio", "test_accuracy", "test_top5", "test_loss"),
        *("train_accuracy", "train_loss"),
    )
    counts = ("parameters", "kept_parameters", "inference_flops", "step")
    found = {**dict.fromkeys(shares, 0.5), **dict.fromkeys(counts, 7)}
    return {**found, "training_flops_total": 7, "method": method}


def test_report_names_files_and_commands_that_can_be_pasted(
    screen, monkeypatch, tmp_path, plain_terminal
):
    monkeypatch.chdir(tmp_path)
    run = pathlib.Path("runs/my run")
    results = [result("dense"), result("topkast")]
    said = report.text(run, results, METRICS["image"], io.StringIO())
    assert ESCAPE not in said
    files, commands = said.split("Files:\n")[1].split("What next:\n")
    named = [shlex.split(x)[0] for x in files.splitlines() if x.startswith("  ")]
    assert "runs/my run/topkast/model.keras" in named
    assert named[:2] == ["runs/my run/results.csv", "runs/my run/flags.cfg"]
    *scripts, board = map(shlex.split, commands.splitlines())
    for _, script, folder in scripts:
        assert pathlib.Path(script).is_file() and folder == "runs/my run"
    assert [pathlib.Path(s).name for _, s, _ in scripts] == ["report.py", "evaluate.py"]
    assert board == ["tensorboard", "--logdir", "runs/my run"]
    absolute = report.text(tmp_path / run, results, METRICS["image"], io.StringIO())
    assert absolute == said
    coloured = report.text(run, results, METRICS["image"], screen.out)
    assert coloured.count(ESCAPE) == 2


def test_report_says_what_a_saved_model_needs(tmp_path, plain_terminal):
    def loading(*methods):
        results = [result(method) for method in methods]
        said = report.text(tmp_path, results, METRICS["image"], io.StringIO())
        return next(x for x in said.splitlines() if x.startswith("model.keras"))

    assert loading("dense", "topkast") == "model.keras loads with Keras alone."
    assert loading("dense", "dsg") == (
        "model.keras loads with Keras alone, that of dsg with swat_tf imported."
    )
