"""The getter: values that a read returns, and gradients that reach theta."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, optimizers

import topkast_tf as tk
from tests.small_models import LOSS, build_optimizer, dense_layer, train
from tests.variables.variable_models import two_kernels
from topkast_tf.variables.views import sparse_view, straight_through_view

# By hand.


def test_two_steps_by_hand():
    # |theta| ranks: 4 > 3 > 2 > 1, so A = {4}, B = {4, -3} and C = {2, 1}.
    model, weight = dense_layer(
        [[4.0, 1.0], [2.0, -3.0]], fwd=0.75, bwd=0.5, exploration=0.0
    )
    np.testing.assert_array_equal(weight.codes(), [[2, 0], [0, 1]])
    x = tf.constant([[1.0, 10.0]])
    np.testing.assert_array_equal(model(x), [[4.0, 0.0]])  # only theta_00 is used
    optimizer = optimizers.SGD(0.1)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(x) * [[1.0, -1.0]])
    [gradient] = tape.gradient(loss, [model.layers[0].kernel.value])
    # dL/dalpha = [[1, -1], [10, -10]], masked by B; taken at alpha, where -3 counts as 0.
    np.testing.assert_array_equal(gradient, [[1.0, 0.0], [0.0, -10.0]])
    optimizer.apply([gradient], [model.layers[0].kernel])
    # theta_11 = -3 + 0.1 * 10 = -2: it ties with 2, and the lower index is taken.
    np.testing.assert_allclose(weight.dense(), [[3.9, 1.0], [2.0, -2.0]], rtol=1e-6)
    np.testing.assert_array_equal(weight.codes(), [[2, 0], [1, 0]])
    assert weight.step == 1
    # An entry that is promoted enters A at its own value, not at zero.
    model.layers[0].kernel.assign(weight.dense())
    gradient = np.array([[0.0, 0.0], [-30.0, 0.0]], np.float32)
    optimizer.apply([tf.constant(gradient)], [model.layers[0].kernel])
    np.testing.assert_allclose(weight.dense()[1, 0], 5.0, rtol=1e-6)
    np.testing.assert_allclose(model(x), [[50.0, 0.0]], rtol=1e-6)


def test_exploration_loss_and_its_gradient_by_hand():
    # D = 1/4. Loss: 0.1 * (16 / 2 + 4 * 9 / 2) = 2.6. Gradient: 0.4 on A, 1.2 on B \ A.
    model, _ = dense_layer(
        [[4.0, 1.0], [2.0, -3.0]], fwd=0.75, bwd=0.5, exploration=0.1
    )
    with tf.GradientTape() as tape:
        [loss] = model.losses
    np.testing.assert_allclose(loss, 2.6, rtol=1e-6)
    gradient = tape.gradient(loss, model.layers[0].kernel.value)
    np.testing.assert_allclose(gradient, [[0.4, 0.0], [0.0, -1.2]], rtol=1e-6)


def test_penalties_of_layers_of_different_dtypes_add_up():
    keras.utils.set_random_seed(0)
    own = keras.regularizers.L2(0.5)
    with tk.topkast_scope(fwd=0.8, bwd=0.6, exploration=0.1):
        model = keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(5, dtype="float64", use_bias=False),
                layers.Dense(5, dtype="bfloat16", kernel_regularizer=own),
                layers.Dense(3),
            ]
        )
    expected = 0.5 * np.sum(np.square(np.float64(model.layers[1].kernel)))
    for weight in tk.sparse_weights(model):
        theta, a, b = weight.dense(), weight.forward_mask(), weight.backward_mask()
        squares = np.square(np.float64(theta))
        explored = squares[b & ~a].sum() / a.mean()
        expected += 0.1 * 0.5 * (squares[a].sum() + explored)
    kernel = model.layers[0].kernel
    with tf.GradientTape() as tape:
        total = sum(model.losses)
    assert total.dtype == tf.float32
    # The regularizer of a bfloat16 kernel has its 8 bits.
    np.testing.assert_allclose(total, expected, rtol=4e-3)
    first = tk.sparse_weights(model)[0]
    a, b = first.forward_mask(), first.backward_mask()
    scale = np.where(a, 0.1, np.where(b, 0.1 / a.mean(), 0))
    found = tape.gradient(total, kernel.value)
    assert found.dtype == tf.float64
    np.testing.assert_allclose(found, scale * first.dense(), rtol=1e-7)
    model.compile("sgd", "mse", jit_compile=False)
    x = np.ones((4, 6), np.float32)
    assert np.isfinite(model.fit(x, x[:, :3], verbose=0).history["loss"][0])


@pytest.mark.parametrize("view", [sparse_view, straight_through_view])
def test_a_lookup_of_rows_has_a_dense_gradient(view):
    theta = tf.Variable([[1.0, -2.0], [3.0, 4.0], [5.0, 6.0]])
    with tf.GradientTape() as tape:
        rows = tf.gather(view(theta, tf.fill([3, 2], tf.constant(2, tf.uint8))), [2, 2])
    gradient = tape.gradient(rows, theta)
    assert isinstance(gradient, tf.Tensor)
    np.testing.assert_array_equal(gradient, [[0, 0], [0, 0], [2, 2]])


def test_gradient_by_finite_differences():
    rng = np.random.default_rng(0)
    theta = rng.standard_normal((6, 5))
    model, weight = dense_layer(theta, fwd=0.6, bwd=0.3, exploration=0.0)
    x = rng.standard_normal((7, 6)).astype(np.float32)

    def loss_at(alpha):
        return np.sum(np.tanh(x.astype(np.float64) @ alpha) ** 2)

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.tanh(model(x)) ** 2)
    gradient = tape.gradient(loss, model.layers[0].kernel.value).numpy()
    alpha, mask = weight.effective().astype(np.float64), weight.backward_mask()
    numeric = np.zeros_like(alpha)
    for index in np.ndindex(*alpha.shape):
        step = np.zeros_like(alpha)
        step[index] = 1e-5
        numeric[index] = (loss_at(alpha + step) - loss_at(alpha - step)) / 2e-5
    assert np.abs(numeric[mask & ~weight.forward_mask()]).max() > 0.1
    np.testing.assert_allclose(gradient, np.where(mask, numeric, 0), atol=2e-4)


# Where reads happen.


def test_every_way_to_read_inside_a_layer_gives_alpha():
    class Reader(layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(4, 4), name="w")

        def call(self, x):
            rows = tf.constant([0, 1, 2, 3])
            eye = tf.eye(4)
            return [
                tf.convert_to_tensor(self.w),
                keras.ops.convert_to_tensor(self.w),
                self.w + 0.0,
                eye @ self.w,
                self.w @ eye,
                tf.matmul(eye, self.w),
                tf.matmul(eye, self.w.value),
                keras.ops.matmul(eye, self.w),
                tf.gather(self.w, rows),
                tf.gather(self.w.value, rows),
                tf.nn.embedding_lookup(self.w.value, rows),
                tf.gather_nd(self.w.value, rows[:, None]),
                keras.ops.take(self.w, rows, axis=0),
                tf.stack([self.w[i] for i in range(4)]),
                tf.identity(self.w.value),
                self.w.value.read_value(),
                tf.einsum("ij,jk->ik", eye, self.w),
                tf.add(0.0, self.w),
            ]

    with tk.topkast_scope(fwd=0.5, bwd=0.5):
        reader = Reader()
    eager = reader(tf.zeros([1]))
    [weight] = tk.sparse_weights(reader)
    expected = weight.effective()
    assert np.any(expected != weight.dense())
    for read in (*eager, *tf.function(reader)(tf.zeros([1]))):
        np.testing.assert_array_equal(read, expected)


def test_a_layer_outside_the_scope_reads_a_tied_kernel_as_alpha():
    with tk.topkast_scope(fwd=0.5, bwd=0.5):
        inner = layers.Dense(4, use_bias=False)
        inner.build((None, 4))

    class Tied(layers.Layer):
        def call(self, x):
            return keras.ops.matmul(x, keras.ops.transpose(inner.kernel))

    [weight] = tk.sparse_weights(inner)
    out = Tied()(tf.eye(4))
    np.testing.assert_array_equal(out, weight.effective().T)


def test_trained_variable_is_the_one_used(digits):
    model = two_kernels()
    used = [id(weight.variable) for weight in tk.sparse_weights(model)]
    train(model, digits, 3)
    kernels = [v for v in model.trainable_variables if v.name == "kernel"]
    assert [id(kernel.value) for kernel in kernels] == used
    assert [id(w.variable) for w in tk.sparse_weights(model)] == used


def test_a_sparse_variable_cannot_be_a_function_argument():
    model = two_kernels()
    kernel = model.layers[0].kernel.value
    with pytest.raises(TypeError, match="to be captured by a `tf.function`.*Received"):
        tf.function(lambda w: w * 2)(kernel)


def test_mixed_precision_ranks_in_float32(digits):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = two_kernels()
    model.compile(optimizers.SGD(0.05), LOSS)
    build_optimizer(model)
    train(model, digits, 3)
    for weight in tk.sparse_weights(model):
        assert weight.dense().dtype == np.float32
        magnitudes = np.abs(weight.dense())
        mask = weight.forward_mask()
        assert magnitudes[mask].min() >= magnitudes[~mask].max()


STEPS = 6


def model_and_momentum():
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    return two_kernels(refresh_every=2), optimizers.SGD(0.05, momentum=0.9)


@pytest.fixture(scope="module")
def by_hand(digits):
    """A model trained by a hand-written eager loop, which tests only read."""
    model, optimizer = model_and_momentum()
    for step in range(STEPS):
        batch = slice(16 * step, 16 * step + 16)
        with tf.GradientTape() as tape:
            loss = LOSS(digits[1][batch], model(digits[0][batch], training=True))
            loss += sum(model.losses)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
    return model


def compiled(digits, jit_compile):
    """The same model after the same steps of Keras, and the seconds that each took."""
    model, optimizer = model_and_momentum()
    model.compile(optimizer, LOSS, jit_compile=jit_compile)
    if jit_compile:
        build_optimizer(model)
    seconds = []
    for step in range(STEPS):
        batch = slice(16 * step, 16 * step + 16)
        start = time.perf_counter()
        model.train_on_batch(digits[0][batch], digits[1][batch])
        seconds.append(time.perf_counter() - start)
    return model, seconds


@pytest.fixture(scope="module")
def compiled_by_xla(digits):
    return compiled(digits, jit_compile=True)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_compiled_training_equals_a_hand_written_loop(
    jit_compile, digits, by_hand, request
):
    if jit_compile:
        model, _ = request.getfixturevalue("compiled_by_xla")
    else:
        model, _ = compiled(digits, jit_compile=False)
    for one, other in zip(
        tk.sparse_weights(model), tk.sparse_weights(by_hand), strict=True
    ):
        np.testing.assert_allclose(one.dense(), other.dense(), atol=1e-5)
        assert np.mean(one.codes() != other.codes()) < 0.01
        assert one.step == other.step == STEPS


def test_xla_compiles_a_training_step_once(compiled_by_xla):
    # XLA bakes in an index found at run time, and would compile again at each step.
    _, seconds = compiled_by_xla
    assert max(seconds[2:]) < seconds[0] / 5, seconds
