"""The launcher's own loop equals Keras's `fit` bitwise."""

import keras
import pytest
import tensorflow as tf
from tensorflow.python.framework import config

from launch.run import training
from launch.run.loop import Loop
from launch.tasks import task_of
from tests.launch import plain_model
from tests.launch.runs import IMAGES, METHODS, settings


class Heard(keras.callbacks.Callback):
    """Records its calls, with the names of the logs."""

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
    """Enables deterministic ops, so that sums have a fixed order."""
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
def test_loop_equals_fit_bitwise(deterministic, method):
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
