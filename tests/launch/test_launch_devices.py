"""Several devices, and batches in parts: the same training as one device."""

import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from launch import callbacks
from launch.distribute import replicas, strategies
from launch.run import training
from launch.tasks import task_of
from tests import zoo
from tests.launch import plain_model
from tests.launch.runs import IMAGES, METHODS, assert_close, rows, settings, write_text
from topkast_tf.compat import raw_variable
from topkast_tf.variables.components import components


@pytest.fixture(autouse=True)
def _one_mirrored_strategy(monkeypatch):
    plain_model.register()
    monkeypatch.setattr(strategies, "_mirrored", lambda count: zoo.two_devices())


def trained(folder, method, *arguments):
    """The model and the rows of metrics of a run in this process."""
    folder.mkdir(exist_ok=True)
    task = task_of(settings(f"--method={method}", *arguments, f"--run_dir={folder}"))
    task.load()
    training.train(task, method)
    path = folder / method / "checkpoints" / "step-00000007.keras"
    return keras.models.load_model(path), rows(folder / method)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Each method's run on one device, by Keras's `fit`."""
    plain_model.register()
    root = tmp_path_factory.mktemp("alone")
    found = {}

    def of(method):
        if method not in found:
            arguments = (*IMAGES, *METHODS[method], "--clip_norm=0.5")
            found[method] = trained(root / method, method, *arguments)
        return found[method]

    return of


@pytest.mark.parametrize(
    ("method", "how"),
    [
        ("topkast", "--strategy=mirrored"),
        pytest.param("rigl", "--strategy=mirrored", marks=pytest.mark.slow),
        pytest.param("rigl", "--accumulate=4", marks=pytest.mark.slow),
        pytest.param("dense", "--strategy=mirrored", marks=pytest.mark.slow),
        pytest.param("dense", "--accumulate=4", marks=pytest.mark.slow),
        pytest.param("topkast", "--accumulate=4", marks=pytest.mark.slow),
        pytest.param("swat", "--strategy=mirrored", marks=pytest.mark.slow),
        pytest.param("swat", "--accumulate=4", marks=pytest.mark.slow),
    ],
)
def test_training_equals_one_device_with_whole_batches(alone, method, how, tmp_path):
    """Clipped by the norm of the whole gradient, not by that of a part of it."""
    arguments = (*IMAGES, *METHODS[method], "--clip_norm=0.5", how)
    assert_close(trained(tmp_path / "run", method, *arguments), alone(method))


def test_metric_totals_are_restored_before_the_first_step(tmp_path):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.train_on_batch(np.ones((2, 1)), np.ones((2, 1)))
    model.reset_metrics()
    of_a_run = {"epoch_steps": 5, "round_steps": 5, "total_steps": 5}
    recorder = callbacks.Recorder(tmp_path, {"metrics": [3.0, 2.0]}, (), **of_a_run)
    recorder.set_model(model)
    for _ in range(2):
        recorder.on_train_batch_begin(0)
        assert [float(v.numpy()) for v in model.metrics_variables] == [3.0, 2.0]


@pytest.mark.slow
def test_metrics_of_accumulated_batches_resume_bitwise(tmp_path):
    """The saved total is added first: the rounding of a sum depends on its order."""
    arguments = (
        *IMAGES,
        "--accumulate=32",
        "--evaluate_every=7",
        "--checkpoint_steps=2",
    )
    whole, again = tmp_path / "whole", tmp_path / "again"
    trained(whole, "dense", *arguments)
    folder = again / "dense" / "checkpoints"
    folder.mkdir(parents=True)
    shutil.copy(whole / "dense" / "checkpoints" / "step-00000006.keras", folder)
    trained(again, "dense", *arguments)
    assert rows(again / "dense") == rows(whole / "dense")


@pytest.mark.slow
def test_four_devices_train_as_one(alone, tmp_path):
    """In its own process, as the devices of a process are configured once."""
    arguments = (*IMAGES, *METHODS["topkast"], "--clip_norm=0.5")
    found = subprocess.run(
        [sys.executable, plain_model.__file__, *arguments, f"--run_dir={tmp_path}/run"]
        + ["--strategy=mirrored", "--devices=4"],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert "topkast: 4 replicas" in found.stdout
    folder = tmp_path / "run" / "topkast"
    model = keras.models.load_model(folder / "checkpoints" / "step-00000007.keras")
    assert_close((model, rows(folder)), alone("topkast"))


@pytest.mark.slow
def test_clip_norm_is_small_enough_to_clip(alone, tmp_path):
    """Otherwise the tests above would also pass without clipping."""
    found = trained(tmp_path / "run", "dense", *IMAGES)[0].get_weights()
    clipped = alone("dense")[0].get_weights()
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(found, clipped, strict=True))


@pytest.mark.slow
def test_mirrored_accumulation_and_dense_reduction_train_as_one(alone, tmp_path):
    arguments = (*IMAGES, *METHODS["topkast"], "--clip_norm=0.5", "--strategy=mirrored")
    both = trained(tmp_path / "both", "topkast", *arguments, "--accumulate=2")
    assert_close(both, alone("topkast"))
    dense = trained(tmp_path / "dense", "topkast", *arguments, "--reduce=dense")
    assert_close(dense, alone("topkast"))


# --- Text ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Flags of a small language model, without dropout, on a text of few letters."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    write_text(path, draws=600, size=1300)
    return (
        *("--dataset=bytes", f"--data_dir={path}", "--model=txl_tiny", "--steps=7"),
        *(f"--text_cache={path.parent / 'cache'}", "--batch_size=4", "--dropout=0"),
        *("--segment_length=16", "--memory_length=8", "--evaluate_every=4"),
        *("--evaluation_batch=2", "--learning_rate=0.01", "--clip_norm=0.5"),
        *("--fwd=0.5", "--bwd=0.3", "--dynamics_every=0", "--optimizer=sgd"),
    )


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(("--strategy=mirrored",), marks=pytest.mark.slow),
        pytest.param(("--accumulate=2",), marks=pytest.mark.slow),
        pytest.param(("--strategy=mirrored", "--accumulate=2"), marks=pytest.mark.slow),
    ],
    ids=["mirrored", "accumulate", "both"],
)
def test_each_part_of_a_text_batch_has_its_memory(text, how, tmp_path):
    whole = trained(tmp_path / "whole", "topkast", *text)
    assert_close(trained(tmp_path / "run", "topkast", *text, *how), whole)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["text", "images"])
def test_mirrored_run_resumes_bitwise(launch, text, what, tmp_path):
    """Memories, statistics, random states and running means of both replicas."""
    arguments = (*text, "--dropout=0.2", "--attention_dropout=0.1")
    if what == "images":
        arguments = (*IMAGES, "--model=resnet8", "--width=0.25", "--bwd=0.6")
    arguments = (*arguments, "--strategy=mirrored", "--checkpoint_steps=3")
    whole, folder = tmp_path / "whole", tmp_path / "run"
    ended = launch(*arguments, f"--run_dir={whole}")
    assert ended.returncode == 0, ended.stderr
    shutil.copytree(whole, folder)
    (folder / "topkast" / "result.json").unlink()
    (folder / "topkast" / "checkpoints" / "step-00000007.keras").unlink()
    ended = launch(*arguments, f"--run_dir={folder}")
    assert ended.returncode == 0, ended.stderr
    assert "resumed after step 6" in ended.stdout
    assert rows(folder / "topkast") == rows(whole / "topkast")
    models = [
        keras.models.load_model(run / "topkast/checkpoints/step-00000007.keras")
        for run in (whole, folder)
    ]
    ours, theirs = (m.variables + m.optimizer.variables for m in models)
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine.numpy().tobytes() == yours.numpy().tobytes(), mine.path


def test_statistics_are_averaged_over_replicas():
    strategy = zoo.two_devices()
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(2),
            ]
        )
    raw = raw_variable(model.layers[0].moving_mean)
    for copy, value in zip(components(raw), ([1.0, 2, 3], [3.0, 2, 5]), strict=True):
        copy.assign(value)
    before = [w.numpy() for w in model.trainable_variables]
    replicas.average_statistics(model)
    for copy in components(raw):
        np.testing.assert_array_equal(copy, [2, 2, 4])
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
