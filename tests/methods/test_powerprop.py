"""Powerpropagation: weights that are powers of theta, with any method that allows it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from tests.methods.linear_oracle import MOMENTUM, RATE, Linear, batches, layers
from topkast_tf.core.powerprop import powered, root


class PoweredLinear(Linear):
    """The linear oracle with ``alpha = theta |theta|^(p - 1)``: the chain rule by hand."""

    def __init__(self, model, power):
        super().__init__(model)
        self.power = power

    def step(self, x, y):
        thetas = self.thetas
        self.thetas = [t * np.abs(t) ** (self.power - 1) for t in thetas]
        found = self.gradients(x, y)
        self.thetas = thetas
        for i, gradient in enumerate(found):
            slope = self.power * np.abs(thetas[i]) ** (self.power - 1)
            seen = gradient * slope * self.backward[i]
            self.velocities[i] = MOMENTUM * self.velocities[i] - RATE * seen
            thetas[i] = thetas[i] + self.velocities[i] * self.backward[i]


def test_a_case_by_hand():
    theta = tf.constant([-3.0, 2.0, 0.0])
    with tf.GradientTape() as tape:
        tape.watch(theta)
        weight = powered(theta, 2.0)
    np.testing.assert_array_equal(weight, [-9.0, 4.0, 0.0])
    np.testing.assert_array_equal(tape.gradient(weight, theta), [6.0, 4.0, 0.0])


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 4.0])
def test_the_gradient_is_that_of_finite_differences_and_finite_at_zero(power):
    theta = tf.constant([-1.5, -0.2, 0.0, 0.3, 2.0], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(theta)
        weight = powered(theta, power)
    step = 1e-6
    expected = (powered(theta + step, power) - powered(theta - step, power)) / 2 / step
    np.testing.assert_allclose(tape.gradient(weight, theta), expected, atol=2e-3)
    np.testing.assert_allclose(root(weight, power), theta, atol=1e-12)


@pytest.mark.parametrize("name,arguments", [("topkast", {"bwd": 0.5}), ("static", {})])
@pytest.mark.parametrize("power", [1.5, 3.0])
def test_steps_are_those_of_the_chain_rule(name, arguments, power):
    own = {"exploration": 0.0, "refresh_every": 100} if name == "topkast" else {}
    sizes = ((12, 8), (8, 6))
    model = layers(name, sizes, sparsity=0.75, power=power, **arguments, **own)
    oracle = PoweredLinear(model, power)
    for x, y in zip(*batches(6), strict=True):
        model.train_on_batch(x, y)
        oracle.step(x, y)
        oracle.check(model)


def test_topkast_selects_anew_from_powers_as_from_thetas():
    model = layers(
        "topkast", sparsity=0.75, bwd=0.5, power=2.0, exploration=0.0, refresh_every=1
    )
    oracle = PoweredLinear(model, 2.0)
    for x, y in zip(*batches(6), strict=True):
        model.train_on_batch(x, y)
        oracle.step(x, y)
        [weight] = tk.sparse_weights(model)
        order = np.argsort(-np.abs(oracle.thetas[0]).ravel(), kind="stable")
        for masks, kept in ((oracle.forward, 18), (oracle.backward, 36)):
            mask = np.zeros(72, bool)
            mask[order[:kept]] = True
            masks[0] = mask.reshape(12, 6)
        oracle.check(model)


def test_the_initial_weights_are_those_of_a_dense_layer():
    def made(power):
        keras.utils.set_random_seed(3)
        with tk.sparse_scope("static", sparsity=0.5, power=power, exempt="last"):
            return keras.Sequential(
                [keras.Input((9,)), keras.layers.Dense(7), keras.layers.Dense(4)]
            )

    plain, own = made(1.0), made(3.0)
    for ours, theirs in zip(
        tk.sparse_weights(own), tk.sparse_weights(plain), strict=True
    ):
        np.testing.assert_allclose(ours.effective(), theirs.effective(), rtol=1e-5)
        np.testing.assert_array_equal(ours.forward_mask(), theirs.forward_mask())
    first, last = (layer.kernel.numpy() for layer in own.layers)
    np.testing.assert_allclose(
        np.sign(first) * np.abs(first) ** 3, plain.layers[0].kernel.numpy(), rtol=1e-5
    )
    # The exempt layer has no power.
    np.testing.assert_allclose(last, plain.layers[1].kernel.numpy(), rtol=1e-5)
    x = np.ones((2, 9), "float32")
    np.testing.assert_allclose(own(x), plain(x), atol=1e-5)


def trained(**arguments):
    model = layers("topkast", sparsity=0.75, bwd=0.5, power=2.0, **arguments)
    for x, y in zip(*batches(3), strict=True):
        model.train_on_batch(x, y)
    return model


def test_it_is_saved_and_stripped(tmp_path):
    model = trained()
    x = batches(1)[0][0]
    expected = model(x)
    np.testing.assert_allclose(tk.strip(model)(x), expected, atol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), expected)
    assert tk.sparse_weights(loaded)[0].power == 2.0
    model.load_weights(_weights(loaded, tmp_path))
    np.testing.assert_array_equal(model(x), expected)
    x, y = (each[0] for each in batches(1))
    np.testing.assert_array_equal(
        model.train_on_batch(x, y), loaded.train_on_batch(x, y)
    )
    np.testing.assert_array_equal(model(x), loaded(x))


def _weights(model, folder):
    model.save_weights(folder / "model.weights.h5")
    return folder / "model.weights.h5"


def test_weights_of_a_dense_model_become_powers():
    dense = keras.Sequential(
        [keras.Input((12,)), keras.layers.Dense(6, use_bias=False)]
    )
    weights = dense.layers[0].kernel.numpy()
    scope = tk.topkast_scope(0.75, 0.5, power=2.0)
    model = tk.sparsify(dense, scope)
    taken = trained()
    taken.set_weights(dense.get_weights())
    for made in (model, taken):
        [weight] = tk.sparse_weights(made)
        np.testing.assert_allclose(weight.unmasked(), weights, rtol=1e-5)
        order = np.argsort(-np.abs(weights).ravel(), kind="stable")[:18]
        assert set(np.flatnonzero(weight.forward_mask())) == set(order)


def test_all_weights_of_a_list_are_taken_as_they_are():
    model, other = trained(), layers("topkast", sparsity=0.75, bwd=0.5, power=2.0)
    other.set_weights(model.get_weights())
    np.testing.assert_array_equal(
        tk.sparse_weights(other)[0].dense(), tk.sparse_weights(model)[0].dense()
    )


@pytest.mark.parametrize("arguments", [{"kernels": "native"}, {"storage": "packed"}])
def test_native_kernels_and_packed_storage_compute_the_same(arguments):
    slots = {"slots": "reset"}
    masked = trained(kernels="masked", **slots)
    other = trained(**slots, **arguments)
    [ours], [theirs] = tk.sparse_weights(other), tk.sparse_weights(masked)
    np.testing.assert_array_equal(ours.forward_mask(), theirs.forward_mask())
    np.testing.assert_allclose(ours.effective(), theirs.effective(), atol=1e-6)
    x = batches(1)[0][0]
    np.testing.assert_allclose(other(x), masked(x), atol=1e-5)


def test_blocks_are_scored_by_the_powers():
    """The sums of theta would keep the first block: 3 + 3 > 5 + 0, but 9 + 9 < 25 + 0."""
    with tk.topkast_scope(0.5, 0.5, power=2.0, block=(1, 2)):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    [weight] = tk.sparse_weights(model)
    model.layers[0].kernel.assign([[3.0, 3.0], [5.0, 0.0]])
    assert weight.forward_mask().tolist() == [[False, False], [True, True]]
    tk.refresh(model)
    assert weight.forward_mask().tolist() == [[False, False], [True, True]]


def test_variables_of_a_module():
    with tk.topkast_scope(0.5, 0.5, power=2.0, exploration=0.0):
        weight = tf.Variable([[4.0, -9.0]], name="w")
    np.testing.assert_allclose(tf.identity(weight), [[0.0, -9.0]])
    with tk.dense_reads():
        np.testing.assert_allclose(tf.identity(weight), [[2.0, -3.0]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(weight)
    np.testing.assert_allclose(tape.gradient(loss, weight), [[0.0, 6.0]])


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_snip_does_not_see_a_regularizer(power):
    def mask(regularizer):
        keras.utils.set_random_seed(0)
        with tk.sparse_scope("snip", sparsity=0.8, power=power):
            layer = keras.layers.Dense(30, kernel_regularizer=regularizer)
            model = keras.Sequential([keras.Input((20,)), layer])
        rng = np.random.default_rng(0)
        model.compile("sgd", "mse", jit_compile=False)
        x, y = rng.normal(size=(64, 20)), rng.normal(size=(64, 30))
        loss = model.train_on_batch(x, y)
        [weight] = tk.sparse_weights(model)
        return weight.forward_mask(), loss

    expected, without = mask(None)
    found, loss = mask(keras.regularizers.L2(1.0))
    np.testing.assert_array_equal(found, expected)
    assert loss > without


def test_snip_scores_the_powers():
    model = layers("snip", sparsity=0.75, power=2.0)
    plain = layers("snip", sparsity=0.75)
    x, y = (each[0] for each in batches(1))
    for made in (model, plain):
        tk.prune(made, (x, y))
    np.testing.assert_array_equal(
        tk.sparse_weights(model)[0].forward_mask(),
        tk.sparse_weights(plain)[0].forward_mask(),
    )


@pytest.mark.parametrize(
    "name,arguments,why",
    [
        ("set", {"sparsity": 0.5, "total_steps": 100}, "start again at zero"),
        ("rigl", {"sparsity": 0.5, "total_steps": 100}, "start again at zero"),
        ("str", {}, "computes alpha itself"),
    ],
)
def test_methods_that_do_not_combine_are_refused(name, arguments, why):
    with pytest.raises(ValueError, match=why):
        tk.sparse_scope(name, power=2.0, **arguments)


@pytest.mark.parametrize("power", [0.5, 0, float("nan"), float("inf"), "2", True, None])
def test_other_powers_are_refused(power):
    with pytest.raises(ValueError, match="`power` must be a finite number"):
        tk.topkast_scope(0.9, 0.8, power=power)
