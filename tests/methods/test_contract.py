"""New methods fit the contract without a change of the library.

They are registered here alone: that of docs/extending.md, gradual pruning, and SNIP.
"""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from topkast_tf.core import selection
from topkast_tf.core.schedules import UpdateSchedule
from topkast_tf.methods import GRADIENT, METHODS, Sets, register
from topkast_tf.methods.fixed_sparsity import FixedSparsity


@pytest.fixture(autouse=True)
def _registered_here_alone():
    before = dict(METHODS)
    yield
    for name in set(METHODS) - set(before):
        del METHODS[name]


def largest(scores, forward, backward):
    [codes], finite = selection.nested_sets_by_magnitude([scores], forward, backward)
    return codes, finite


def sets_of(found):
    codes, finite = zip(*found, strict=True)
    return Sets(list(codes), tf.reduce_all(tf.stack(finite)))


def largest_gradients():
    @register
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class LargestGradients(FixedSparsity):
        """That of docs/extending.md, every two steps."""

        name = "largest_gradients"
        inputs = (GRADIENT,)

        @property
        def schedule(self):
            return UpdateSchedule(every=2, first=2)

        def update(self, weights, step):
            return sets_of(
                largest(w.gradient, w.kept_forward, w.kept_backward) for w in weights
            )


def trained(scope, steps, optimizer=None):
    with scope:
        model = keras.Sequential(
            [keras.Input((12,)), keras.layers.Dense(10), keras.layers.Dense(6)]
        )
    model.compile(optimizer or keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(steps, 8, 12)).astype("float32")
    y = np.tanh(x @ rng.normal(size=(12, 6))).astype("float32")
    for a, b in zip(x, y, strict=True):
        model.train_on_batch(a, b)
    return model, x, y


def assert_saved(model, path):
    model.save(path)
    loaded = keras.saving.load_model(path)
    for ours, theirs in zip(*map(tk.sparse_weights, (model, loaded)), strict=True):
        np.testing.assert_array_equal(ours.codes(), theirs.codes())


def test_the_method_of_the_documentation(tmp_path):
    largest_gradients()
    model, *_ = trained(tk.sparse_scope("largest_gradients", sparsity=0.9), 3)
    for weight in tk.sparse_weights(model):
        assert weight.forward_mask().sum() == weight.kept_forward and weight.step == 3
    assert_saved(model, tmp_path / "model.keras")
