"""Flags and TF_CONFIG for several devices: valid and refused combinations."""

import pytest

from launch import train as launch_train
from launch.distribute import devices, strategies
from launch.support.errors import UserError
from tests import zoo
from tests.launch.runs import parsed, settings


def test_worker_index_and_count_come_from_tf_config(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", devices.cluster(["a:1", "b:1", "c:1"], 2))
    assert devices.worker_of(parsed()) == (0, 1)
    worker = devices.worker_of(parsed("--strategy=multiworker"))
    assert worker == (2, 3) and not worker.is_chief


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, "in the environment"),
        ("{", "Received: {"),
        ('{"cluster": {"worker": ["a:1"]}}', "'task'"),
        (devices.cluster(["a:1"], 1), "worker 1 is not one of 1"),
        (
            '{"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, '
            '"task": {"type": "worker", "index": 0}}',
            "tasks of other types",
        ),
    ],
)
def test_invalid_tf_config_is_refused(monkeypatch, config, expected):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(UserError, match=expected):
        devices.worker_of(parsed("--strategy=multiworker"))


# --- Strategies ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--strategy=many"],
            "one of none, mirrored, multiworker, tpu. Received: 'many'",
        ),
        (["--reduce=sparse"], "one of packed, dense. Received: 'sparse'"),
        (["--devices=2"], "--devices only with --strategy=mirrored"),
        (["--strategy=mirrored", "--tpu=a"], "--tpu only with --strategy=tpu"),
        (
            ["--strategy=mirrored", "--devices=3"],
            "multiple of 3: workers x --devices x --accumulate. Received: --batch_size=128",
        ),
        (["--accumulate=5"], "multiple of 5"),
        (
            ["--strategy=mirrored", "--jit", "--nodeterministic"],
            "no --jit with --strategy=mirrored",
        ),
    ],
)
def test_incompatible_flags_are_refused(monkeypatch, arguments, expected):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match=expected):
        settings(*arguments)


def test_missing_tf_config_is_reported_in_one_sentence(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match="Expected TF_CONFIG in the environment"):
        launch_train.run(settings("--strategy=multiworker"))


def test_batch_size_must_be_divisible_by_the_devices(monkeypatch):
    monkeypatch.setattr(strategies, "_mirrored", lambda count: zoo.two_devices())
    with pytest.raises(UserError, match="a multiple of 2: 2 devices"):
        strategies.start(settings("--strategy=mirrored", "--batch_size=63"))


def test_missing_tpu_is_reported_in_one_sentence(launch, tmp_path):
    ended = launch("--strategy=tpu", f"--run_dir={tmp_path}/run")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: Expected a TPU with --strategy=tpu")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
