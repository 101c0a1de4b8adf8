"""Many devices and parts of a batch: the same training as one device in one piece."""

import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import config

from launch import callbacks
from launch import train as launch_train
from launch.config import flags as launch_flags
from launch.config import resolve
from launch.data.shares import share
from launch.distribute import replicas, strategies
from launch.run import training
from launch.run.loop import Loop
from launch.support.errors import UserError
from launch.tasks import task_of
from tests import zoo
from tests.launch import plain_model
from tests.launch.runs import assert_close, rows, write_text
from topkast_tf.compat import raw_variable
from topkast_tf.variables.components import components

IMAGES = (
    *("--dataset=digits", "--model=plain", "--steps=7", "--batch_size=128"),
    *("--evaluate_every=4", "--learning_rate=0.05", "--dynamics_every=2"),
)
METHODS = {
    "dense": (),
    "topkast": ("--fwd=0.8", "--bwd=0.6", "--refresh_every=2"),
    # Thresholds of each example alone do not depend on who has the others.
    "swat": ("--sparsity=0.8", "--activations_per=sample", "--errors=0.5")
    + ("--errors_per=sample",),
    "rigl": (
        "--sparsity=0.8",
        "--update_every=2",
        "--update_until=5",
        "--drop_noise=0",
    ),
}


@pytest.fixture(autouse=True)
def _one_mirrored_strategy(monkeypatch):
    plain_model.register()
    monkeypatch.setattr(strategies, "_mirrored", lambda count: zoo.two_devices())


def settings(*arguments):
    return resolve.resolved(launch_flags.parse(["train.py", *arguments]))


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
        ("swat", "--strategy=mirrored"),
        ("topkast", "--accumulate=4"),
        ("rigl", "--strategy=mirrored"),
        ("rigl", "--accumulate=4"),
        pytest.param("dense", "--strategy=mirrored", marks=pytest.mark.slow),
        pytest.param("dense", "--accumulate=4", marks=pytest.mark.slow),
        pytest.param("swat", "--accumulate=4", marks=pytest.mark.slow),
    ],
)
def test_the_same_as_one_device_in_one_piece(alone, method, how, tmp_path):
    """Clipped by the norm of the whole gradient, not by that of a part of it."""
    arguments = (*IMAGES, *METHODS[method], "--clip_norm=0.5", how)
    assert_close(trained(tmp_path / "run", method, *arguments), alone(method))


def test_totals_are_there_before_the_step_that_adds_to_them(tmp_path):
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
def test_metrics_of_parts_resume_to_the_bit(tmp_path):
    """What was summed before comes first: sums of many parts depend on their order."""
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
def test_four_devices_are_the_same_as_one(alone, tmp_path):
    """In a process of its own, as the devices of one are divided up once."""
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
def test_clipping_is_of_what_is_small_enough_to_matter(alone, tmp_path):
    """The test above would not see a clip that does nothing."""
    found = trained(tmp_path / "run", "dense", *IMAGES)[0].get_weights()
    clipped = alone("dense")[0].get_weights()
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(found, clipped, strict=True))


@pytest.mark.slow
def test_both_together_and_dense_reduction_are_the_same_too(alone, tmp_path):
    arguments = (*IMAGES, *METHODS["topkast"], "--clip_norm=0.5", "--strategy=mirrored")
    both = trained(tmp_path / "both", "topkast", *arguments, "--accumulate=2")
    assert_close(both, alone("topkast"))
    dense = trained(tmp_path / "dense", "topkast", *arguments, "--reduce=dense")
    assert_close(dense, alone("topkast"))


# --- The loop beside `fit` -----------------------------------------------------------


class Heard(keras.callbacks.Callback):
    """Writes down what it is told, with the names of the logs."""

    def __init__(self):
        super().__init__()
        self.events = []

    def __getattribute__(self, name):
        if not name.startswith("on_"):
            return super().__getattribute__(name)

        def note(*arguments, logs=None):
            *place, logs = (*arguments, logs) if logs is not None else arguments
            self.events.append((name, tuple(place), sorted(logs or {})))

        return note


def fitted(method, by_loop):
    plain_model.register()
    task = task_of(settings(*IMAGES, *METHODS[method], f"--method={method}"))
    task.load()
    model = training.build(task, method)
    heard = Heard()
    if by_loop:
        Loop(model).fit(
            lambda shard: task.training_batches(0, 6, shard),
            task.evaluation_batches,
            first_round=2,
            rounds=2,
            round_steps=3,
            callbacks=[heard],
        )
    else:
        model.fit(
            task.training_batches(0, 6),
            validation_data=task.evaluation_batches(),
            initial_epoch=2,
            epochs=4,
            steps_per_epoch=3,
            shuffle=False,
            callbacks=[heard],
            verbose=0,
        )
    return model, heard.events


@pytest.fixture
def deterministic():
    """Sums in one order, which TensorFlow promises only so."""
    tf.config.experimental.enable_op_determinism()
    yield
    config.disable_op_determinism()


@pytest.mark.parametrize(
    "method",
    [
        "topkast",
        pytest.param("swat", marks=pytest.mark.slow),
        pytest.param("dense", marks=pytest.mark.slow),
    ],
)
def test_the_loop_does_what_fit_does_to_the_bit(deterministic, method):
    (ours, heard), (theirs, told) = (
        fitted(method, by_loop) for by_loop in (True, False)
    )
    assert heard == told
    assert len(heard) == 2 * 3 * 2 + 2 * 2 + 2 * 4 + 2
    for mine, yours in zip(
        ours.variables + ours.optimizer.variables,
        theirs.variables + theirs.optimizer.variables,
        strict=True,
    ):
        assert mine.numpy().tobytes() == yours.numpy().tobytes(), mine.path


# --- Text ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Flags of a small language model on a text of few letters, without dropout."""
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
def test_each_part_of_a_text_has_its_memory(text, how, tmp_path):
    whole = trained(tmp_path / "whole", "topkast", *text)
    assert_close(trained(tmp_path / "run", "topkast", *text, *how), whole)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["text", "images"])
def test_mirrored_run_resumes_to_the_bit(launch, text, what, tmp_path):
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


def test_statistics_become_their_mean_on_all_replicas():
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


# --- The rows of a worker ------------------------------------------------------------


def test_shares_are_the_batch():
    x, y = tf.range(7), tf.range(7) * 2
    for count in (1, 2, 3, 9):
        parts = [share((x, y), (i, count)) for i in range(count)]
        np.testing.assert_array_equal(tf.concat([a for a, _ in parts], 0), x)
        np.testing.assert_array_equal(tf.concat([b for _, b in parts], 0), y)


def test_workers_evaluate_all_images_once():
    task = task_of(settings(*IMAGES))
    task.load()
    whole = next(iter(task.evaluation_batches()))
    parts = [next(iter(task.evaluation_batches((i, 3)))) for i in range(3)]
    for found, expected in zip(zip(*parts, strict=True), whole, strict=True):
        np.testing.assert_array_equal(tf.concat(found, 0), expected)
    assert len(whole[0]) == 360


def test_workers_read_their_rows_of_each_batch():
    task = task_of(settings(*IMAGES))
    task.load()
    for whole, *parts in zip(
        task.training_batches(9, 4),
        *(task.training_batches(9, 4, (i, 2)) for i in range(2)),
        strict=True,
    ):
        for expected, *found in zip(whole, *parts, strict=True):
            np.testing.assert_array_equal(tf.concat(found, 0), expected)


# --- Flags ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--strategy=many"],
            "one of none, mirrored, multiworker, tpu. Received: 'many'",
        ),
        (["--reduce=sparse"], "one of packed, dense. Received: 'sparse'"),
        (["--devices=2"], "no --devices but with --strategy=mirrored"),
        (["--strategy=mirrored", "--tpu=a"], "no --tpu but with --strategy=tpu"),
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
def test_flags_that_do_not_fit_together(monkeypatch, arguments, expected):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match=expected):
        settings(*arguments)


def test_a_worker_without_a_cluster_is_one_sentence(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match="Expected TF_CONFIG in the environment"):
        launch_train.run(settings("--strategy=multiworker"))


def test_devices_that_are_there_but_do_not_divide_the_batch():
    with pytest.raises(UserError, match="a multiple of 2: 2 devices"):
        strategies.start(settings("--strategy=mirrored", "--batch_size=63"))


def test_a_tpu_that_is_not_there_is_one_sentence(launch, tmp_path):
    ended = launch("--strategy=tpu", f"--run_dir={tmp_path}/run")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: Expected a TPU with --strategy=tpu")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
