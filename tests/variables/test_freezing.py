"""Frozen sets do not change."""

import keras
import numpy as np
import pytest
from keras import layers

import topkast_tf as tk
from swat_tf import swat_scope
from tests import zoo
from tests.small_models import build_optimizer

SCOPES = {
    "every step": lambda: tk.topkast_scope(0.9, 0.5),
    "random": lambda: tk.topkast_scope(0.9, 0.5, backward="random", refresh_every=2),
    "until": lambda: tk.topkast_scope(0.9, 0.5, stop_exploring_at=5),
    "global": lambda: tk.topkast_scope(0.9, 0.8, distribution="global"),
    "swat": lambda: swat_scope(0.9),
    "swat stale": lambda: swat_scope(0.9, topk_period=3),
    "swat-m": lambda: swat_scope(0.8, distribution="momentum"),
}
IMAGES, LABELS = zoo.images(zoo.functional, 64), zoo.labels(64)


def small():
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def model_in(scope):
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    with SCOPES[scope]():
        model = small()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1.0, momentum=0.9), loss)
    return model


def train(model):
    model.fit(IMAGES, LABELS, batch_size=16, epochs=3, shuffle=False, verbose=0)


def codes_of(model):
    return [weight.codes() for weight in tk.sparse_weights(model)]


def same(ones, others):
    return all(np.array_equal(a, b) for a, b in zip(ones, others, strict=True))


@pytest.mark.parametrize("scope", SCOPES)
def test_frozen_sets_survive_training_saving_and_new_weights(scope, tmp_path):
    model = model_in(scope)
    if scope != "every step":
        build_optimizer(model)
    model.fit(IMAGES[:32], LABELS[:32], batch_size=16, verbose=0)
    frozen, thetas = codes_of(model), [w.dense() for w in tk.sparse_weights(model)]
    tk.freeze(model)
    train(model)
    assert same(codes_of(model), frozen)
    any_moved = False
    for weight, theta in zip(tk.sparse_weights(model), thetas, strict=True):
        moved = weight.dense() != theta
        any_moved |= np.any(moved)
        if not weight.method.dense_updates:
            assert not np.any(moved & ~weight.backward_mask())
    assert any_moved
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    train(loaded)
    assert same(codes_of(loaded), frozen)
    # The lottery ticket: these sets, other weights, from step 0.
    loaded.set_weights([-v.numpy()[..., ::-1] for v in loaded.weights])
    assert same(codes_of(loaded), frozen)
    assert {w.step for w in tk.sparse_weights(loaded)} == {0}
    train(loaded)
    assert same(codes_of(loaded), frozen)
    tk.refresh(loaded)
    assert not same(codes_of(loaded), frozen)


def test_sets_change_if_not_frozen():
    model = model_in("every step")
    before = codes_of(model)
    train(model)
    assert not same(codes_of(model), before)


def test_a_dense_model_cannot_be_frozen():
    with pytest.raises(ValueError, match="nothing is sparse"):
        tk.freeze(small())
