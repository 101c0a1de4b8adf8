"""The reservoir C is kept bitwise when a kernel is read and written back."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import topkast_tf as tk
from tests import zoo
from tests.small_models import build_optimizer

tf_keras = pytest.importorskip("tf_keras")

INPUTS = np.random.default_rng(0).random((8, 20), np.float32)
LABELS = np.eye(8, 3, dtype=np.float32)


class HalvesItself(layers.Wrapper):
    """A user's wrapper that reads the kernel in its call and assigns it back."""

    def call(self, inputs):
        self.layer.kernel.assign(self.layer.kernel * 0.5)
        return self.layer(inputs)


class StepsItself(layers.Wrapper):
    """The same by a difference."""

    def call(self, inputs):
        self.layer.kernel.assign_sub(self.layer.kernel * 0.5)
        return self.layer(inputs)


class StepsTheVariable(layers.Wrapper):
    """The same on the `tf.Variable` itself."""

    def call(self, inputs):
        kernel = self.layer.kernel.value
        kernel.assign_add(tf.ones_like(kernel))
        return self.layer(inputs)


class Zeroes(layers.Wrapper):
    """A user's wrapper that assigns values unrelated to alpha."""

    def call(self, inputs):
        self.layer.kernel.assign(keras.ops.zeros_like(self.layer.kernel))
        return self.layer(inputs)


class WeightNormalization(layers.Wrapper):
    """The kernel is g * v / |v|, computed in each call, as users write it."""

    def build(self, input_shape):
        super().build(input_shape)
        shape = self.layer.kernel.shape
        self.v = self.add_weight(shape=shape, trainable=False)
        self.g = self.add_weight(shape=shape[-1:], trainable=False)

    def call(self, inputs):
        direction = self.v / keras.ops.norm(self.v, axis=0)
        self.layer.kernel.assign(self.g * direction)
        return self.layer(inputs)


class WeightAveraging(keras.callbacks.Callback):
    """The mean of a model before and after each epoch, by `get_weights`."""

    def on_epoch_begin(self, epoch, logs=None):
        self.before = self.model.get_weights()

    def on_epoch_end(self, epoch, logs=None):
        pairs = zip(self.before, self.model.get_weights(), strict=True)
        self.model.set_weights(
            [(a + b) / 2 if b.dtype == np.float32 else b for a, b in pairs]
        )


def dense(**kwargs):
    return layers.Dense(20, **kwargs)


WRAPPERS = {
    "spectral normalisation": lambda: layers.SpectralNormalization(dense()),
    "own wrapper": lambda: HalvesItself(dense()),
    "own wrapper, difference": lambda: StepsItself(dense()),
    "own wrapper, of the variable": lambda: StepsTheVariable(dense()),
    "own wrapper, zeros": lambda: Zeroes(dense()),
    "weight normalisation": lambda: WeightNormalization(dense()),
}
CONSTRAINTS = {
    "max norm": lambda: dense(kernel_constraint=keras.constraints.MaxNorm(0.1)),
    "unit norm": lambda: dense(kernel_constraint=keras.constraints.UnitNorm()),
    "non-negative": lambda: dense(kernel_constraint=keras.constraints.NonNeg()),
    "own constraint": lambda: dense(kernel_constraint=lambda w: 0.9 * w),
}
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "average": lambda: keras.optimizers.SGD(
        0.1, use_ema=True, ema_overwrite_frequency=2
    ),
}


def model_of(make, **scope):
    keras.utils.set_random_seed(0)
    with tk.topkast_scope(0.9, 0.8, **{"refresh_every": 100, **scope}):
        model = keras.Sequential([keras.Input((20,)), make(), layers.Dense(3)])
    return model


def outside_b(model):
    return [(w, w.dense(), ~w.backward_mask()) for w in tk.sparse_weights(model)]


def assert_reservoir_kept(before):
    for weight, theta, in_c in before:
        assert np.any(theta[in_c] != 0)
        np.testing.assert_array_equal(weight.dense()[in_c], theta[in_c])


@functools.cache  # tracing takes seconds, and hardly more with more layers
def fitted_side_by_side(constrained, optimizer, jit_compile):
    """Weights after a fit, and the result of `outside_b`, by the maker of their layer.

    The layers share the inputs, and a head on the sum of their outputs. Layers with a
    constraint are in another model than wrappers, so that each is tested alone.
    """
    makers = CONSTRAINTS if constrained else WRAPPERS
    keras.utils.set_random_seed(0)
    with tk.topkast_scope(0.9, 0.8, refresh_every=100):
        made = {name: make() for name, make in makers.items()}
        inputs = keras.Input((20,))
        added = layers.Add()([layer(inputs) for layer in made.values()])
        made["head"] = layers.Dense(3)
        model = keras.Model(inputs, made["head"](added))
    model.compile(OPTIMIZERS[optimizer](), "mse", jit_compile=jit_compile)
    if optimizer != "sgd":
        build_optimizer(model)
    before = {name: outside_b(layer) for name, layer in made.items()}
    model.fit(INPUTS, LABELS, batch_size=4, epochs=2, verbose=0)
    return before


@pytest.mark.parametrize(
    ("optimizer", "jit_compile"),
    [
        *(pytest.param(name, False, id=f"{name}-graph") for name in OPTIMIZERS),
        pytest.param("adamw", True, id="adamw-xla", marks=pytest.mark.slow),
        pytest.param("sgd", True, id="sgd-xla", marks=pytest.mark.slow),
        pytest.param("average", True, id="average-xla", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("make", [*WRAPPERS, *CONSTRAINTS])
def test_fit_keeps_the_reservoir(make, optimizer, jit_compile):
    fitted = fitted_side_by_side(make in CONSTRAINTS, optimizer, jit_compile)
    for before in (fitted[make], fitted["head"]):
        assert len(before) == 1
        assert_reservoir_kept(before)
        assert all(np.any(w.dense() != theta) for w, theta, _ in before)


LEGACY = {
    "spectral normalisation": lambda: tf_keras.layers.SpectralNormalization(
        tf_keras.layers.Dense(20)
    ),
    "non-negative": lambda: tf_keras.layers.Dense(20, kernel_constraint="non_neg"),
}


@pytest.mark.parametrize("make", LEGACY)
def test_fit_of_tf_keras_keeps_the_reservoir(make, monkeypatch):
    # Its SpectralNormalization takes this class from `tf.keras`, which is Keras 3 here.
    monkeypatch.setattr(tf.keras.layers, "InputSpec", tf_keras.layers.InputSpec)
    tf_keras.utils.set_random_seed(0)
    with tk.topkast_scope(0.9, 0.8, refresh_every=100):
        stack = [tf_keras.Input((20,)), LEGACY[make](), tf_keras.layers.Dense(3)]
        model = tf_keras.Sequential(stack)
    model.compile("sgd", "mse")
    before = outside_b(model)
    model.fit(INPUTS, LABELS, batch_size=4, epochs=2, verbose=0)
    assert_reservoir_kept(before)
    assert all(np.any(w.dense() != theta) for w, theta, _ in before)


def test_normalised_convolution_keeps_the_reservoir():
    keras.utils.set_random_seed(0)
    with tk.topkast_scope(0.9, 0.8, refresh_every=100):
        convolution = layers.SpectralNormalization(layers.Conv1D(6, 3))
        stack = [keras.Input((20,)), layers.Reshape((10, 2)), convolution]
        model = keras.Sequential([*stack, layers.Flatten(), layers.Dense(3)])
    model.compile("sgd", "mse")
    before = outside_b(model)
    model.fit(INPUTS, LABELS, batch_size=4, epochs=2, verbose=0)
    assert_reservoir_kept(before)


def test_two_devices_keep_the_reservoir():
    with zoo.two_devices().scope():
        model = model_of(WRAPPERS["spectral normalisation"])
        model.compile("sgd", "mse")
    before = outside_b(model)
    model.fit(INPUTS, LABELS, epochs=2, verbose=0)
    assert_reservoir_kept(before)
    for weight, theta, in_c in before:
        for copy in weight.variable.values:
            np.testing.assert_array_equal(copy.numpy()[in_c], theta[in_c])


def test_custom_averaging_callback_keeps_the_reservoir():
    model = model_of(dense)
    model.compile("sgd", "mse")
    before = outside_b(model)
    model.fit(INPUTS, LABELS, epochs=2, verbose=0, callbacks=[WeightAveraging()])
    assert_reservoir_kept(before)


def test_dense_reads_in_a_forward_pass_reach_all_of_theta():
    class HalvesTheta(layers.Dense):
        def call(self, inputs):
            with tk.dense_reads():
                self.kernel.assign(self.kernel * 0.5)
            return super().call(inputs)

    with tk.topkast_scope(0.9, 0.8):
        layer = HalvesTheta(10)
        layer.build((None, 20))
    (weight,) = tk.sparse_weights(layer)
    theta = weight.dense()
    layer(INPUTS)
    np.testing.assert_array_equal(weight.dense(), theta * 0.5)


@pytest.mark.parametrize("called", [False, True], ids=["build", "call"])
def test_a_layer_that_its_call_builds_starts_from_theta(called):
    class Doubled(layers.Dense):
        def build(self, input_shape):
            super().build(input_shape)
            self.kernel.assign(self.kernel * 2.0)

    ones = keras.initializers.Ones()
    with tk.topkast_scope(0.9, 0.8):
        layer = Doubled(10, kernel_initializer=ones)
    layer(INPUTS) if called else layer.build((8, 20))
    (weight,) = tk.sparse_weights(layer)
    np.testing.assert_array_equal(weight.dense(), np.full((20, 10), 2.0))


def test_swapped_averages_keep_the_reservoir():
    model = model_of(dense)
    model.compile(keras.optimizers.SGD(0.1, use_ema=True), "mse")
    before = outside_b(model)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    model.fit(INPUTS, LABELS, epochs=2, validation_data=(INPUTS, LABELS), verbose=0)
    model.fit(INPUTS, LABELS, epochs=1, verbose=0, callbacks=[swap])
    assert_reservoir_kept(before)


def test_spectral_normalisation_applies_to_alpha():
    """By definition, on alpha: A is divided by the norm, all else is kept bitwise."""
    model = model_of(lambda: layers.SpectralNormalization(dense(), power_iterations=50))
    kernel = tk.sparse_weights(model)[0]
    theta, in_a = kernel.dense(), kernel.forward_mask()
    norm = np.linalg.norm(kernel.effective(), 2)
    model(INPUTS, training=True)
    np.testing.assert_allclose(kernel.dense()[in_a], theta[in_a] / norm, rtol=1e-3)
    np.testing.assert_array_equal(kernel.dense()[~in_a], theta[~in_a])
    assert np.linalg.norm(kernel.effective(), 2) == pytest.approx(1, rel=1e-3)


def test_assignments_outside_a_call_set_theta():
    model = model_of(dense)
    layer, weight = model.layers[0], tk.sparse_weights(model)[0]
    theta = weight.dense()
    layer.kernel.assign(layer.kernel * 2.0)
    np.testing.assert_array_equal(weight.dense(), 2 * theta)
    layer.set_weights(layer.get_weights())
    np.testing.assert_array_equal(weight.dense(), 2 * theta)


def variable():
    with tk.topkast_scope(0.75, 0.5):
        made = tf.Variable(tf.constant([[4.0, -3.0, 2.0, 1.0]]), name="w")
    return made, tk.sparse_weights([made])[0]


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
@pytest.mark.parametrize(
    "step",
    [
        lambda w: w.assign(w * 0.5),
        lambda w: w.assign(w - tf.constant([[1.0, 1.0, 0.0, 0.0]])),
    ],
    ids=["scaled", "stepped"],
)
def test_outside_keras_assigning_from_alpha_is_refused(step, wrap):
    w, weight = variable()
    with pytest.raises(
        (ValueError, tf.errors.InvalidArgumentError), match="dense_reads"
    ):
        wrap(lambda: step(w))()
    np.testing.assert_array_equal(weight.dense(), [[4, -3, 2, 1]])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (lambda w: w * 0.5, [2.0, -1.5, -2.0, -0.0, 0.5]),
        (lambda w: w - [[1.0, 0.0, 1.0, 0.0, 0.0]], [3.0, -3.0, -3.0, -0.0, 0.5]),
        (lambda w: [[0.0, 1.0, 0.0, 2.0, 7.0]], [0.0, 1.0, 0.0, 2.0, 7.0]),
        (lambda w: np.zeros((1, 5), np.float32), [0.0, 0.0, 0.0, 0.0, 0.0]),
    ],
    ids=["scaled", "stepped", "other values", "zeros"],
)
def test_outside_keras_assigning_from_alpha_under_xla(value, expected):
    with tk.topkast_scope(0.6, 0.4):
        w = tf.Variable([[4.0, -3.0, -2.0, -0.0, 0.5]], name="w")
    (weight,) = tk.sparse_weights([w])
    np.testing.assert_array_equal(weight.codes(), [[2, 2, 1, 0, 0]])
    tf.function(lambda: w.assign(value(w)), jit_compile=True)()
    np.testing.assert_array_equal(w.numpy(), [expected])
    np.testing.assert_array_equal(np.signbit(w.numpy()), np.signbit([expected]))


def test_outside_keras_theta_can_be_assigned():
    w, weight = variable()
    with tk.dense_reads():
        w.assign(w * 0.5)
    np.testing.assert_array_equal(weight.dense(), [[2, -1.5, 1, 0.5]])
    w.assign([[1.0, 2.0, 3.0, 4.0]])
    np.testing.assert_array_equal(weight.codes(), [[0, 0, 1, 2]])
    w.assign(tf.zeros([1, 4]))
    np.testing.assert_array_equal(weight.dense(), [[0, 0, 0, 0]])
    w.assign([[1.0, 2.0, 3.0, 4.0]])
    w.assign_sub([[1.0, 1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(weight.dense(), [[1, 2, 2, 3]])
