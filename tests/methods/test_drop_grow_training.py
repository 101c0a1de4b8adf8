"""Training by SET and RigL, against their definition written in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from tests.small_models import build_optimizer
from topkast_tf.core.keys import random_keys

RATE, MOMENTUM = 0.05, 0.9


class Oracle:
    """Least squares by momentum SGD, in NumPy, with a mask of the definition."""

    def __init__(self, theta, mask, method):
        self.theta, self.mask, self.method = theta.copy(), mask.copy(), method
        self.bias, self.step = np.zeros(theta.shape[1]), 0
        self.velocity = [np.zeros_like(theta), np.zeros_like(self.bias)]
        self.updated_at = None

    def gradients(self, x, y):
        error = 2 * (x @ (self.theta * self.mask) + self.bias - y) / y.size
        return x.T @ error, error.sum(0)

    def fraction(self):
        method = self.method
        if method.anneal == "constant":
            return method.drop_fraction
        done = min(self.step, method.update_until) / method.update_until
        return method.drop_fraction * (1 + np.cos(np.pi * done)) / 2

    def is_due(self):
        method = self.method
        first = 0 if method.replaces_step else 1
        return (
            self.updated_at != self.step
            and first <= self.step
            and self.step <= (method.update_until or np.inf)
            and (self.step - first) % method.update_every == 0
        )

    def update(self, grow_scores):
        flat, mask = np.abs(self.theta).ravel(), self.mask.ravel()
        on = [i for i in range(mask.size) if mask[i]]
        dropped = int(np.float32(len(on)) * np.float32(self.fraction()))
        kept = sorted(on, key=lambda i: (-flat[i], i))[: len(on) - dropped]
        others = [i for i in range(mask.size) if i not in kept]
        grown = sorted(others, key=lambda i: (-grow_scores.ravel()[i], i))[:dropped]
        new = [i for i in grown if not mask[i]]
        self.mask = np.isin(np.arange(mask.size), kept + grown).reshape(self.mask.shape)
        self.theta.ravel()[new] = 0
        self.velocity[0].ravel()[new] = 0
        self.updated_at = self.step

    def call(self, x, y, drawn):
        dense, of_bias = self.gradients(x, y)
        if self.method.replaces_step and self.is_due():
            return self.update(np.abs(dense))
        for velocity, gradient, value in (
            (self.velocity[0], dense * self.mask, self.theta),
            (self.velocity[1], of_bias, self.bias),
        ):
            velocity *= MOMENTUM
            velocity -= RATE * gradient
            moves = self.mask if value is self.theta else True
            value += velocity * moves
        self.step += 1
        if not self.method.replaces_step and self.is_due():
            self.update(drawn(self.step) if drawn else np.abs(dense))


CASES = {
    "set": {"update_every": 3},
    "set cosine": {"update_every": 4, "anneal": "cosine", "update_until": 20},
    "rigl": {"update_every": 3, "update_until": 20},
    "rigl constant": {"update_every": 5, "update_until": None, "anneal": "constant"},
    "rigl with steps": {
        "update_every": 3,
        "update_until": 20,
        "update_replaces_step": False,
    },
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
def test_training_equals_the_numpy_definition(case, how):
    name, rng = case.split()[0], np.random.default_rng(0)
    data = rng.normal(size=(30, 16, 12)).astype("float32")
    target = rng.normal(size=(12, 6)).astype("float32")
    with tk.sparse_scope(name, sparsity=0.7, noise=0.0, seed=7, **CASES[case]):
        model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(6)])
    options = {"run_eagerly": how == "eager", "jit_compile": how == "xla"}
    model.compile(keras.optimizers.SGD(RATE, momentum=MOMENTUM), "mse", **options)
    if case != "set":
        build_optimizer(model)
    [weight] = tk.sparse_weights(model)
    oracle = Oracle(weight.dense(), weight.forward_mask(), weight.method)
    drawn = None
    if name == "set":

        def drawn(step):
            seed = [weight.seed, step + 2 * 2**40]
            return random_keys(72, tf.constant(seed, tf.int64)).numpy()

    changes = 0
    for x in data:
        before = weight.forward_mask()
        model.train_on_batch(x, x @ target)
        oracle.call(x.astype(float), (x @ target).astype(float), drawn)
        np.testing.assert_array_equal(weight.forward_mask(), oracle.mask)
        np.testing.assert_allclose(weight.effective(), oracle.theta * oracle.mask,
                                   atol=1e-5)  # fmt: skip
        np.testing.assert_allclose(model.layers[0].bias, oracle.bias, atol=1e-5)
        assert weight.step == oracle.step == int(model.optimizer.iterations)
        changes += np.any(before != weight.forward_mask())
    assert changes >= 4
