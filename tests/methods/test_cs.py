"""Continuous sparsification against an oracle from its definition, and by hand."""

import keras
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
    layers,
)
from topkast_tf.methods import ContinuousSparsification, Selection

TEST = {
    "total_steps": 18,
    "rounds": 2,
    "rewind_to": 0.34,
    "initial_gate": 0.1,
    "penalty_coefficient": 0.01,
}
"""Rounds of 6 steps, with theta of step 2; the ticket is from step 12 on."""


def sigmoid(x):
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))


class Oracle:
    """``y = x (theta m / sigmoid(s_0))`` with mean squared error, by SGD with momentum."""

    def __init__(self, theta, s0=0.1, penalty=0.01, final=200.0, steps=6, rounds=2):
        self.theta, self.s = theta.astype(float), np.full(theta.shape, s0)
        self.velocities = [np.zeros_like(self.theta), np.zeros_like(self.theta)]
        self.s0, self.penalty, self.final = s0, penalty, final
        self.steps, self.rounds = steps, rounds
        self.t, self.ticket, self.early = 0, None, None

    @property
    def beta(self):
        return self.final ** (self.t % self.steps / (self.steps - 1))

    @property
    def mask(self):
        soft = sigmoid(self.beta * self.s)
        return (soft if self.ticket is None else self.ticket) / sigmoid(self.s0)

    def step(self, x, y, rewind_at=2):
        x, m = x.astype(float), self.mask
        upstream = x.T @ (2 * (x @ (self.theta * m) - y) / y.size)
        by_s = np.zeros_like(m)
        if self.ticket is None:
            soft = sigmoid(self.beta * self.s)
            slope = self.beta * soft * (1 - soft) / sigmoid(self.s0)
            by_s = (upstream * self.theta + self.penalty) * slope
        self.velocities = [
            MOMENTUM * v - RATE * g
            for v, g in zip(self.velocities, (upstream * m, by_s), strict=True)
        ]
        self.theta = self.theta + self.velocities[0]
        self.s = self.s + self.velocities[1]
        self.t += 1
        if self.t == rewind_at:
            self.early = self.theta
        if self.t == self.rounds * self.steps:
            self.ticket = (self.s > 0).astype(float)
            if self.early is not None:
                self.theta = self.early
                self.velocities = [np.zeros_like(self.theta)] * 2
        elif self.t < self.rounds * self.steps and self.t % self.steps == 0:
            self.s = np.minimum(self.final * self.s, self.s0)


def value(weight, name):
    return weight.auxiliary[name].numpy()


@pytest.mark.parametrize("rewind_to", [0.34, None])
def test_equals_the_definition_over_two_rounds_and_the_ticket(rewind_to):
    model = layers("cs", **TEST | {"rewind_to": rewind_to})
    [weight] = tk.sparse_weights(model)
    oracle = Oracle(weight.dense())
    x, y = batches(18)
    for step, (a, b) in enumerate(zip(x, y, strict=True), 1):
        oracle.step(a, b, rewind_at=2 if rewind_to else None)
        model.train_on_batch(a, b)
        np.testing.assert_allclose(weight.dense(), oracle.theta, atol=2e-5)
        if step < 12:  # later it is not used
            np.testing.assert_allclose(value(weight, "gate"), oracle.s, 1e-4, 2e-5)
            assert value(weight, "temperature") == pytest.approx(oracle.beta, rel=1e-5)
        alpha = oracle.theta * oracle.mask
        np.testing.assert_allclose(weight.effective(), alpha, atol=1e-4)
        np.testing.assert_array_equal(weight.effective() != 0, weight.forward_mask())
    np.testing.assert_array_equal(weight.forward_mask(), oracle.ticket > 0)
    assert 0 < oracle.ticket.sum() < 72
    assert ("early" in weight.auxiliary) == (rewind_to is not None)


def test_one_step_by_hand():
    """theta = 2, s = s_0 = 0, beta = 1: alpha = 2 * 0.5 / 0.5.

    y = alpha = 2 of a target 0: the gradient of alpha is 4; that of theta 4 * 1, that of s
    4 * 2 * 0.25 / 0.5 = 4. At rate 0.1: theta = 1.6, s = -0.4. The next beta is 4:
    alpha = 1.6 sigmoid(-1.6) / 0.5.
    """
    with tk.sparse_scope(
        "cs", total_steps=4, rounds=1, final_temperature=4.0, penalty_coefficient=0.0
    ):
        layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        model = keras.Sequential([keras.Input((1,)), layer])
    model.set_weights([np.full((1, 1), 2.0)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    [weight] = tk.sparse_weights(model)
    assert weight.effective() == 2.0
    model.train_on_batch(np.ones((1, 1)), np.zeros((1, 1)))
    assert weight.dense() == pytest.approx(1.6)
    assert value(weight, "gate") == pytest.approx(-0.4)
    assert weight.effective() == pytest.approx(3.2 * sigmoid(-1.6))


def test_the_ticket_is_trained_and_begins_at_the_rewound_weights():
    """In the authors' code its optimizer has no parameters."""
    model = layers("cs", **TEST)
    [weight] = tk.sparse_weights(model)
    x, y = batches(18)
    found = []
    for a, b in zip(x, y, strict=True):
        model.train_on_batch(a, b)
        found.append((weight.dense(), weight.codes()))
    early, rewound, last = (found[t - 1] for t in (2, 12, 18))
    np.testing.assert_array_equal(early[0], rewound[0])
    mask = weight.forward_mask()
    moved = last[0] != rewound[0]
    np.testing.assert_array_equal(moved, mask)  # the slots began at zero, too
    np.testing.assert_array_equal(last[1], rewound[1])


def test_gates_are_scaled_by_the_last_temperature_between_rounds():
    """In the authors' code the temperature is 1 again by then: s <- min(s, s_0)."""
    method = ContinuousSparsification(total_steps=18, rounds=2, initial_gate=0.1)
    model = layers("cs", **TEST)
    [weight] = tk.sparse_weights(model)
    gate = np.linspace(-0.5, 0.5, 72, dtype="float32").reshape(12, 6)
    trained = {
        "gate": tf.constant(gate),
        "temperature": tf.constant(200.0),
        "early": tf.zeros([12, 6]),
    }
    selection = Selection(
        theta=tf.ones([12, 6]),
        kept_forward=tf.constant(72),
        kept_backward=tf.constant(72),
        seed=tf.constant(0, tf.int64),
        blocks=None,
        sets=tf.constant(weight.codes()),
        trained=trained,
    )
    found = method.update([selection], tf.constant(6, tf.int64))
    expected = np.minimum(200 * gate, 0.1)
    np.testing.assert_allclose(found.trained[0]["gate"], expected)
    assert found.trained[0]["temperature"] == 1.0
    np.testing.assert_array_equal(found.codes[0] == 2, expected > -40)
    # A refresh by hand does none of it.
    again = method.reselect([selection], tf.constant(6, tf.int64))
    assert again.trained is None and again.resets is None
    np.testing.assert_array_equal(again.codes[0] == 2, 200 * gate > -40)


def test_gates_can_be_left_out_of_weight_decay():
    """As in the authors' code, which decays theta alone."""
    model = layers("cs", total_steps=100, penalty_coefficient=0.0, initial_gate=1.0)
    optimizer = keras.optimizers.SGD(RATE, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["gate"])
    model.compile(optimizer, "mse")
    [weight] = tk.sparse_weights(model)
    theta = weight.dense()
    model.train_on_batch(np.zeros((8, 12)), np.zeros((8, 6)))
    assert np.all(value(weight, "gate") == 1.0)
    np.testing.assert_allclose(weight.dense(), theta * (1 - 0.1 * RATE), rtol=1e-6)


def test_trained_state_is_saved_and_early_weights_are_not_trainable(tmp_path):
    model = layers("cs", **TEST)
    x, y = batches(14)
    for a, b in zip(x[:4], y[:4], strict=True):
        model.train_on_batch(a, b)
    trainable = {v.name for v in model.trainable_variables}
    assert trainable == {"kernel", "kernel_gate"}
    check_saved(model, tmp_path / "model.keras", x[4:], y[4:])


def test_replicas_train_as_one_device():
    check_replicas("cs", 16, 1e-3, 1e-5, **TEST)


def test_the_ticket_alone_is_sparse_in_counted_products():
    """Of 18 steps the last 6, with the expected sparsity."""
    products = ContinuousSparsification(sparsity=0.9, **TEST).mean_products(0.9, 0.0)
    assert products == pytest.approx((0.3, 0.3, 0.3))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "Expected `total_steps`"),
        ({"total_steps": 7}, "at least 2 for each round"),
        ({"total_steps": 100, "rounds": 0}, "`rounds` must be an integer"),
        (
            {"total_steps": 100, "rewind_to": 1},
            "`rewind_to` must be None or a fraction",
        ),
        ({"total_steps": 100, "final_temperature": 0}, "from 1e-06 to 1e"),
        ({"total_steps": 100, "initial_gate": float("nan")}, "from -20 to 20"),
        ({"total_steps": 100, "penalty_coefficient": -1}, "from 0 to 1e"),
        ({"total_steps": 100, "distribution": "erk"}, "a distribution that 'cs'"),
    ],
)
def test_arguments_are_checked(arguments, match):
    with pytest.raises(ValueError, match=match):
        with tk.sparse_scope("cs", **arguments):
            pass
