"""Scopes opened and closed: nested, in threads, reused, around copies of layers."""

import threading

import keras
import numpy as np
import pytest
from keras import layers

import topkast_tf as tk
from tests.small_models import scope, three_layers


def test_inner_scope_wins_and_outer_is_restored():
    with scope():
        a = layers.Dense(10)
        with scope(fwd=0.5, bwd=0.5):
            b = layers.Dense(10)
        c = layers.Dense(10)
        model = keras.Sequential([keras.Input((10,)), a, b, c])
    assert [weight.fwd for weight in tk.sparse_weights(model)] == [0.9, 0.5, 0.9]


@pytest.mark.parametrize(
    "arguments",
    [
        {"exempt": "first"},
        {"exempt": "last"},
        {"exempt": "backward_.*/kernel"},
        {"distribution": "erk"},
        {"distribution": "global"},
    ],
    ids=str,
)
def test_layers_copied_by_a_wrapper_belong_to_the_scope(arguments, tmp_path):
    with scope(**arguments) as opened:
        original = layers.LSTM(4, name="cell")  # its user may hold on to it
        model = keras.Sequential(
            [
                keras.Input((5, 8)),
                layers.Dense(8),
                layers.Bidirectional(original),
                layers.Dense(3),
            ]
        )
    assert opened._finished
    assert tk.sparse_weights(model) == [w for w in opened.weights if not w.exempt]
    rows = tk.summary(model).rows
    assert sum("_cell/" in row.path for row in rows) == 4 - ("backw" in str(arguments))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    others = [loaded]
    if arguments.get("distribution") != "global":
        others.append(keras.models.clone_model(model))
        others[1].set_weights(model.get_weights())
    for other in others:
        for one, same in zip(
            tk.sparse_weights(model), tk.sparse_weights(other), strict=True
        ):
            assert (one.fwd, one.bwd) == (same.fwd, same.bwd)
        x = np.random.default_rng(0).normal(size=(2, 5, 8))
        np.testing.assert_array_equal(model(x), other(x))
    if arguments.get("distribution") == "global":
        weights = tk.sparse_weights(loaded)
        assert weights[0].peers() == weights


def test_copy_of_an_unbuilt_layer_of_a_closed_scope_is_refused():
    with scope(exempt="first"):
        unbuilt = layers.Dense(3)
        config, cls = unbuilt.get_config(), type(unbuilt)
        keras.Sequential([keras.Input((4,)), layers.Dense(5), layers.Dense(2)])
    with pytest.raises(ValueError, match="built before it is saved"):
        cls.from_config(config)


def test_an_exception_closes_the_scope():
    original = layers.Layer.__new__
    with pytest.raises(RuntimeError, match="mine"), scope():
        raise RuntimeError("mine")
    assert layers.Layer.__new__ is original
    model = three_layers()
    assert tk.sparse_weights(model) == []
    assert type(model.layers[0]) is layers.Dense


def test_other_threads_are_not_affected():
    made = []
    with scope():
        thread = threading.Thread(target=lambda: made.append(three_layers()))
        thread.start()
        thread.join()
        three_layers()
    assert tk.sparse_weights(made[0]) == []


# One scope object, used more than once.


def test_scope_object_can_be_reused():
    again = scope(exempt="first")
    models, opened = [], []
    for _ in range(2):
        with again as current:
            models.append(three_layers())
        opened.append(current)
    assert opened[0] is not opened[1]
    for model, current in zip(models, opened, strict=True):
        assert tk.sparse_weights(model) == current.weights
        assert len(tk.summary(model).rows) == 2


def test_scope_object_can_be_nested_in_itself():
    again = scope()
    with again as outer:
        first = layers.Dense(4)
        with again as inner:
            second = layers.Dense(4)
        third = layers.Dense(4)
        model = keras.Sequential([keras.Input((8,)), first, second, third])
    a, b, c = tk.sparse_weights(model)
    assert outer.weights == [a, c] and inner.weights == [b]


def test_a_scope_object_is_closed_after_an_error():
    again = scope()
    for _ in range(2):
        with pytest.raises(KeyError), again:
            raise KeyError
    assert not tk.summary(three_layers()).rows


def test_a_scope_object_in_two_threads():
    again, both, models, opened = scope(), threading.Barrier(2), {}, {}

    def build(name):
        with again as opened[name]:
            both.wait()
            models[name] = layers.Dense(4)
            models[name].build((None, 8))
            both.wait()

    threads = [threading.Thread(target=build, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in "ab":
        assert tk.sparse_weights(models[name]) == opened[name].weights


def test_a_scope_is_a_decorator():
    @scope(exempt="last")
    def build(width):
        return keras.Sequential(
            [keras.Input((8,)), layers.Dense(width), layers.Dense(2)]
        )

    models = [build(4), build(6)]
    assert [w.shape for m in models for w in tk.sparse_weights(m)] == [(8, 4), (8, 6)]
