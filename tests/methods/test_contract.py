"""New methods fit the contract without a change of the library.

They are registered here alone: that of docs/methods.md, gradual pruning, and SNIP.
"""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from topkast_tf.core import selection
from topkast_tf.core.schedules import RefreshSchedule, UpdateSchedule
from topkast_tf.core.sets import FORWARD
from topkast_tf.gradients import bytes_reduced
from topkast_tf.methods import GRADIENT, METHODS, Method, Sets, register
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
        """That of docs/methods.md, every two steps."""

        name = "largest_gradients"
        inputs = (GRADIENT,)

        @property
        def schedule(self):
            return UpdateSchedule(every=2, first=2)

        def update(self, weights, step):
            return sets_of(
                largest(w.gradient, w.kept_forward, w.kept_backward) for w in weights
            )


def pruning():
    @register
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Pruning(Method):
        """Gradual magnitude pruning: s_t = s (1 - (1 - t / T)^3) of all entries."""

        name = "pruning"
        varying_counts = True
        sparsity: float
        until: int

        @property
        def fwd(self):
            return self.sparsity

        @property
        def bwd(self):
            return self.sparsity

        @property
        def schedule(self):
            return RefreshSchedule(1)

        def size(self, entries, kept, step):
            """Size of A at a step, from the number of entries and the final size."""
            done = min(max(step, 0), self.until) / self.until
            return entries - int((entries - kept) * (1 - (1 - done) ** 3))

        def update(self, weights, step):
            found = []
            for w in weights:
                entries = tf.size(w.theta)
                done = tf.minimum(tf.cast(step, tf.float64), self.until) / self.until
                dropped = tf.cast(entries - w.kept_forward, tf.float64)
                count = entries - tf.cast(dropped * (1 - (1 - done) ** 3), tf.int32)
                found.append(largest(w.theta, count, count))
            return sets_of(found)

        def counts(self, units, kept_forward, kept_backward, step):
            return (self.size(units, kept_forward, step),) * 2


def snip():
    @register
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class SNIP(Method):
        """The largest |theta dL/dalpha| on the first batch, which moves nothing."""

        name = "snip"
        inputs = (GRADIENT,)
        replaces_step = True
        sparsity: float

        @property
        def fwd(self):
            return self.sparsity

        @property
        def bwd(self):
            return self.sparsity

        @property
        def schedule(self):
            return UpdateSchedule(every=1, first=0, last=0)

        def initial(self, weights):
            codes = [tf.fill(w.theta.shape, FORWARD) for w in weights]
            return Sets([tf.cast(c, tf.uint8) for c in codes], tf.constant(True))

        def update(self, weights, step):
            found = sets_of(
                largest(w.theta * w.gradient, w.kept_forward, w.kept_backward)
                for w in weights
            )
            return found._replace(thresholds=[step + 1] * len(weights))

        def counts(self, units, kept_forward, kept_backward, step):
            # Between the first batch and the first step, both sizes are valid.
            return (kept_forward, kept_backward) if step else None


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


def test_gradual_pruning(tmp_path):
    pruning()
    for steps in (0, 3, 6, 9):
        model, *_ = trained(tk.sparse_scope("pruning", sparsity=0.8, until=8), steps)
        for weight in tk.sparse_weights(model):
            size = weight.method.size(weight.units, weight.kept_forward, steps)
            assert weight.forward_mask().sum() == size
            theta = np.abs(weight.dense())
            if steps:
                kept, left = theta[weight.forward_mask()], theta[~weight.forward_mask()]
                assert kept.min() >= left.max()
    assert size == weight.kept_forward
    sizes = bytes_reduced(model)  # not packed, as counts vary
    assert sizes.packed == sizes.dense
    assert_saved(model, tmp_path / "model.keras")


def test_snip_on_the_first_batch(tmp_path):
    snip()
    scope = tk.sparse_scope("snip", sparsity=0.8)
    keras.utils.set_random_seed(3)
    model, _, _ = trained(scope, 0)
    weights = tk.sparse_weights(model)
    assert all(weight.forward_mask().all() for weight in weights)
    assert_saved(model, tmp_path / "dense.keras")
    thetas = [weight.dense() for weight in weights]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 12)).astype("float32")
    y = np.tanh(x @ rng.normal(size=(12, 6))).astype("float32")
    # The gradient of a dense network of two layers, by hand.
    error = 2 * (x @ thetas[0] @ thetas[1] - y) / y.size
    gradients = [x.T @ error @ thetas[1].T, (x @ thetas[0]).T @ error]
    model.train_on_batch(x, y)
    for weight, theta, gradient in zip(weights, thetas, gradients, strict=True):
        score = np.abs(theta * gradient).ravel()
        expected = np.argsort(-score, kind="stable")[: weight.kept_forward]
        assert set(np.flatnonzero(weight.forward_mask())) == set(expected)
        np.testing.assert_array_equal(weight.dense(), theta)
        assert weight.step == 0
    mask = weights[0].forward_mask()
    model.train_on_batch(x, y)
    np.testing.assert_array_equal(weights[0].forward_mask(), mask)
    assert weights[0].step == 1 and np.any(weights[0].dense() != thetas[0])
    assert_saved(model, tmp_path / "model.keras")
