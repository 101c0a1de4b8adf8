"""User-supplied masks: used as given, or refused in one sentence."""

import keras
import numpy as np
import pytest

import topkast_tf as tk
from swat_tf import swat_scope


def layer(scope):
    with scope:
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    return model, tk.sparse_weights(model)[0]


def test_given_masks_are_used_in_training():
    model, weight = layer(tk.topkast_scope(0.5, 0.25, refresh_every=100))
    forward = np.arange(24).reshape(6, 4) % 5 == 0
    backward = forward | (np.arange(24).reshape(6, 4) % 7 == 0)
    theta = weight.dense()
    weight.set_masks(forward, backward)
    np.testing.assert_array_equal(weight.forward_mask(), forward)
    np.testing.assert_array_equal(weight.backward_mask(), backward)
    np.testing.assert_array_equal(weight.effective(), np.where(forward, theta, 0))
    tk.freeze(model)
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 6)), np.ones((8, 4)), verbose=0)
    moved = weight.dense() != theta
    assert np.any(moved) and not np.any(moved & ~backward)
    np.testing.assert_array_equal(weight.forward_mask(), forward)


def test_masks_are_saved(tmp_path):
    model, weight = layer(tk.sparse_scope("static", sparsity=0.5))
    mask = np.zeros((6, 4))
    mask[:, 1] = 1
    weight.set_masks(mask)
    model.save(tmp_path / "model.keras")
    [loaded] = tk.sparse_weights(keras.saving.load_model(tmp_path / "model.keras"))
    np.testing.assert_array_equal(loaded.forward_mask(), mask)
    assert loaded.forward_sparsity == 0.75


def test_default_backward_mask():
    _, weight = layer(tk.topkast_scope(0.5, 0.25))
    weight.set_masks(np.eye(6, 4))
    assert weight.backward_mask().sum() == 4
    _, weight = layer(swat_scope(0.5))
    weight.set_masks(np.eye(6, 4))
    assert weight.backward_mask().all() and weight.forward_mask().sum() == 4


@pytest.mark.parametrize(
    ("scope", "forward", "backward", "message"),
    [
        (
            tk.topkast_scope(0.5, 0.2),
            np.ones((4, 6)),
            None,
            r"shape \(6, 4\).*\(4, 6\)",
        ),
        (tk.topkast_scope(0.5, 0.2), np.full((6, 4), 2), None, "zeros and ones"),
        (tk.topkast_scope(0.5, 0.2), np.full((6, 4), "a"), None, "zeros and ones"),
        (tk.topkast_scope(0.5, 0.2), np.zeros((6, 4)), None, "at least one entry"),
        (tk.topkast_scope(0.5, 0.2), np.ones((6, 4)), np.eye(6, 4), "lacks 20"),
        (swat_scope(0.5), np.eye(6, 4), np.eye(6, 4), "updates every entry"),
        (tk.topkast_scope(0.5, 0.5, block=(2, 2)), np.eye(6, 4), None, "whole blocks"),
        (
            tk.topkast_scope(0.5, 0.5, distribution="global"),
            np.eye(6, 4),
            None,
            "common budget",
        ),
    ],
)
def test_invalid_masks_are_refused(scope, forward, backward, message):
    _, weight = layer(scope)
    before = weight.codes()
    with pytest.raises(ValueError, match=message):
        weight.set_masks(forward, backward)
    np.testing.assert_array_equal(weight.codes(), before)
