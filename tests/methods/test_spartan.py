"""Spartan against an oracle from its definition, its soft mask, and a case by hand."""

import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from tests.methods.linear_oracle import (
    MOMENTUM,
    RATE,
    batches,
    check_replicas,
    check_saved,
    largest,
    layers,
)
from topkast_tf.core.soft_top_k import soft_top_k, softly_masked
from topkast_tf.methods import Spartan

TEST = {"sparsity": 0.75, "total_steps": 10, "warm_up": 0.4, "sharpness": 9.0}
"""Of 72 entries 72, 59, 45, 32 and 18 stay at steps 0 to 4; frozen from step 8 on."""


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def sinkhorn(values, count, beta, passes=20_000):
    """The authors' iteration in float64, to its fixed point, with costs of 1."""
    z = beta * (values - values.max())
    nu = -np.log1p(np.exp(z))
    for _ in range(passes):
        mu = np.log(count) - np.log(np.sum(np.exp(z + nu)))
        nu = -np.log1p(np.exp(z + mu))
    return np.exp(z + mu + nu)


def by_root(values, count, beta):
    """``m = sigmoid(beta v - c)`` with ``sum m = count``, by bisection in float64."""
    low, high = beta * values.min() - 50, beta * values.max() + 50
    for _ in range(200):
        middle = (low + high) / 2
        above = sigmoid(beta * values - middle).sum() > count
        low, high = (middle, high) if above else (low, middle)
    return sigmoid(beta * values - low)


@pytest.mark.parametrize("beta", [1.0, 20.0])
@pytest.mark.parametrize("count", [1, 7, 39])
def test_the_soft_mask_is_the_fixed_point_of_sinkhorn(beta, count):
    values = np.abs(np.random.default_rng(3).normal(size=(40,)))
    expected = by_root(values, count, beta)
    np.testing.assert_allclose(sinkhorn(values, count, beta), expected, atol=1e-6)
    parts = np.split(values.astype("float32"), [15])
    found = np.concatenate(soft_top_k(parts, tf.constant(count), beta))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.sum() == pytest.approx(count, rel=1e-5)


def test_a_soft_mask_of_everything_is_one_and_of_equal_values_constant():
    values = tf.constant([[3.0, 1.0], [0.0, 2.0]])
    np.testing.assert_array_equal(soft_top_k([values], tf.constant(4), 2.0)[0], 1)
    [mask] = soft_top_k([tf.ones([4])], tf.constant(1), 20.0)
    np.testing.assert_allclose(mask, 0.25, rtol=1e-5)


def test_the_gradient_is_that_of_the_soft_mask_by_finite_differences():
    rng = np.random.default_rng(5)
    theta, upstream = rng.normal(size=(2, 30))
    count, beta = 9, 3.0

    def loss(x):  # with the straight-through mask left out
        return np.sum(upstream * x * by_root(np.abs(x), count, beta))

    step = 1e-5 * np.eye(30)
    expected = [(loss(theta + d) - loss(theta - d)) / 2e-5 for d in step]
    mask = by_root(np.abs(theta), count, beta)
    inside = largest(np.abs(theta), count)
    x = tf.constant(theta)
    with tf.GradientTape() as tape:
        tape.watch(x)
        alpha = softly_masked(
            x,
            tf.constant(mask),
            tf.constant(inside.astype(float)),
            tf.constant(beta, "float64"),
        )
    found = tape.gradient(alpha, x, upstream)
    np.testing.assert_allclose(alpha, theta * mask * inside)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_two_weights_by_hand():
    """theta = (2, -1), k = 1, beta = 2: m = sigmoid(+-1) by symmetry about 1.5 beta.

    w = m (1 - m) is equal for both, so that the mean is that of g theta: with g = (1, 3),
    (2 - 3) / 2 = -0.5, and g theta - mean = (2.5, -2.5). Signs (1, -1) make both gradients
    through the mask 2 w 2.5.
    """
    theta = tf.constant([2.0, -1.0])
    [mask] = soft_top_k([tf.abs(theta)], tf.constant(1), 2.0)
    np.testing.assert_allclose(mask, [sigmoid(1), sigmoid(-1)], rtol=1e-5)
    with tf.GradientTape() as tape:
        tape.watch(theta)
        alpha = softly_masked(theta, mask, tf.constant([1.0, 0.0]), tf.constant(2.0))
    found = tape.gradient(alpha, theta, tf.constant([1.0, 3.0]))
    w = sigmoid(1) * sigmoid(-1)
    expected = [sigmoid(1) + 5 * w, 3 * sigmoid(-1) + 5 * w]
    np.testing.assert_allclose(alpha, [2 * sigmoid(1), 0.0], rtol=1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


class Oracle:
    """A linear layer with mean squared error, by SGD with momentum, from the definition."""

    def __init__(self, theta, counts, last=8, beta=(1.0, 9.0)):
        self.theta, self.counts, self.last = theta.astype(float), counts, last
        self.velocity, self.t, self.betas = np.zeros_like(self.theta), 0, beta
        self.mask = np.ones_like(self.theta)
        self.inside = np.ones_like(self.theta, bool)

    @property
    def beta(self):
        first, final = self.betas
        return first + (final - first) * self.t / self.last

    @property
    def alpha(self):
        return self.theta * self.mask * self.inside

    def step(self, x, y):
        x = x.astype(float)
        g = x.T @ (2 * (x @ self.alpha - y) / y.size)
        gradient = g * self.mask
        w = self.mask * (1 - self.mask)
        if 0 < self.t < self.last:
            mean = np.sum(w * g * self.theta) / np.sum(w)
            slope = np.sign(self.theta) * w * (g * self.theta - mean)
            gradient = gradient + self.beta * slope
        self.velocity = MOMENTUM * self.velocity - RATE * gradient
        self.theta = self.theta + self.velocity
        self.t += 1
        if self.t > self.last:
            return
        count = self.counts[min(self.t, 4)]
        values = np.abs(self.theta)
        self.mask = by_root(values.ravel(), count, self.beta).reshape(values.shape)
        self.inside = largest(values, count)
        if self.t == self.last:
            self.mask = self.mask * self.inside


def test_equals_the_definition_over_training():
    """Warm-up to step 4, as beta grows to step 8, and two steps with a fixed mask."""
    model = layers("spartan", **TEST)
    [weight] = tk.sparse_weights(model)
    oracle = Oracle(weight.dense(), [72, 59, 45, 32, 18])
    masks = []
    for step, (a, b) in enumerate(zip(*batches(10), strict=True), 1):
        oracle.step(a, b)
        model.train_on_batch(a, b)
        np.testing.assert_allclose(weight.dense(), oracle.theta, atol=5e-6)
        np.testing.assert_array_equal(weight.forward_mask(), oracle.inside)
        np.testing.assert_allclose(weight.effective(), oracle.alpha, atol=5e-6)
        assert weight.backward_mask().all()
        masks.append(weight.auxiliary["mask"].numpy())
        total = [72, 59, 45, 32, 18][min(step, 4)]
        if step < 8:
            assert masks[-1].sum() == pytest.approx(total, rel=1e-5)
    np.testing.assert_array_equal(masks[7], masks[9])
    np.testing.assert_array_equal(masks[9] != 0, oracle.inside)
    assert np.any((0 < masks[9]) & (masks[9] < 0.9))  # frozen, not hardened


def test_a_refresh_leaves_a_frozen_mask():
    model = layers("spartan", **TEST)
    [weight] = tk.sparse_weights(model)
    x, y = batches(10)
    for step, (a, b) in enumerate(zip(x, y, strict=True), 1):
        model.train_on_batch(a, b)
        if step in (5, 8, 9):
            before = weight.effective()
            tk.refresh(model)
            np.testing.assert_array_equal(weight.effective(), before)


def test_a_global_mask_has_one_shift_and_one_sum():
    sizes = ((12, 40), (40, 6))
    model = layers("spartan", sizes, distribution="global", **TEST)
    for a, b in zip(*batches(9), strict=True):
        model.train_on_batch(a, b)
        weights = tk.sparse_weights(model)
        if weights[0].step != 6:
            continue
        values = np.concatenate([np.abs(w.dense()).ravel() for w in weights])
        masks = np.concatenate([w.auxiliary["mask"].numpy().ravel() for w in weights])
        expected = by_root(values.astype(float), 180, 7.0)
        np.testing.assert_allclose(masks, expected, atol=1e-5)
    masks = [w.forward_mask() for w in weights]
    assert sum(map(np.sum, masks)) == 180 and masks[0].mean() != masks[1].mean()


def test_state_is_saved_and_none_of_it_is_trainable(tmp_path):
    model = layers("spartan", **TEST)
    x, y = batches(10)
    for a, b in zip(x[:6], y[:6], strict=True):
        model.train_on_batch(a, b)
    assert [v.name for v in model.trainable_variables] == ["kernel"]
    check_saved(model, tmp_path / "model.keras", x[6:], y[6:])


def test_replicas_train_as_one_device():
    check_replicas("spartan", 9, 1e-4, 1e-6, **TEST)


def test_mean_products_are_those_of_the_steps():
    method = Spartan(sparsity=0.9, total_steps=100)
    kept = [method.counts(10**6, 10**5, 10**6, t)[0] for t in range(100)]
    found = method.mean_products(0.9, 0.0)
    assert found.forward == pytest.approx(np.mean([1 - k / 1e6 for k in kept]))
    assert found.input_gradient == found.forward
    # Dense until step 80, as theta m has a gradient everywhere.
    assert found.weight_gradient == pytest.approx(0.9 * 0.2)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "Expected `total_steps`"),
        ({"total_steps": 100, "warm_up": 0.0}, "`warm_up` must be a fraction"),
        ({"total_steps": 100, "frozen_from": 1.0}, "`frozen_from` must be a fraction"),
        (
            {"total_steps": 100, "sharpness": float("inf")},
            "`sharpness` must be a finite",
        ),
        ({"total_steps": 100, "initial_sharpness": 0}, "`initial_sharpness` must be"),
    ],
)
def test_arguments_are_checked(arguments, match):
    with pytest.raises(ValueError, match=match):
        tk.sparse_scope("spartan", sparsity=0.9, **arguments)
