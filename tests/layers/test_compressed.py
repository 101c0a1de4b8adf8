"""Served models: their layers hold the entries of A, in memory and in files."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import topkast_tf as tk
from topkast_tf import compat
from topkast_tf.compat import layers_within
from topkast_tf.kernels import library
from topkast_tf.layers.compressed import held_by

NATIVE = pytest.mark.skipif(not library.is_available(), reason="no native kernels")


def images(count=3):
    return np.random.default_rng(0).normal(size=(count, 16, 16, 8)).astype(np.float32)


def convolutions():
    inputs = keras.Input((16, 16, 8))
    x = layers.Conv2D(32, 3, activation="relu", padding="same")(inputs)
    x = layers.Conv2D(32, 3, padding="same")(x)
    x = layers.Conv2D(32, 1, strides=2)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(32, 3, groups=2, strides=2)(x)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.Reshape((9, 32))(x)
    x = layers.MultiHeadAttention(4, 8)(x, x)
    x = layers.Conv1D(32, 3, padding="causal", dilation_rate=2)(x)
    x = layers.LSTM(16)(x)
    x = layers.Dense(64, activation="gelu", use_bias=False)(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def built(builder=convolutions, **arguments):
    keras.utils.set_random_seed(0)
    with tk.topkast_scope(0.9, 0.8, **arguments):
        return builder()


def held_layers(model):
    """The layers of a model with a compressed kernel, by path."""
    found = [x for x in layers_within(model) if held_by(x) is not None]
    return {layer.path: layer for layer in found}


@pytest.fixture(scope="module")
def models():
    """A sparse model, and the two forms in which it is served."""
    model = built()
    return model, tk.strip(model), tk.strip(model, kernels="native")


@pytest.mark.parametrize("count", [1, 5])
def test_outputs_are_those_of_the_plain_model(models, count):
    _, plain, served = models
    x = images(count)
    np.testing.assert_allclose(served(x), plain(x), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        served.predict(x, verbose=0), plain(x), rtol=1e-4, atol=1e-6
    )


def test_which_layers_hold_what(models):
    model, _, served = models
    # Not the depthwise kernel and those of the LSTM.
    assert len(held_layers(served)) == 4 + 4 + 1 + 2
    assert all(v.name not in ("entries", "gaps") for v in served.trainable_variables)
    compressed = held_layers(served)
    for weight in tk.sparse_weights(model):
        kept = int(weight.forward_mask().sum())
        held = [held_by(x) for x in compressed.values() if _path(x) == weight.path]
        for each in held:
            assert each.entries.shape == (kept,)
            assert kept <= each.gaps.shape[0] <= 1.1 * kept + 1
            np.testing.assert_array_equal(each.kernel(), weight.effective())
    assert {_path(x) for x in compressed.values()} <= {
        w.path for w in tk.sparse_weights(model)
    }


def _path(layer):
    return held_by(layer).entries.path.removesuffix("entries") + "kernel"


def test_files(models, tmp_path):
    model, plain, served = models
    x = images()
    served.save(tmp_path / "served.keras")
    loaded = keras.models.load_model(tmp_path / "served.keras")
    np.testing.assert_array_equal(loaded(x), served(x))
    assert held_layers(loaded)
    served.save_weights(tmp_path / "served.weights.h5")
    other = keras.models.load_model(tmp_path / "served.keras")
    for variable in other.weights:
        variable.assign(tf.zeros_like(variable))
    other.load_weights(tmp_path / "served.weights.h5")
    np.testing.assert_array_equal(other(x), served(x))
    # A plain model becomes one that is served; a sparse one does not.
    copy = keras.models.clone_model(plain)
    copy.load_weights(tmp_path / "served.weights.h5")
    np.testing.assert_array_equal(copy(x), served(x))
    with pytest.raises(
        ValueError, match="Expected a file and a layer 'conv2d' of one k"
    ):
        model.load_weights(tmp_path / "served.weights.h5")
    plain.save_weights(tmp_path / "plain.weights.h5")
    with pytest.raises(
        ValueError, match="Received: a layer of class Conv2D, compressed"
    ):
        copy.load_weights(tmp_path / "plain.weights.h5")


def test_a_file_is_small(tmp_path):
    def wide():
        return keras.Sequential([keras.Input((512,)), layers.Dense(2048)])

    for fwd in (0.8, 0.9, 0.95):
        keras.utils.set_random_seed(0)
        with tk.topkast_scope(fwd, fwd):
            model = wide()
        sizes = {}
        for name, each in {
            "dense": tk.strip(model),
            "served": tk.strip(model, kernels="native"),
        }.items():
            compat.export(each, tmp_path / name)
            parts = (tmp_path / name / "variables").iterdir()
            sizes[name] = sum(part.stat().st_size for part in parts)
        assert sizes["served"] <= 1.6 * (1 - fwd) * sizes["dense"]


def test_stripped_again(models):
    model, plain, served = models
    again = tk.strip(served)
    assert not held_layers(again)
    for ours, theirs in zip(again.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    copy = tk.strip(served, kernels="native")
    np.testing.assert_array_equal(copy(images()), served(images()))


def test_under_xla_and_in_a_gradient(models):
    _, plain, served = models
    x = tf.constant(images())
    compiled = tf.function(lambda x: served(x), jit_compile=True)
    np.testing.assert_allclose(compiled(x), plain(x), rtol=1e-4, atol=1e-6)
    found = []
    for model in (served, plain):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x)
        found.append(tape.gradient(y, x))
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-9)


def test_without_kernels_a_layer_makes_its_kernel(models, monkeypatch):
    _, plain, served = models
    monkeypatch.setattr(library, "is_available", lambda: False)
    monkeypatch.setattr(library, "why_unavailable", lambda: "there is no compiler")
    x = images()
    np.testing.assert_allclose(served(x), plain(x), rtol=1e-4, atol=1e-6)


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = built(lambda: keras.Sequential([keras.Input((64,)), layers.Dense(32)]))
    plain, served = tk.strip(model), tk.strip(model, kernels="native")
    x = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    assert served(x).dtype == tf.bfloat16 and held_layers(served)
    ours, theirs = (tf.cast(m(x), tf.float32).numpy() for m in (served, plain))
    np.testing.assert_allclose(ours, theirs, rtol=2e-2, atol=2e-2)


def test_every_way_to_build_a_model(tmp_path):
    @keras.saving.register_keras_serializable()
    class Own(layers.Dense):
        """A user's class with the product of its base."""

    @keras.saving.register_keras_serializable()
    class Subclassed(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.first = Own(32, activation="relu")
            self.last = layers.TimeDistributed(layers.Dense(10))

        def call(self, x):
            return self.last(self.first(x))

    model = built(Subclassed)
    x = np.random.default_rng(0).normal(size=(3, 5, 64)).astype(np.float32)
    expected = model(x)
    served = tk.strip(model, kernels="native")
    assert len(held_layers(served)) == 2
    np.testing.assert_allclose(served(x), expected, rtol=1e-4, atol=1e-6)
    served.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), served(x))


@pytest.mark.parametrize(
    ("scope", "count"),
    [
        (lambda: tk.topkast_scope(0.9, 0.8, storage="packed"), 2),
        (lambda: tk.topkast_scope(0.9, 0.8, exempt="last"), 1),
        (lambda: tk.topkast_scope(0.1, 0.0), 0),  # entries and gaps would take more
        (lambda: tk.sparse_scope("static", sparsity=0.9, distribution="erk"), 2),
    ],
)
def test_kinds_of_scopes(scope, count):
    with scope():
        model = keras.Sequential(
            [keras.Input((64,)), layers.Dense(128), layers.Dense(64)]
        )
    served = tk.strip(model, kernels="native")
    assert len(held_layers(served)) == count
    x = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    np.testing.assert_allclose(served(x), model(x), rtol=1e-4, atol=1e-5)


def test_what_is_refused(models):
    model, _, served = models
    with pytest.raises(ValueError, match="Received: kernels='fast'"):
        tk.strip(model, kernels="fast")
    layer = next(iter(held_layers(served).values()))
    with pytest.raises(ValueError, match="with a whole kernel for quantization"):
        layer.quantize("int8")
    with pytest.raises(ValueError, match="with a whole kernel for LoRA"):
        layer.enable_lora(4)


@NATIVE
def test_a_saved_model_needs_tensorflow_and_the_operations_alone(models, tmp_path):
    _, _, served = models
    compat.export(served, tmp_path / "served")
    x, path = images(), tmp_path / "x.npy"
    np.save(path, x)
    [operations] = {
        line.split()[-1]
        for line in pathlib.Path("/proc/self/maps").read_text().splitlines()
        if "kernels-" in line and line.endswith(".so")
    }
    program = (
        "import sys, numpy as np, tensorflow as tf\n"
        "tf.load_op_library(sys.argv[1])\n"
        "model = tf.saved_model.load(sys.argv[2])\n"
        "np.save(sys.argv[3], model.serve(np.load(sys.argv[3])))\n"
        "assert not [name for name in sys.modules if name.startswith('topkast')]\n"
    )
    arguments = (operations, str(tmp_path / "served"), str(path))
    subprocess.run(
        [sys.executable, "-c", program, *arguments],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
    )
    np.testing.assert_array_equal(np.load(path), served(x))


def test_kernels_that_share_their_values_have_convolutions_of_their_own():
    """Equal places and one buffer of values, in other geometries and phases."""

    def branches():
        inputs = keras.Input((12, 12, 4))
        found = [
            layers.Conv2D(4, 3, padding="same", **how)(inputs)
            for how in ({}, {"dilation_rate": 2}, {"strides": 2})
        ]
        return keras.Model(inputs, found)

    model = built(branches)
    served = tk.strip(model, kernels="native")
    first, *others = held_layers(served).values()
    for other in others:
        held_by(other).gaps.assign(held_by(first).gaps.value)
        held_by(other).entries.assign(held_by(first).entries.value)
    plain = tk.strip(served)
    x = np.random.default_rng(0).normal(size=(2, 12, 12, 4)).astype(np.float32)
    for _ in range(2):
        for ours, theirs in zip(served(x), plain(x), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    first.padding = "valid"
    dense = tf.nn.conv2d(x, held_by(first).kernel(), 1, "VALID")
    np.testing.assert_allclose(
        first(x), dense + first.bias.numpy(), rtol=1e-4, atol=1e-6
    )


def dense_model(inputs=64, outputs=10, seed=0):
    keras.utils.set_random_seed(seed)
    with tk.topkast_scope(0.9, 0.8):
        model = keras.Sequential([keras.Input((inputs,)), layers.Dense(outputs)])
    return tk.strip(model, kernels="native")


def test_checkpoint_and_saved_model_of_tensorflow(tmp_path):
    model, other = dense_model(seed=0), dense_model(seed=1)
    size = held_by(model.layers[0]).gaps.shape
    assert held_by(other.layers[0]).gaps.shape == size
    path = tf.train.Checkpoint(model).save(str(tmp_path / "checkpoint"))
    restored = tf.train.Checkpoint(other).restore(path)
    restored.assert_consumed()
    x = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    np.testing.assert_array_equal(other(x), model(x))
    tf.saved_model.save(model, str(tmp_path / "saved"))
    assert tf.saved_model.contains_saved_model(str(tmp_path / "saved"))


@pytest.mark.parametrize("compressed", [False, True])
def test_files_of_other_shapes_change_nothing(compressed, tmp_path):
    dense_model(64, 10).save_weights(tmp_path / "file.weights.h5")
    x = np.random.default_rng(0).normal(size=(3, 128)).astype(np.float32)
    for inputs, outputs in ((128, 10), (32, 20), (32, 10)):
        model = dense_model(inputs, outputs)
        model = model if compressed else tk.strip(model)
        before = model(x[:, :inputs])
        with pytest.raises(ValueError, match="Expected a kernel of shape"):
            model.load_weights(tmp_path / "file.weights.h5")
        np.testing.assert_array_equal(model(x[:, :inputs]), before)


def test_a_damaged_file_changes_nothing():
    model = dense_model()
    [layer] = model.layers
    store = {}
    layer.save_own_variables(store)
    store = {
        name: value if isinstance(value, np.ndarray) else value.numpy()
        for name, value in store.items()
    }
    before = held_by(layer).kernel()
    for name, value, message in (
        ("gaps", np.full_like(store["gaps"], 255), "Expected gaps between 64 entries"),
        ("entries", store["entries"][:-1], "Expected gaps between 63 entries"),
        ("bias", np.zeros(3), "a bias of shape"),
    ):
        with pytest.raises(ValueError, match=message):
            layer.load_own_variables({**store, name: value})
        np.testing.assert_array_equal(held_by(layer).kernel(), before)


def test_a_convolution_of_its_own_is_left_alone():
    class Standardised(layers.Conv2D):
        def convolution_op(self, inputs, kernel):
            kernel = kernel - keras.ops.mean(kernel, axis=(0, 1, 2))
            return super().convolution_op(inputs, kernel)

    def build():
        return keras.Sequential([keras.Input((16, 16, 8)), Standardised(64, 3)])

    model = built(build, kernels="auto")
    served, x = tk.strip(model, kernels="native"), images()
    assert not held_layers(served)
    np.testing.assert_allclose(served(x), model(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(built(build, kernels="masked")(x), model(x))
    with pytest.raises(ValueError, match="by a `convolution_op` of its own"):
        built(build, kernels="native")(x)


def test_whoever_reads_a_kernel_gets_the_whole_one():
    @keras.saving.register_keras_serializable()
    class Tied(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.code = layers.Dense(32)

        def call(self, x):
            code = self.code(x)
            return keras.ops.matmul(code, keras.ops.transpose(self.code.kernel))

    model = built(Tied)
    x = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    expected = model(x)
    served = tk.strip(model, kernels="native")
    assert held_layers(served)
    np.testing.assert_allclose(served(x), expected, rtol=1e-4, atol=1e-5)


def test_a_kernel_that_a_wrapper_holds_stays_whole():
    def build():
        inner = layers.SpectralNormalization(layers.Dense(32))
        return keras.Sequential([keras.Input((64,)), inner, layers.Dense(10)])

    model = built(build)
    served = tk.strip(model, kernels="native")
    assert len(held_layers(served)) == 1
    x = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    np.testing.assert_allclose(served(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_legacy_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Expected one of the formats that can hold"):
        dense_model().save(tmp_path / "model.h5")


def test_dense_weights_for_a_compressed_layer_are_refused_with_a_remedy(tmp_path):
    with tk.topkast_scope(0.9, 0.8):
        model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(8)])
    served = tk.strip(model, kernels="native")
    tk.strip(model).save_weights(tmp_path / "plain.weights.h5")
    with pytest.raises(ValueError, match="loaded into the plain model, of which"):
        served.load_weights(tmp_path / "plain.weights.h5")


def test_load_kernels_gives_the_path_of_the_library():
    path = tk.load_kernels()
    assert path.endswith(".so") and hasattr(
        tf.load_op_library(path), "TopkastSparseConv"
    )
