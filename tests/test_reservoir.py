"""The reservoir C keeps its bits, whoever reads a kernel and writes it back."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import topkast_tf as tk

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


def dense(**kwargs):
    return layers.Dense(20, **kwargs)


MAKERS = {
    "spectral normalisation": lambda: layers.SpectralNormalization(dense()),
    "own wrapper": lambda: HalvesItself(dense()),
    "own wrapper, difference": lambda: StepsItself(dense()),
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


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("make", MAKERS)
def test_in_fit(make, optimizer, jit_compile):
    model = model_of(MAKERS[make])
    model.compile(OPTIMIZERS[optimizer](), "mse", jit_compile=jit_compile)
    before = outside_b(model)
    model.fit(INPUTS, LABELS, batch_size=4, epochs=2, verbose=0)
    assert_reservoir_kept(before)
    assert all(np.any(w.dense() != theta) for w, theta, _ in before)


def test_swapped_averages():
    model = model_of(dense)
    model.compile(keras.optimizers.SGD(0.1, use_ema=True), "mse")
    before = outside_b(model)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    model.fit(INPUTS, LABELS, epochs=2, validation_data=(INPUTS, LABELS), verbose=0)
    model.fit(INPUTS, LABELS, epochs=1, verbose=0, callbacks=[swap])
    assert_reservoir_kept(before)


def test_spectral_normalisation_is_that_of_alpha():
    """Its own definition, on alpha: A is divided by the norm, all else keeps its bits."""
    model = model_of(lambda: layers.SpectralNormalization(dense(), power_iterations=50))
    kernel = tk.sparse_weights(model)[0]
    theta, in_a = kernel.dense(), kernel.forward_mask()
    norm = np.linalg.norm(kernel.effective(), 2)
    model(INPUTS, training=True)
    np.testing.assert_allclose(kernel.dense()[in_a], theta[in_a] / norm, rtol=1e-3)
    np.testing.assert_array_equal(kernel.dense()[~in_a], theta[~in_a])
    assert np.linalg.norm(kernel.effective(), 2) == pytest.approx(1, rel=1e-3)


def test_assignments_from_outside_mean_theta():
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
def test_outside_keras_what_was_computed_from_alpha_is_refused(step, wrap):
    w, weight = variable()
    with pytest.raises(
        (ValueError, tf.errors.InvalidArgumentError), match="dense_reads"
    ):
        wrap(lambda: step(w))()
    np.testing.assert_array_equal(weight.dense(), [[4, -3, 2, 1]])


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
