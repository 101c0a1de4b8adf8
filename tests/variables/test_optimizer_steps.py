"""Optimizer calls on a sparse weight: steps, gradient averages, weight decay."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from swat_tf import swat_scope
from tests import zoo
from tests.small_models import LOSS, build_optimizer, small_model, thetas
from topkast_tf import sparse_weights, topkast_scope
from topkast_tf.variables import steps

X = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
Y = np.random.default_rng(1).normal(size=(16, 5)).astype("float32")


def one_kernel(scope, **layer):
    keras.utils.set_random_seed(0)
    with scope:
        return keras.Sequential(
            [keras.Input((6,)), keras.layers.Dense(5, use_bias=False, **layer)]
        )


# SWAT-M's own average of the gradients, where the optimizer keeps no momentum.


@functools.cache  # the model is not trained further
def average_after(batch_size, jit_compile, **sgd):
    model = one_kernel(swat_scope(0.5, distribution="momentum"))
    model.compile(keras.optimizers.SGD(0.1, **sgd), "mse", jit_compile=jit_compile)
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(batch_size)
    model.fit(data, verbose=0)
    [weight] = sparse_weights(model)
    return weight, weight.replica().auxiliary_variable(steps.AVERAGE).numpy()


def average_by_definition(batch_size):
    """m <- 0.9 m + 0.1 g once a step, in float64 and with the model's own sets.

    Theta is followed by the steps that the optimizer takes, ``theta - 0.1 g``.
    """
    model = one_kernel(swat_scope(0.5, distribution="momentum"))
    [weight] = sparse_weights(model)
    theta = weight.dense().astype(np.float64)
    average = np.zeros_like(theta)
    kept = int(weight.forward_mask().sum())
    for start in range(0, len(X), batch_size):
        x, y = X[start : start + batch_size], Y[start : start + batch_size]
        order = np.argsort(-np.abs(theta), axis=None, kind="stable")
        alpha = np.zeros(theta.size)
        alpha[order[:kept]] = theta.ravel()[order[:kept]]
        error = 2 * (x @ alpha.reshape(theta.shape) - y) / y.size
        # Of each batch's activations, the half that is largest.
        active = np.zeros(x.size)
        largest = np.argsort(-np.abs(x), axis=None, kind="stable")
        active[largest[: x.size // 2]] = x.ravel()[largest[: x.size // 2]]
        gradient = active.reshape(x.shape).T @ error
        average = 0.9 * average + 0.1 * gradient
        theta -= 0.1 * gradient
    return average


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_average_is_updated_once_per_step(jit_compile):
    weight, average = average_after(8, jit_compile)
    assert weight.step == 2
    np.testing.assert_allclose(average, average_by_definition(8), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_the_average_takes_the_mean_of_accumulated_gradients(jit_compile):
    # Two times four batches of two: two steps, with the mean gradient of four batches.
    model = one_kernel(swat_scope(0.5, distribution="momentum"))
    sgd = keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)
    model.compile(sgd, "mse", jit_compile=jit_compile)
    build_optimizer(model)
    [weight] = sparse_weights(model)
    average, theta = np.zeros((6, 5)), weight.dense().astype(np.float64)
    for start in range(0, 16, 2):
        batch = slice(start, start + 2)
        model.train_on_batch(X[batch], Y[batch])
        found = weight.replica().auxiliary_variable(steps.AVERAGE).numpy()
        if (start + 2) % 8 == 0:
            applied = (theta - weight.dense()) / 0.1
            average = 0.9 * average + 0.1 * applied
            theta = weight.dense().astype(np.float64)
        np.testing.assert_allclose(found, average, rtol=1e-4, atol=1e-5)
    assert weight.step == 2
    assert np.any(average)


def test_average_of_replicas_equals_that_of_the_whole_batch():
    strategy = zoo.two_devices()
    # Each replica selects activations of its own, so only the dense case is the same.
    models = []
    for chosen in (tf.distribute.get_strategy(), strategy):
        with chosen.scope():
            model = one_kernel(swat_scope(0.0, distribution="momentum"))
            # Keras cannot accumulate here.
            model.compile(keras.optimizers.SGD(0.1), "mse")
        data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
        model.fit(data, verbose=0)
        [weight] = sparse_weights(model)
        models.append(weight.replica().auxiliary_variable(steps.AVERAGE).numpy())
    assert np.any(models[0])
    np.testing.assert_allclose(*models, rtol=1e-4, atol=1e-6)


def test_a_scaled_loss_does_not_scale_the_average():
    _, plain = average_after(8, False)
    _, scaled = average_after(8, False, loss_scale_factor=64.0)
    np.testing.assert_allclose(scaled, plain, rtol=1e-5)


def test_skipped_step_does_not_change_the_average():
    model = one_kernel(swat_scope(0.5, distribution="momentum"))
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    model.compile(optimizer, "mse")
    model.train_on_batch(X, np.full_like(Y, np.inf))
    [weight] = sparse_weights(model)
    assert weight.step == 0
    assert not np.any(weight.replica().auxiliary_variable(steps.AVERAGE).numpy())


# Calls of an optimizer that only accumulate gradients are not steps.


@pytest.mark.parametrize("scope", [topkast_scope(0.5, 0.3), swat_scope(0.5)])
@pytest.mark.parametrize(
    ("layer", "optimizer"),
    [
        ({"kernel_constraint": "max_norm"}, {}),
        ({}, {"use_ema": True, "ema_overwrite_frequency": 1}),
    ],
    ids=["constraint", "average"],
)
def test_constraints_and_averages_are_not_counted_as_steps(scope, layer, optimizer):
    model = one_kernel(scope, **layer)
    sgd = keras.optimizers.SGD(0.1, gradient_accumulation_steps=4, **optimizer)
    model.compile(sgd, "mse")
    build_optimizer(model)
    model.fit(X, Y, batch_size=2, verbose=0)
    assert sparse_weights(model)[0].step == 2


# A second weight decay beside the exploration loss.


def messages_of(caplog, scope, optimizer, fits=2, **layer):
    model = one_kernel(scope, **layer)
    model.compile(optimizer, "mse")
    for _ in range(fits):
        model.fit(X, Y, verbose=0)
    return [record.getMessage() for record in caplog.records if record.name == "absl"]


def test_a_decay_by_the_optimizer_warns_once(caplog):
    adamw = keras.optimizers.AdamW(0.01, weight_decay=0.1)
    [message] = messages_of(caplog, topkast_scope(0.5, 0.3), adamw)
    assert message.startswith(
        "Weight decay 0.1 of the optimizer 'adam_w' is a second one"
    )
    assert "dense" in message and "C keeps its bits" in message


def test_decay_of_a_second_optimizer_warns(caplog):
    model = one_kernel(topkast_scope(0.5, 0.3))
    for optimizer in ("sgd", "adamw", "adamw"):
        model.compile(optimizer, "mse")
        model.fit(X, Y, verbose=0)
    [message] = [r.getMessage() for r in caplog.records if r.name == "absl"]
    assert message.startswith("Weight decay")


def test_a_regularizer_warns_once(caplog):
    sgd = keras.optimizers.SGD(0.1)
    [message] = messages_of(
        caplog, topkast_scope(0.5, 0.3), sgd, kernel_regularizer="l2"
    )
    assert message.startswith("The kernel_regularizer of ")
    assert "counts in the loss" in message


@pytest.mark.parametrize(
    ("scope", "regularizer"),
    [
        (lambda: topkast_scope(0.5, 0.3, exploration=0.0), "l2"),
        (lambda: swat_scope(0.5), "l2"),
        (lambda: topkast_scope(0.5, 0.3), None),
    ],
    ids=["no exploration", "swat", "excluded"],
)
def test_single_decay_gives_no_warning(scope, regularizer, caplog):
    model = one_kernel(scope(), kernel_regularizer=regularizer)
    adamw = keras.optimizers.AdamW(0.01, weight_decay=0.1)
    if regularizer is None:
        adamw.exclude_from_weight_decay(var_list=[model.layers[-1].kernel])
    model.compile(adamw, "mse")
    model.fit(X, Y, verbose=0)
    assert not [r for r in caplog.records if r.name == "absl"]


def test_exempt_kernels_may_be_decayed(caplog):
    with topkast_scope(0.5, 0.3, exempt="last"):
        model = keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(4),
                keras.layers.Dense(5, kernel_regularizer="l2"),
            ]
        )
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    assert not [r for r in caplog.records if r.name == "absl"]


def test_a_regularizer_that_replaces_the_exploration_loss_warns(caplog):
    model = one_kernel(topkast_scope(0.5, 0.3))
    model.layers[-1].kernel.regularizer = keras.regularizers.L2(0.1)
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    [message] = [r.getMessage() for r in caplog.records if r.name == "absl"]
    assert "assigned to the variable and replaces it" in message


def test_effects_of_a_regularizer_and_a_decay_on_each_set():
    """The claims of the warning, for one weight of each set and a gradient of zero.

    theta = (4, 2, 1): A is 4, B \\ A is 2, C is 1; the inputs are zeros, so that nothing
    but the decay moves anything.
    """
    theta = np.array([[4.0, 2.0, 1.0]], np.float32)

    def after(optimizer, **layer):
        with topkast_scope(0.6, 0.4, exploration=0.0):
            model = keras.Sequential(
                [keras.Input((1,)), keras.layers.Dense(3, use_bias=False, **layer)]
            )
        model.layers[-1].kernel.assign(theta)
        model.compile(optimizer, "mse")
        loss = model.train_on_batch(np.zeros((1, 1)), np.zeros((1, 3)))
        return sparse_weights(model)[0].dense(), float(loss)

    decayed, loss = after(keras.optimizers.SGD(0.1, weight_decay=0.5))
    np.testing.assert_allclose(decayed, [[3.8, 1.9, 1.0]], rtol=1e-6)
    assert loss == 0
    momentum = keras.optimizers.SGD(0.1, momentum=0.9)
    l2 = keras.regularizers.L2(0.25)  # d/dw 0.25 w^2 = 0.5 w
    regularized, loss = after(momentum, kernel_regularizer=l2)
    np.testing.assert_allclose(regularized, [[3.8, 1.9, 1.0]], rtol=1e-6)
    assert loss == pytest.approx(0.25 * (16 + 4 + 1))  # C counts
    slot = momentum.momentums[0].numpy()
    np.testing.assert_allclose(slot, [[-0.2, -0.1, -0.05]], rtol=1e-5)  # C's moves


def test_a_regularizer_of_tf_keras_warns_too(caplog):
    tf_keras = pytest.importorskip("tf_keras")
    with topkast_scope(0.5, 0.3):
        model = tf_keras.Sequential(
            [
                tf_keras.Input((6,)),
                tf_keras.layers.Dense(5, kernel_regularizer="l2"),
            ]
        )
    model.compile(tf_keras.optimizers.SGD(0.1, weight_decay=0.1), "mse")
    model.fit(X, Y, verbose=0)
    found = [r.getMessage() for r in caplog.records if r.name == "absl"]
    assert [m.split()[0] for m in found] == ["Weight", "The"]


# Calls that are not steps


def test_steps_are_counted_only_when_gradients_were_accumulated(digits):
    model = small_model(refresh_every=1)
    sgd = keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2)
    model.compile(sgd, LOSS)
    [first, *_] = sparse_weights(model)
    counted = []
    for start in range(0, 64, 16):
        batch = slice(start, start + 16)
        model.train_on_batch(digits[0][batch], digits[1][batch])
        counted.append(first.step)
    assert counted == [0, 1, 1, 2]


def test_a_step_with_infinite_gradients_is_not_counted(digits):
    model = small_model()
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=8.0
    )
    variables = model.trainable_variables
    before = thetas(model)
    optimizer.apply([tf.fill(v.shape, np.inf) for v in variables], variables)
    assert all(np.array_equal(a, b) for a, b in zip(before, thetas(model), strict=True))
    assert sparse_weights(model)[0].step == 0
