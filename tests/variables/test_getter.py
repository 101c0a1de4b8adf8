"""The getter: what a read returns, what reaches theta, and what never does."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, optimizers

import topkast_tf as tk
from topkast_tf.variables.views import sparse_view, straight_through_view

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense_layer(theta, **scope):
    """One Dense layer without bias, whose theta is given."""
    theta = np.asarray(theta, np.float32)
    with tk.topkast_scope(**scope):
        model = keras.Sequential(
            [
                keras.Input((theta.shape[0],)),
                layers.Dense(theta.shape[1], use_bias=False, name="dense"),
            ]
        )
    model.layers[-1].kernel.assign(theta)
    [weight] = tk.sparse_weights(model)
    return model, weight


def small_model(**scope):
    with tk.topkast_scope(**{"fwd": 0.8, "bwd": 0.5, **scope}):
        return keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.Conv2D(4, 3, activation="relu"),
                layers.Flatten(),
                layers.Dense(16, activation="relu"),
                layers.Dense(10),
            ]
        )


def thetas(model):
    return [weight.dense() for weight in tk.sparse_weights(model)]


def bits(array):
    return np.ascontiguousarray(array).view(np.uint8)


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


# C is frozen, bit for bit.

OPTIMIZERS = {
    "momentum": lambda: optimizers.SGD(0.1, momentum=0.9),
    "nesterov": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: optimizers.Adam(0.01),
    "adamw": lambda: optimizers.AdamW(0.01, weight_decay=0.1),
    "rmsprop": lambda: optimizers.RMSprop(0.01, momentum=0.9, centered=True),
    "lamb": lambda: optimizers.Lamb(0.01),
    "clipped": lambda: optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.1),
    "accumulated": lambda: optimizers.SGD(
        0.1, momentum=0.9, gradient_accumulation_steps=2
    ),
    "ema": lambda: optimizers.AdamW(
        0.01, weight_decay=0.1, use_ema=True, ema_overwrite_frequency=3
    ),
    "scaled": lambda: optimizers.LossScaleOptimizer(
        optimizers.SGD(0.1, momentum=0.9), initial_scale=8.0
    ),
}


@pytest.mark.parametrize(
    ("name", "jit_compile"),
    [
        pytest.param(
            name,
            jit_compile,
            marks=[pytest.mark.slow] if jit_compile and name != "adamw" else [],
            id=f"{name}-{'xla' if jit_compile else 'graph'}",
        )
        for name in OPTIMIZERS
        for jit_compile in (False, True)
    ],
)
def test_c_keeps_its_bits_whatever_the_optimizer(name, jit_compile, digits):
    # Entries that have been in B and have left it carry momentum: they must not move.
    model = small_model(refresh_every=2)
    model.compile(OPTIMIZERS[name](), LOSS, jit_compile=jit_compile)
    images, labels = digits
    left_with_momentum = 0
    before_fit = None
    for start in range(0, 96, 16):
        batch = slice(start, start + 16)
        masks = [weight.backward_mask() for weight in tk.sparse_weights(model)]
        before = thetas(model)
        model.train_on_batch(images[batch], labels[batch])
        for mask, old, new in zip(masks, before, thetas(model), strict=True):
            np.testing.assert_array_equal(bits(old[~mask]), bits(new[~mask]))
        if name != "accumulated":
            assert any(
                np.any(a != b) for a, b in zip(before, thetas(model), strict=True)
            )
        if before_fit is not None:
            left_with_momentum += sum(
                np.sum(first & ~now)
                for first, now in zip(before_fit, masks, strict=True)
            )
        before_fit = before_fit or masks
    assert left_with_momentum > 0
    steps = 3 if name == "accumulated" else 6
    assert {weight.step for weight in tk.sparse_weights(model)} == {steps}


def test_averages_that_overwrite_weights_after_fit_leave_c_alone(digits):
    model = small_model(refresh_every=100)
    model.compile(optimizers.SGD(0.1, use_ema=True, ema_momentum=0.7), LOSS)
    weights = tk.sparse_weights(model)
    before = [(weight.dense(), weight.backward_mask()) for weight in weights]
    model.fit(digits[0][:96], digits[1][:96], batch_size=16, verbose=0)
    averages = [v for v in model.optimizer.variables if "average" in v.path]
    averages = [v.numpy() for v in averages if "kernel" in v.path]
    for weight, average, (theta, mask) in zip(weights, averages, before, strict=True):
        np.testing.assert_array_equal(bits(weight.dense()[~mask]), bits(theta[~mask]))
        np.testing.assert_array_equal(weight.dense()[mask], average[mask])


def test_averages_swapped_in_and_out_change_nothing(digits):
    model = small_model(refresh_every=100)
    model.compile(
        optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=None), LOSS
    )
    for step in range(4):  # and not `fit`, which ends with the averages in place
        batch = slice(16 * step, 16 * step + 16)
        model.train_on_batch(digits[0][batch], digits[1][batch])
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    swap.set_model(model)
    weights = tk.sparse_weights(model)
    before = [(w.dense(), w.codes(), w.step) for w in weights]
    swap._swap_variables()
    assert any(
        np.any(w.dense() != old[0]) for w, old in zip(weights, before, strict=True)
    )
    swap._swap_variables()
    for weight, (theta, codes, step) in zip(weights, before, strict=True):
        np.testing.assert_allclose(weight.dense(), theta, atol=1e-6)  # Keras subtracts
        np.testing.assert_array_equal(weight.codes(), codes)
        assert weight.step == step


def test_xla_compiles_a_training_step_once(digits):
    # An index found at run time made it compile anew at each step (XLA bakes it in).
    model = small_model()
    model.compile("sgd", LOSS, jit_compile=True)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        model.train_on_batch(digits[0][:16], digits[1][:16])
        seconds.append(time.perf_counter() - start)
    assert max(seconds[2:]) < seconds[0] / 5, seconds


def test_steps_are_counted_only_when_gradients_were_accumulated(digits):
    model = small_model(refresh_every=1)
    model.compile(OPTIMIZERS["accumulated"](), LOSS)
    [first, *_] = tk.sparse_weights(model)
    counted = []
    for start in range(0, 64, 16):
        batch = slice(start, start + 16)
        model.train_on_batch(digits[0][batch], digits[1][batch])
        counted.append(first.step)
    assert counted == [0, 1, 1, 2]


def test_a_step_with_infinite_gradients_is_not_counted(digits):
    model = small_model()
    optimizer = optimizers.LossScaleOptimizer(optimizers.SGD(0.1), initial_scale=8.0)
    variables = model.trainable_variables
    before = thetas(model)
    optimizer.apply([tf.fill(v.shape, np.inf) for v in variables], variables)
    assert all(np.array_equal(a, b) for a, b in zip(before, thetas(model), strict=True))
    assert tk.sparse_weights(model)[0].step == 0


def test_slots_outside_b_see_zero_gradients_and_decay(digits):
    model = small_model(refresh_every=1000, exploration=0.0)
    optimizer = optimizers.SGD(0.1, momentum=0.5)
    model.compile(optimizer, LOSS)
    model.train_on_batch(digits[0][:16], digits[1][:16])
    [weight, *_] = tk.sparse_weights(model)
    slot = next(v for v in optimizer.variables if "kernel" in v.path)
    marked = np.where(weight.backward_mask(), slot.numpy(), 8.0).astype(np.float32)
    slot.assign(marked)
    model.train_on_batch(digits[0][16:32], digits[1][16:32])
    after = slot.numpy()[~weight.backward_mask()]
    np.testing.assert_array_equal(after, np.full_like(after, 4.0))


def test_frozen_values_include_signed_zero_and_denormals():
    theta = [[4.0, -0.0], [1e-40, -3.0]]
    model, weight = dense_layer(theta, fwd=0.75, bwd=0.5)
    old = weight.dense()
    optimizer = optimizers.SGD(0.1)
    optimizer.apply([tf.ones((2, 2))], [model.layers[0].kernel])
    new = weight.dense()
    np.testing.assert_array_equal(bits(old[[0, 1], [1, 0]]), bits(new[[0, 1], [1, 0]]))
    np.testing.assert_allclose(new[[0, 1], [0, 1]], [3.9, -3.1], rtol=1e-6)


# The method's arguments.


def train(model, digits, steps, optimizer=None):
    model.compile(optimizer or optimizers.SGD(0.05), LOSS)
    for step in range(steps):
        batch = slice(16 * step % 256, 16 * step % 256 + 16)
        model.train_on_batch(digits[0][batch], digits[1][batch])


def test_sets_are_the_largest_of_theta_at_refreshes_and_stay_between(digits):
    model = small_model(refresh_every=3)
    previous = None
    for step in range(1, 8):
        train(model, digits, 1)
        for weight in tk.sparse_weights(model):
            order = np.argsort(-np.abs(weight.dense().ravel()), kind="stable")
            codes = np.zeros(order.size, np.uint8)
            codes[order[: weight.kept_backward]] = 1
            codes[order[: weight.kept_forward]] = 2
            if step % 3 == 0:
                np.testing.assert_array_equal(weight.codes().ravel(), codes)
        now = [weight.codes() for weight in tk.sparse_weights(model)]
        if step % 3 and previous is not None:
            assert all(np.array_equal(a, b) for a, b in zip(now, previous, strict=True))
        previous = now


def test_backward_sparsity_zero_updates_every_weight_straight_through(digits):
    # DNW: the gradient at alpha reaches every weight of theta.
    model = small_model(bwd=0.0, exploration=0.0)
    x, y = digits[0][:32], digits[1][:32]
    with tf.GradientTape() as tape:
        loss = LOSS(y, model(x))
    gradients = tape.gradient(loss, model.trainable_variables)
    plain = tk.strip(model)
    with tf.GradientTape() as tape:
        loss = LOSS(y, plain(x))
    for ours, theirs in zip(
        gradients, tape.gradient(loss, plain.trainable_variables), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    before = thetas(model)
    train(model, digits, 3)
    moved = np.mean(before[-1] != thetas(model)[-1])
    assert moved > 0.5


def test_equal_sparsities_move_only_what_is_active(digits):
    model = small_model(fwd=0.8, bwd=0.8, refresh_every=100)
    before = thetas(model)
    train(model, digits, 3)
    for weight, old in zip(tk.sparse_weights(model), before, strict=True):
        np.testing.assert_array_equal(weight.forward_mask(), weight.backward_mask())
        moved = weight.dense() != old
        assert moved.any() and not np.any(moved & ~weight.forward_mask())


def test_decay_lets_the_reservoir_in_when_the_sets_are_equal():
    # Without gradients A decays until it falls below the frozen reservoir.
    theta = [[4.0, 3.9], [1.0, 0.5]]
    model, weight = dense_layer(theta, fwd=0.75, bwd=0.75, exploration=0.5)
    optimizer = optimizers.SGD(0.1)
    with tf.GradientTape() as tape:
        loss = sum(model.losses)
    gradient = tape.gradient(loss, [model.layers[0].kernel.value])
    optimizer.apply(gradient, [model.layers[0].kernel])
    np.testing.assert_allclose(weight.dense(), [[3.8, 3.9], [1.0, 0.5]], rtol=1e-6)
    np.testing.assert_array_equal(weight.codes(), [[0, 2], [0, 0]])


def test_exploration_stops_at_the_step_even_between_refreshes(digits):
    model = small_model(refresh_every=3, stop_exploring_at=4)
    for step in range(1, 8):
        train(model, digits, 1)
        for weight in tk.sparse_weights(model):
            explores = weight.backward_mask().sum() > weight.forward_mask().sum()
            assert explores == (step < 4)
            assert weight.forward_mask().sum() == weight.kept_forward


def test_random_backward_is_redrawn_and_repeatable(digits):
    def run(seed):
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        model = small_model(backward="random", seed=seed)
        drawn = []
        for _ in range(3):
            [_, weight, _] = tk.sparse_weights(model)
            assert weight.backward_mask().sum() == weight.kept_backward
            assert np.all(weight.backward_mask()[weight.forward_mask()])
            drawn.append(weight.codes() == 1)
            train(model, digits, 1)
        return drawn

    first, again, other = run(0), run(0), run(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert np.mean(first[0] != first[1]) > 0.1
    assert np.mean(first[0] != other[0]) > 0.1


@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_blocks_are_kept_whole(reduce, digits):
    model = small_model(block=(4, 2), block_reduce=reduce)
    train(model, digits, 2)
    weight = tk.sparse_weights(model)[1]  # 144 x 16: 36 x 8 blocks
    theta = np.abs(weight.dense()).reshape(36, 4, 8, 2)
    scores = theta.sum((1, 3)) if reduce == "sum" else theta.max((1, 3))
    kept = weight.forward_mask().reshape(36, 4, 8, 2)
    assert np.all(kept.all((1, 3)) == kept.any((1, 3)))
    expected = np.zeros(scores.size, bool)
    expected[np.argsort(-scores.ravel(), kind="stable")[:58]] = True  # 288 - 230
    np.testing.assert_array_equal(kept.all((1, 3)).ravel(), expected)


def test_global_budget_is_one_threshold_over_all_weights(digits):
    model = small_model(distribution="global")
    train(model, digits, 2)
    weights = tk.sparse_weights(model)
    magnitudes = np.concatenate([np.abs(w.dense().ravel()) for w in weights])
    forward = np.concatenate([w.forward_mask().ravel() for w in weights])
    assert forward.sum() == sum(w.kept_forward for w in weights)
    assert magnitudes[forward].min() >= magnitudes[~forward].max()
    assert len({round(w.forward_sparsity, 3) for w in weights}) > 1
    assert {w.step for w in weights} == {2}


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


def test_the_variable_that_is_trained_is_the_one_that_is_used(digits):
    model = small_model()
    used = [id(weight.variable) for weight in tk.sparse_weights(model)]
    train(model, digits, 3)
    kernels = [v for v in model.trainable_variables if v.name == "kernel"]
    assert [id(kernel.value) for kernel in kernels] == used
    assert [id(w.variable) for w in tk.sparse_weights(model)] == used


def test_a_sparse_variable_cannot_be_a_function_argument():
    model = small_model()
    kernel = model.layers[0].kernel.value
    with pytest.raises(TypeError, match="to be captured by a `tf.function`.*Received"):
        tf.function(lambda w: w * 2)(kernel)


def test_mixed_precision_ranks_in_float32(digits):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = small_model()
    train(model, digits, 3)
    for weight in tk.sparse_weights(model):
        assert weight.dense().dtype == np.float32
        magnitudes = np.abs(weight.dense())
        mask = weight.forward_mask()
        assert magnitudes[mask].min() >= magnitudes[~mask].max()


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_compiled_training_equals_a_hand_written_loop(jit_compile, digits):
    def build():
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        return small_model(refresh_every=2)

    compiled = build()
    compiled.compile(optimizers.SGD(0.05, momentum=0.9), LOSS, jit_compile=jit_compile)
    by_hand = build()
    optimizer = optimizers.SGD(0.05, momentum=0.9)
    for step in range(4):
        batch = slice(16 * step, 16 * step + 16)
        compiled.train_on_batch(digits[0][batch], digits[1][batch])
        with tf.GradientTape() as tape:
            loss = LOSS(digits[1][batch], by_hand(digits[0][batch], training=True))
            loss += sum(by_hand.losses)
        variables = by_hand.trainable_variables
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
    for one, other in zip(
        tk.sparse_weights(compiled), tk.sparse_weights(by_hand), strict=True
    ):
        np.testing.assert_allclose(one.dense(), other.dense(), atol=1e-5)
        assert np.mean(one.codes() != other.codes()) < 0.01
        assert one.step == other.step == 4
