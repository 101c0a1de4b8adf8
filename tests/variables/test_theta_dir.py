"""Theta and the sets of packed weights in mapped files: the same training, less memory."""

import gc
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from tests.kernels.common import in_pages, mapped_bytes
from tests.variables.test_packed import assert_same, built, convolutions, data, trained
from topkast_tf.kernels import library
from topkast_tf.variables import serving
from topkast_tf.variables.of_run import loading_with

pytestmark = pytest.mark.skipif(
    not library.is_available() or not pathlib.Path("/proc/self/smaps").exists(),
    reason="no native kernels, or no /proc",
)


def expected_bytes(model):
    """Those of theta, float32, and of the sets, a byte each."""
    sizes = [w.variable.shape.num_elements() for w in tk.sparse_weights(model)]
    return sum(in_pages(4 * size, size) for size in sizes)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("kernels", ["native", pytest.param("masked", marks=SLOW)])
def test_training_is_the_same_bit_for_bit(kernels, tmp_path):
    models = [
        trained(built("packed", kernels, theta_dir=folder), "adam")
        for folder in (None, tmp_path)
    ]
    assert_same(*models)
    x, _ = data()
    np.testing.assert_array_equal(*[model.predict(x, verbose=0) for model in models])
    assert list(tmp_path.iterdir()) == []


def test_it_is_in_files_from_the_first_layer_on(tmp_path):
    mapped = []

    class Noting(keras.layers.Layer):
        def build(self, shape):
            mapped.append(mapped_bytes(tmp_path).size)

        def call(self, x):
            return x

    with tk.topkast_scope(0.9, 0.8, storage="packed", theta_dir=tmp_path):
        model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(60), Noting()])
    assert mapped == [in_pages(4 * 2400, 2400)] == [expected_bytes(model)]


@pytest.mark.parametrize(
    "native",
    [pytest.param(True, id="native"), pytest.param(False, id="tensorflow", marks=SLOW)],
)
def test_it_stays_in_files_whatever_happens(native, tmp_path, monkeypatch):
    """Also where TensorFlow selects the sets, and where values come from outside."""
    if not native:
        monkeypatch.setattr(serving, "serves", lambda *_, **__: False)
    folder = tmp_path / "theta"
    folder.mkdir()

    def is_mapped(model):
        return mapped_bytes(folder).size == expected_bytes(model)

    model = built("packed", theta_dir=folder)
    assert is_mapped(model)
    trained(model, "adam")
    assert tk.sparse_weights(model)[0].step == 12
    assert is_mapped(model)
    model.evaluate(*data(), verbose=0)
    for layer in model.layers[:2]:
        layer.kernel.assign(2 * layer.kernel.numpy())
    assert is_mapped(model)
    model.save_weights(tmp_path / "model.weights.h5")
    model.load_weights(tmp_path / "model.weights.h5")
    assert is_mapped(model)
    weight = tk.sparse_weights(model)[0]
    weight.set_masks(weight.backward_mask(), weight.backward_mask())
    model(data()[0])
    assert is_mapped(model)


def test_files_end_with_the_model(tmp_path):
    with tk.topkast_scope(0.9, 0.8, storage="packed", theta_dir=tmp_path):
        layer = keras.layers.Dense(60)
        layer.build((None, 40))
    assert mapped_bytes(tmp_path).size == in_pages(4 * 2400, 2400)
    del layer
    gc.collect()
    assert mapped_bytes(tmp_path).size == 0


def test_a_step_without_a_refresh_leaves_the_files_alone(tmp_path):
    with tk.topkast_scope(
        0.9, 0.8, refresh_every=100, storage="packed", theta_dir=tmp_path
    ):
        model = keras.Sequential([keras.Input((512,)), keras.layers.Dense(512)])
    model.compile("adam", "mse", jit_compile=False)
    x = np.ones((8, 512), np.float32)
    model.fit(x, x, verbose=0, epochs=2)
    model.fit(x, x, verbose=0, epochs=98)  # the sets are selected at step 100
    assert tk.sparse_weights(model)[0].step == 100
    assert mapped_bytes(tmp_path).resident == 0


def test_models_are_loaded_into_files(tmp_path):
    model = trained(built("packed"), "adam", steps=4)
    model.save(tmp_path / "model.keras")
    folder = tmp_path / "theta"
    folder.mkdir()
    with loading_with("masked", "packed", str(folder)):
        loaded = keras.models.load_model(tmp_path / "model.keras")
    assert mapped_bytes(folder).size == expected_bytes(loaded)
    assert_same(loaded, model)
    for each in model, loaded:
        x, y = data()
        each.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    assert_same(loaded, model)


@SLOW
def test_two_devices(tmp_path):
    folder = tmp_path / "theta"
    folder.mkdir()
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    found = []
    for theta_dir in (None, folder):
        with strategy.scope():
            found.append(trained(built("packed", theta_dir=theta_dir), "adam"))
    assert_same(*found)
    assert mapped_bytes(folder).size == 2 * expected_bytes(found[1])


def test_plans_of_packed_weights_are_small(tmp_path):
    """Bytes for each entry of the weight: 3 for each of A and product, 1 for each of B."""
    with tk.topkast_scope(0.9, 0.8, storage="packed", theta_dir=tmp_path):
        model = keras.Sequential([keras.Input((512,)), keras.layers.Dense(512)])
    model.compile("adam", "mse", jit_compile=False)
    x = np.ones((8, 512), np.float32)
    model.fit(x, x, verbose=0)
    [weight] = tk.sparse_weights(model)
    plans = library.library().plan_bytes(weight.replica().plans_key)
    assert 0.1 * 3 + 0.2 < plans / 512**2 < 1.2  # the rest is that of the runs


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"storage": "dense"}, "Expected storage='packed' with theta_dir"),
        ({"theta_dir": "absent"}, "Expected theta_dir to be a folder that is there"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message, tmp_path):
    how = {"storage": "packed", "theta_dir": tmp_path} | arguments
    with pytest.raises(ValueError, match=message):
        tk.topkast_scope(0.9, 0.8, **how)


def test_without_kernels_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "is_available", lambda: False)
    with pytest.raises(ValueError, match="Expected native kernels for theta_dir"):
        tk.topkast_scope(0.9, 0.8, storage="packed", theta_dir=tmp_path)


@pytest.mark.slow
def test_what_xla_compiles_is_trained_too(tmp_path):
    models = []
    for folder in (None, tmp_path):
        model = built("packed", theta_dir=folder)
        model.compile("adam", "mse", jit_compile=True)
        x, _ = data()
        model.fit(
            x, np.ones((32, 10)), batch_size=8, epochs=1, shuffle=False, verbose=0
        )
        models.append(model)
    assert_same(*models)


def test_a_weight_that_becomes_exempt_leaves_the_files(tmp_path):
    with tk.topkast_scope(
        0.9, 0.8, storage="packed", theta_dir=tmp_path, exempt="last"
    ):
        model = keras.Sequential(
            [keras.Input((40,)), keras.layers.Dense(60), keras.layers.Dense(50)]
        )
    model(np.ones((2, 40)))
    assert len(tk.sparse_weights(model)) == 1
    # The sets of the last one, which nothing reads, may stay.
    expected = in_pages(4 * 2400, 2400)
    assert expected <= mapped_bytes(tmp_path).size <= expected + in_pages(3000)


def test_a_folder_in_memory_is_refused():
    if not pathlib.Path("/dev/shm").is_dir():
        pytest.skip("no /dev/shm")
    with pytest.raises(ValueError, match="Expected a folder on a disk"):
        tk.topkast_scope(0.9, 0.8, storage="packed", theta_dir="/dev/shm")


@SLOW
def test_exempt_weights_are_trained_as_they_are(tmp_path):
    model = trained(built("packed", theta_dir=tmp_path, exempt="first"), "adam")
    other = trained(built("packed", exempt="first", builder=convolutions), "adam")
    assert_same(model, other)
