"""The command that plans a run: its output and its error messages."""

import json
import subprocess
import sys

import pytest

from launch import plan
from launch.support.errors import UserError
from tests.launch.plans import ROOT, settings_of


def message(*arguments):
    with pytest.raises(UserError) as caught:
        plan.run(settings_of(*arguments))
    said = str(caught.value)
    assert "\n" not in said
    return said


def run(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / "plan.py"), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_command_is_quiet_and_gives_json(tmp_path):
    done = run("--json", "--device_flops=1e12", "--device_bandwidth=1e11", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert said["parameters"]["all"]["dense"] == 77_754
    assert said["seconds"]["sparse"]["compute"] < said["seconds"]["dense"]["compute"]
    assert not list(tmp_path.iterdir())


def test_error_is_one_sentence_with_code_2(capsys):
    assert plan.main(["plan.py", "--modle=resnet8"]) == 2
    assert capsys.readouterr().err == (
        "error: unknown flag --modle; did you mean --model?\n"
    )


def test_help_has_examples(capsys):
    assert plan.main(["plan.py", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--device_bandwidth" in said
    assert said.count("python launch/plan.py") == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--model=resnet9",), "did you mean resnet"),
        (("--dataset=words",), "Expected --vocabulary, the number of different tokens"),
        (("--dataset=bytes",), "Expected --steps, as the length"),
        (("--dataset=words", "--vocabulary=9"), "Expected --steps, as the length"),
        (("--replicas=3",), "Expected --batch_size to be a multiple of the devices"),
        (
            ("--strategy=mirrored", "--devices=2", "--replicas=4"),
            "without --devices. Received: --replicas=4, --devices=2",
        ),
        (("--layers=2",), "Expected no --layers for --dataset=digits"),
        (("--dataset=python", "--classes=2"), "Expected no --classes"),
        (("--dataset=python", "--d_model=7"), "Expected `d_model` to be even."),
        (("--device_flops=0",), "Expected --device_flops to be above 0. Received: 0.0"),
        (("--fwd=0.5", "--bwd=0.7"), "Received: --fwd=0.5, --bwd=0.7"),
        (("--exempt=zzz",), "Expected each regex of `exempt` to match a weight."),
        (("--studies=none", "--seeds=0"), "Expected --studies to be one of"),
    ],
)
def test_errors_name_the_received_value(arguments, expected):
    assert expected in message(*arguments)
