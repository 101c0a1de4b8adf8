"""Runs with mask dynamics: a small model, its fits, and the CSV that they write."""

import csv
import functools
import math

import keras

from tests.small_models import build_optimizer
from topkast_tf import topkast_scope
from topkast_tf.analysis.mask_csv import ALL

BATCH = 16


def small_model(seed=0, jit_compile=False, **compiled):
    keras.utils.set_random_seed(seed)
    with topkast_scope(fwd=0.8, bwd=0.5, refresh_every=2, exploration=1e-2):
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Conv2D(4, 3, name="conv"),
                keras.layers.Flatten(),
                keras.layers.Dense(10, name="logits"),
            ],
            name="model",
        )
    model.compile(
        compiled.pop("optimizer", None) or keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
        **compiled,
    )
    return model


@functools.cache
def _compiled(which):
    model = small_model()
    build_optimizer(model)
    return model, [variable.numpy() for variable in model.optimizer.variables]


@functools.cache
def _weights(seed):
    return small_model(seed).get_weights()


def as_new(which=0, seed=0):
    """A model, compiled once, reset to the state that `small_model` returns.

    Each compiled model traces its step again. A resumed run takes another `which`, as
    it would run in another process.
    """
    model, optimizer = _compiled(which)
    model.set_weights(_weights(seed))
    for variable, value in zip(model.optimizer.variables, optimizer, strict=True):
        variable.assign(value)
    keras.utils.set_random_seed(seed)
    return model


def fit(model, digits, *callbacks, epochs=1, batches=12):
    images, labels = (part[: batches * BATCH] for part in digits)
    model.fit(
        images,
        labels,
        BATCH,
        epochs,
        verbose=0,
        shuffle=False,
        callbacks=list(callbacks),
    )


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def column(rows, name, weight=ALL):
    cells = [row[name] for row in rows if row["weight"] == weight]
    return [float(cell) if cell else math.nan for cell in cells]
