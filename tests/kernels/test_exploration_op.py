"""The exploration loss as an operation: from its definition, and its derivatives."""

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings

from tests.kernels.test_training_ops import by_definition, each_cpu
from topkast_tf.core.exploration import exploration_loss
from topkast_tf.kernels import library as kernels
from topkast_tf.kernels import training

pytestmark = pytest.mark.skipif(
    kernels.why_unavailable() is not None, reason=str(kernels.why_unavailable())
)


# The exploration loss.


@each_cpu
@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([0, 1, 63, 64, 65, 16384, 40_000]),
    st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    st.integers(0, 2**20),
)
def test_exploration_loss_from_its_definition(cpu, size, density, seed):
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=size).astype(np.float32)
    codes = by_definition(theta, int(density * size), int((1 + density) / 2 * size))
    d, c = max(density, 1e-3), 0.3
    x = tf.constant(theta)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = training.exploration_loss(x, codes, tf.constant(d), c, cpu=cpu)
        twice = 2 * loss
    t = theta.astype(np.float64)
    factor = np.where(codes == 2, 1.0, np.where(codes == 1, 1 / d, 0.0))
    np.testing.assert_allclose(loss, c * np.sum(factor * t * t) / 2, rtol=1e-5)
    gradient = tape.gradient(twice, x)
    np.testing.assert_allclose(gradient, 2 * c * factor * t, rtol=1e-5)
    with tf.GradientTape() as tape:
        tape.watch(x)
        plain = 2 * exploration_loss(x, tf.constant(codes), d, c)
    assert gradient.numpy().tobytes() == tape.gradient(plain, x).numpy().tobytes()


def test_exploration_loss_has_second_derivatives():
    theta, codes = tf.constant([1.0, -2.0, 3.0]), tf.constant([2, 1, 0], tf.uint8)

    def of(loss):
        with tf.GradientTape() as outer:
            outer.watch(theta)
            with tf.GradientTape() as inner:
                inner.watch(theta)
                value = tf.sin(loss(theta, codes, tf.constant(0.5), 0.1))
            penalty = tf.reduce_sum(inner.gradient(value, theta) ** 2)
        return outer.gradient(penalty, theta)

    np.testing.assert_allclose(
        of(training.exploration_loss), of(exploration_loss), rtol=1e-5
    )
    # By hand: the Hessian of the loss is diagonal, 0.1 on A, 0.2 on B \ A, 0 on C.
    with tf.GradientTape() as outer:
        outer.watch(theta)
        with tf.GradientTape() as inner:
            inner.watch(theta)
            value = training.exploration_loss(theta, codes, tf.constant(0.5), 0.1)
        gradient = inner.gradient(value, theta)
    np.testing.assert_allclose(outer.gradient(gradient, theta), [0.1, 0.2, 0.0])


def test_gradient_is_that_of_finite_differences():
    codes = tf.constant([2, 1, 0, 2], tf.uint8)
    found, numeric = tf.test.compute_gradient(
        lambda x: training.exploration_loss(x, codes, tf.constant(0.5), 1.0),
        [tf.constant([1.0, -2.0, 3.0, 0.0])],
        delta=1e-2,
    )
    np.testing.assert_allclose(found[0], numeric[0], atol=2e-3)
