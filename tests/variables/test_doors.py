"""APIs besides Keras 3: `tf.Module`, tf_keras, and TensorFlow 1's custom getter."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk

v1 = tf.compat.v1


class TwoLayers(tf.Module):
    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        with self.name_scope:
            self.w1 = tf.Variable(
                rng.standard_normal((64, 16)), name="w1", dtype="float32"
            )
            self.b1 = tf.Variable(tf.zeros([16]), name="bias")
            self.w2 = tf.Variable(
                rng.standard_normal((16, 10)), name="w2", dtype="float32"
            )

    def __call__(self, x):
        return tf.nn.relu(x @ self.w1 + self.b1) @ self.w2


def module(**scope):
    with tk.topkast_scope(**{"fwd": 0.9, "bwd": 0.8, **scope}):
        return TwoLayers()


def module_loss(net, images, labels):
    logits = net(tf.reshape(images, [-1, 64]))
    return tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    )


def test_module_reads_alpha_everywhere_but_in_an_optimizer(digits):
    net = module()
    first, second = tk.sparse_weights(net)
    assert [first.path, second.path] == ["two_layers/w1", "two_layers/w2"]
    x = digits[0][:4].reshape(-1, 64)
    expected = np.maximum(x @ first.effective(), 0) @ second.effective()
    for call in (net, tf.function(net), tf.function(net, jit_compile=True)):
        np.testing.assert_allclose(call(x), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(net.w1 * 1.0, first.effective())
    np.testing.assert_array_equal(net.w1.numpy(), first.dense())
    with tk.dense_reads():
        np.testing.assert_array_equal(net.w1 * 1.0, first.dense())


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "function"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.AdamW(
            0.01, weight_decay=0.1, use_ema=True, ema_overwrite_frequency=2
        ),
        lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        None,
    ],
    ids=["adamw-ema", "momentum", "by-hand"],
)
def test_module_in_a_custom_loop(make, compiled, digits):
    net = module(refresh_every=2)
    weights = tk.sparse_weights(net)
    optimizer = make and make()

    def step(images, labels):
        with tf.GradientTape() as tape:
            loss = module_loss(net, images, labels)
        variables = net.trainable_variables
        gradients = tape.gradient(loss, variables)
        if optimizer is None:
            for variable, gradient in zip(variables, gradients, strict=True):
                variable.assign_sub(0.1 * gradient)
        else:
            optimizer.apply(gradients, variables)
        return loss

    images, labels = digits[0][:64], digits[1][:64]
    if optimizer is not None:
        optimizer.build(net.trainable_variables)
    run = tf.function(step) if compiled else step
    losses = []
    for number in range(1, 7):
        before = [(w.dense(), w.backward_mask()) for w in weights]
        losses.append(float(run(images, labels)))
        for weight, (theta, mask) in zip(weights, before, strict=True):
            changed = weight.dense() != theta
            assert changed.any() and not np.any(changed & ~mask)
            assert weight.step == number
    assert losses[-1] < losses[0]


def test_weight_decay_of_a_module_decays_theta_and_not_alpha():
    with tk.topkast_scope(fwd=0.75, bwd=0.5, exploration=0.0):
        w = tf.Variable([[4.0, 1.0], [2.0, -3.0]], name="w")
    optimizer = keras.optimizers.SGD(1.0, weight_decay=0.5)
    optimizer.apply([tf.zeros([2, 2])], [w])
    # -3 is in B and not in A: as alpha it would be zero, and would not decay.
    np.testing.assert_allclose(w.numpy(), [[2.0, 1.0], [2.0, -1.5]])


def test_module_checkpoint_restores_the_sets(tmp_path, digits):
    def train(net, optimizer, steps):
        for _ in range(steps):
            with tf.GradientTape() as tape:
                loss = module_loss(net, digits[0][:32], digits[1][:32])
            variables = net.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)

    net, optimizer = module(backward="random"), keras.optimizers.SGD(0.1, momentum=0.9)
    train(net, optimizer, 2)
    path = tf.train.Checkpoint(net=net, optimizer=optimizer).save(
        str(tmp_path / "ckpt")
    )
    train(net, optimizer, 2)
    other, resumed = module(backward="random"), keras.optimizers.SGD(0.1, momentum=0.9)
    resumed.build(other.trainable_variables)
    restore = tf.train.Checkpoint(net=other, optimizer=resumed).restore(path)
    restore.assert_existing_objects_matched()
    train(other, resumed, 2)
    for one, two in zip(tk.sparse_weights(net), tk.sparse_weights(other), strict=True):
        np.testing.assert_array_equal(one.dense(), two.dense())
        np.testing.assert_array_equal(one.codes(), two.codes())
        assert one.step == two.step == 4


def test_saved_module_computes_the_same(tmp_path, digits):
    net = module()
    x = digits[0][:4].reshape(-1, 64)
    expected = net(x).numpy()
    net.serve = tf.function(net.__call__, input_signature=[tf.TensorSpec([None, 64])])
    with pytest.raises(AssertionError, match="untracked"):
        tf.saved_model.save(net, str(tmp_path))
    net.sets = [weight.sets for weight in tk.sparse_weights(net)]
    tf.saved_model.save(net, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_array_equal(loaded.serve(x), expected)


def test_variables_made_in_a_function_are_refused():
    made = []

    @tf.function
    def forward(x):
        if not made:
            made.append(tf.Variable(tf.ones([4, 4]), name="w"))
        return x @ made[0]

    with (
        tk.topkast_scope(fwd=0.5, bwd=0.5),
        pytest.raises(ValueError, match="made eagerly.*Received: w"),
    ):
        forward(tf.ones([1, 4]))


# tf_keras

tf_keras = pytest.importorskip("tf_keras")


def legacy_model(**scope):
    tf_keras.utils.set_random_seed(0)
    with tk.topkast_scope(**{"fwd": 0.9, "bwd": 0.8, **scope}):
        return tf_keras.Sequential(
            [
                tf_keras.layers.Conv2D(4, 3, input_shape=(8, 8, 1)),
                tf_keras.layers.Flatten(),
                tf_keras.layers.Dense(10),
            ]
        )


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_tf_keras_fit(jit_compile, digits, tmp_path):
    model = legacy_model(refresh_every=4)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = tf_keras.optimizers.AdamW(0.01, weight_decay=0.1)
    model.compile(optimizer, loss, jit_compile=jit_compile)
    weights = tk.sparse_weights(model)
    assert len(weights) == 2
    before = [(w.dense(), w.backward_mask()) for w in weights]
    assert len(model.losses) == 2 and all(float(loss) > 0 for loss in model.losses)
    model.fit(digits[0][:48], digits[1][:48], batch_size=16, verbose=0)
    for weight, (theta, mask) in zip(weights, before, strict=True):
        changed = weight.dense() != theta
        assert np.all(changed[mask]) and not np.any(changed & ~mask)
        assert weight.step == 3
    plain = tk.strip(model)
    expected = model.predict(digits[0][:8], verbose=0)
    np.testing.assert_allclose(plain(digits[0][:8]), expected, rtol=1e-4, atol=1e-5)
    for name in ("model.keras", "model.h5"):
        model.save(tmp_path / name)
        loaded = tf_keras.models.load_model(tmp_path / name)
        for ours, theirs in zip(weights, tk.sparse_weights(loaded), strict=True):
            np.testing.assert_array_equal(ours.codes(), theirs.codes())
        np.testing.assert_allclose(  # .h5 does not save that it was compiled by XLA
            loaded.predict(digits[0][:8], verbose=0), expected, rtol=1e-5, atol=1e-6
        )
        assert [w.step for w in tk.sparse_weights(loaded)] == [3, 3]


@pytest.mark.parametrize(
    "name",
    [
        *("SimpleRNN", "Bidirectional"),
        pytest.param("GRU", marks=pytest.mark.slow),
        pytest.param("LSTM", marks=pytest.mark.slow),
    ],
)
def test_tf_keras_recurrent_layers_compute_with_alpha(name, digits):
    def build():
        within = tf_keras.layers.GRU(6)
        layer = getattr(tf_keras.layers, name)(within if name == "Bidirectional" else 6)
        stack = [tf_keras.layers.Reshape((8, 8), input_shape=(8, 8, 1)), layer]
        return tf_keras.Sequential([*stack, tf_keras.layers.Dense(10)])

    with tk.topkast_scope(fwd=0.8, bwd=0.5):
        model = build()
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    model.fit(digits[0][:32], digits[1][:32], verbose=0)
    alphas = {id(w.variable): w.effective() for w in tk.sparse_weights(model)}
    assert len(alphas) == (5 if name == "Bidirectional" else 3)
    twin = build()
    state = ("_sets:0", "_clock:0")
    sources = [v for v in model.weights if not v.name.endswith(state)]
    twin.set_weights([alphas.get(id(v), v.numpy()) for v in sources])
    images = digits[0][:8]
    expected = twin(images)
    for found in (model(images), model.predict(images, verbose=0)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_optimizers_that_bypass_assignments_are_refused(digits):
    model = legacy_model()
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.legacy.Adam(0.01), loss)
    with pytest.raises(ValueError, match="assigns to variables.*Received.*Adam"):
        model.fit(*digits, verbose=0)
    net = module()
    optimizer = v1.train.MomentumOptimizer(0.1, 0.9)
    with pytest.raises(ValueError, match="topkast_getter.*Received.*Momentum"):
        optimizer.apply_gradients([(tf.ones_like(net.w1), net.w1)])


def test_tf_keras_formats_that_cannot_hold_the_sets_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`strip` it first.*Received"):
        legacy_model().save(tmp_path / "folder", save_format="tf")


# TensorFlow 1

V1_OPTIMIZERS = {
    "gradient descent": lambda: v1.train.GradientDescentOptimizer(0.1),
    "momentum": lambda: v1.train.MomentumOptimizer(0.1, 0.9),
    "adam": lambda: v1.train.AdamOptimizer(0.01),
}


@pytest.mark.parametrize("name", V1_OPTIMIZERS)
def test_custom_getter_of_tensorflow_1(name, digits):
    getter = tk.topkast_getter(fwd=0.9, bwd=0.8, refresh_every=2, exploration=1e-3)
    with tf.Graph().as_default(), v1.Session() as session:
        v1.set_random_seed(0)
        images = tf.constant(digits[0][:64].reshape(-1, 64))
        with v1.variable_scope("net", custom_getter=getter):
            kernel = v1.get_variable("kernel", [64, 10])
            bias = v1.get_variable("bias", [10])
        with v1.variable_scope("net", custom_getter=getter, reuse=True):
            assert v1.get_variable("kernel") is kernel
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(
                digits[1][:64].astype("int32"), images @ kernel + bias
            )
        )
        penalty = v1.losses.get_regularization_loss()
        update = V1_OPTIMIZERS[name]().minimize(loss + penalty)
        session.run(v1.global_variables_initializer())
        variables = {v.op.name: v for v in v1.global_variables()}
        theta, sets = variables["net/kernel"], variables["net/kernel_sets"]
        losses = []
        for step in range(1, 7):
            before, codes, alpha = session.run([theta, sets, kernel])
            assert (codes == 2).sum() == 64 and (codes > 0).sum() == 128
            np.testing.assert_array_equal(alpha, np.where(codes == 2, before, 0))
            wanted = np.sum(np.where(codes == 2, before**2, 0)) / 2
            wanted += np.sum(np.where(codes == 1, before**2, 0)) / 2 / 0.1
            np.testing.assert_allclose(session.run(penalty), 1e-3 * wanted, rtol=1e-5)
            losses.append(session.run([loss, update])[0])
            after, new_codes = session.run([theta, sets])
            np.testing.assert_array_equal(before[codes == 0], after[codes == 0])
            assert np.all(before[codes > 0] != after[codes > 0])
            order = np.argsort(-np.abs(after.ravel()), kind="stable")
            selected = np.zeros(640, np.uint8)
            selected[order[:128]] = 1
            selected[order[:64]] = 2
            expected = selected.reshape(64, 10) if step % 2 == 0 else codes
            np.testing.assert_array_equal(new_codes, expected)
        assert losses[-1] < losses[0]


def test_custom_getter_refuses_eager_execution():
    getter = tk.topkast_getter(fwd=0.9, bwd=0.8)
    with (
        pytest.raises(ValueError, match="TensorFlow 1 graph.*topkast_scope.*Received"),
        v1.variable_scope("net", custom_getter=getter),
    ):
        v1.get_variable("kernel", [4, 4])
