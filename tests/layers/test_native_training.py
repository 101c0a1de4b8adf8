"""Models with native kernels train, save and choose as those with the masked product."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from tests import zoo
from tests.layers.test_native import layer_in_scope
from topkast_tf.kernels import library as kernels
from topkast_tf.variables.of_run import loading_with

pytestmark = pytest.mark.skipif(
    kernels.why_unavailable() is not None, reason=str(kernels.why_unavailable())
)


def stack(kernels, refresh_every=2, scope=tk.topkast_scope, widths=(400, 300)):
    keras.utils.set_random_seed(0)
    arguments = {"fwd": 0.9, "bwd": 0.8} if scope is tk.topkast_scope else {}
    with scope(**arguments, refresh_every=refresh_every, kernels=kernels):
        return keras.Sequential(
            [
                keras.Input((50,)),
                *(keras.layers.Dense(n, activation="relu") for n in widths),
                keras.layers.Dense(10),
            ]
        )


def data(size=256):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(size, 50)).astype("float32")
    return x, np.tanh(x[:, :10])


def fitted(model, epochs=2, **arguments):
    arguments = {"jit_compile": False, **arguments}
    if not model.compiled:
        model.compile(keras.optimizers.Adam(1e-3), "mse", **arguments)
    model.fit(*data(), batch_size=64, epochs=epochs, shuffle=False, verbose=0)
    return model


@functools.cache
def masked_reference():
    """The same, trained with the masked product; tests only compare with it."""
    return fitted(stack("masked"))


def assert_close(first, second):
    for one, other in zip(
        tk.sparse_weights(first), tk.sparse_weights(second), strict=True
    ):
        np.testing.assert_array_equal(one.codes(), other.codes())
        np.testing.assert_allclose(one.dense(), other.dense(), atol=1e-5)


def test_fit_trains_as_with_the_masked_product():
    native = fitted(stack("native"))
    assert_close(masked_reference(), native)
    assert {w.kernels.kernels for w in tk.sparse_weights(native)} == {"native"}


def test_fit_on_two_devices():
    with zoo.two_devices().scope():
        native = fitted(stack("native"))
    assert_close(masked_reference(), native)


def test_layers_on_different_devices():
    def built(kernels):
        keras.utils.set_random_seed(0)
        with tk.topkast_scope(0.9, 0.8, refresh_every=2, kernels=kernels):
            layers = [keras.layers.Dense(n) for n in (30, 10)]
            for device, layer, size in zip("01", layers, (50, 30), strict=True):
                with tf.device(f"CPU:{device}"):
                    layer.build((None, size))
        return keras.Sequential([keras.Input((50,)), *layers])

    zoo.two_devices()
    assert_close(fitted(built("masked")), fitted(built("native")))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("rigl", {"update_every": 3, "update_until": 7}),
        ("set", {"update_every": 3, "update_until": 7}),
        ("static", {}),
    ],
)
def test_methods_train_as_with_the_masked_product(name, arguments):
    def built(kernels):
        keras.utils.set_random_seed(0)
        with tk.sparse_scope(name, sparsity=0.9, kernels=kernels, **arguments):
            return keras.Sequential(
                [keras.Input((50,)), *(keras.layers.Dense(n) for n in (80, 10))]
            )

    assert_close(fitted(built("masked")), fitted(built("native")))


@pytest.mark.parametrize("kernels", ["masked", "native"])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: keras.layers.Dense(30), (9, 20)),
        (lambda: keras.layers.Conv1D(30, 3), (2, 9, 20)),
        (lambda: keras.layers.Conv2D(30, 1), (2, 3, 4, 20)),
    ],
    ids=["matrix", "convolution", "pointwise"],
)
def test_gradient_is_dense_in_the_steps_a_method_looks_at(make, shape, kernels):
    keras.utils.set_random_seed(0)
    arguments = {"update_every": 3, "update_until": 100, "distribution": "uniform"}
    with tk.sparse_scope("rigl", sparsity=0.8, kernels=kernels, **arguments):
        layer = make()
    x = tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)
    layer(x)
    [weight] = tk.sparse_weights(layer)
    optimizer = keras.optimizers.SGD(0.1)

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x) ** 2)
        return tape.gradient(loss, layer.trainable_variables)

    looked = []
    for _ in range(8):
        looked.append(weight.looks_at_gradient)
        found = gradients()
        outside = found[0].numpy()[~weight.backward_mask()]
        if kernels == "native":
            assert np.any(outside) == looked[-1]
        elif looked[-1]:
            assert np.any(outside)
        optimizer.apply(found, layer.trainable_variables)
    assert any(looked) and not all(looked)


def test_resumed_run_equals_an_uninterrupted_one_bitwise(tmp_path):
    whole = fitted(stack("native"), epochs=2)
    half = fitted(stack("native"), epochs=1)
    half.save(tmp_path / "half.keras")
    with tk.topkast_scope(0.9, 0.8, refresh_every=2, kernels="native"):
        resumed = keras.saving.load_model(tmp_path / "half.keras")
    fitted(resumed, epochs=1)
    for one, other in zip(
        tk.sparse_weights(whole), tk.sparse_weights(resumed), strict=True
    ):
        np.testing.assert_array_equal(one.dense(), other.dense())


def test_choice_is_not_saved(tmp_path):
    model = fitted(stack("native"))
    x, _ = data()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(x), model(x), atol=1e-5)
    assert "kernels" not in str(model.layers[0].get_config())
    stripped = tk.strip(model)
    np.testing.assert_allclose(stripped(x), model(x), atol=1e-5)


def test_auto_takes_what_pays():
    model = stack("auto", widths=(1500, 1500))
    model(data(1024)[0])
    _, second, last = (w.kernels for w in tk.sparse_weights(model))
    assert second.kernels == "native"
    assert "times as fast" in second.why
    assert last.kernels == "masked"


def test_auto_takes_convolutions_that_pay():
    x = np.random.default_rng(0).normal(size=(32, 16, 16, 64)).astype("float32")
    arguments = {"filters": 64, "kernel_size": 3, "padding": "same"}
    large = layer_in_scope(keras, "Conv2D", arguments, x.shape, "auto")
    masked = layer_in_scope(keras, "Conv2D", arguments, x.shape, "masked")
    np.testing.assert_allclose(large(x), masked(x), rtol=1e-3, atol=1e-4)
    small = layer_in_scope(keras, "Conv2D", arguments, (2, 4, 4, 64), "auto")
    small(x[:2, :4, :4])
    first, second = (tk.sparse_weights(layer)[0].kernels for layer in (large, small))
    assert (first.kernels, second.kernels) == ("native", "masked")
    # Unknown sizes count as 32.
    unknown = layer_in_scope(keras, "Conv2D", arguments, (None, None, None, 64), "auto")
    tf.function(unknown, input_signature=[tf.TensorSpec([None, None, None, 64])])(x)
    assert tk.sparse_weights(unknown)[0].kernels.kernels == "native"


def test_convolutions_train_as_with_the_masked_product():
    def built(kernels):
        keras.utils.set_random_seed(0)
        with tk.topkast_scope(0.8, 0.6, refresh_every=2, kernels=kernels):
            return keras.Sequential(
                [
                    keras.Input((50,)),
                    keras.layers.Reshape((5, 10, 1)),
                    keras.layers.Conv2D(8, 3, strides=(1, 2), activation="relu"),
                    keras.layers.Conv2D(12, (2, 3), padding="same"),
                    keras.layers.Reshape((12, 12)),
                    keras.layers.Conv1D(4, 3, padding="causal", dilation_rate=2),
                    keras.layers.Flatten(),
                    keras.layers.Dense(10),
                ]
            )

    native = fitted(built("native"))
    assert_close(fitted(built("masked")), native)
    assert {w.kernels.kernels for w in tk.sparse_weights(native)} == {"native"}


def test_summary_says_what_was_chosen():
    model = stack("auto", widths=(1500, 1500))
    assert "kernels" not in str(tk.summary(model))
    model(data(1024)[0])
    found = tk.summary(model)
    assert found.rows[1].kernels.startswith("native: about ")
    assert found.rows[2].kernels.startswith("masked: native about 0.")
    assert f"  {found.rows[1].path}: {found.rows[1].kernels}" in str(found).splitlines()
    assert found.rows[1].kernels in found._repr_html_()


def test_masked_never_uses_kernels(monkeypatch):
    monkeypatch.setattr(kernels, "library", None)
    model = fitted(stack("masked", widths=(1500, 1500)))
    assert {w.kernels for w in tk.sparse_weights(model)} == {None}


@pytest.mark.parametrize("how", ["fit", "function"])
def test_xla_compiles_the_masked_product(how):
    model = stack("native")
    x, _ = data()
    if how == "fit":
        fitted(model, jit_compile=True)
        assert_close(masked_reference(), model)
    else:
        found = tf.function(model, jit_compile=True)(x)
        np.testing.assert_allclose(found, stack("masked")(x), atol=1e-5)
    assert "XLA" in tk.sparse_weights(model)[0].kernels.why
    model(x)
    assert tk.sparse_weights(model)[0].kernels.kernels == "native"


def test_without_a_library_auto_is_masked_and_native_an_error(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    kernels._loaded.cache_clear()
    try:
        model = stack("auto", widths=(1500, 1500))
        model(data(1024)[0])
        assert "no C++ compiler" in tk.sparse_weights(model)[1].kernels.why
        with pytest.raises(ValueError, match=r"native.*no C\+\+ compiler"):
            stack("native")(data()[0])
    finally:
        monkeypatch.undo()
        kernels._loaded.cache_clear()


@pytest.mark.parametrize("how", ["export", "archive"])
def test_export_holds_tensorflow_operations_only(how, tmp_path):
    model = fitted(stack("native"))
    x, _ = data()
    path = str(tmp_path / "exported")
    if how == "export":
        model.export(path, verbose=False)
    else:
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serve", model.call, [tf.TensorSpec([None, 50])])
        archive.write_out(path, verbose=False)
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((tmp_path / "exported" / "saved_model.pb").read_bytes())
    assert "Topkast" not in str(saved.meta_graphs[0].graph_def)
    loaded = tf.saved_model.load(path)
    np.testing.assert_allclose(loaded.serve(tf.constant(x)), model(x), atol=1e-5)


def test_unknown_kernels_are_refused():
    with pytest.raises(ValueError, match="kernels in .*Received: kernels='fast'"):
        tk.topkast_scope(0.9, 0.8, kernels="fast")
    with pytest.raises(ValueError, match="kernels='fast'"):
        tk.sparse_scope("static", sparsity=0.9, kernels="fast")


def test_loaded_models_take_the_choice_that_is_given(tmp_path):
    stack("auto").save(tmp_path / "model.keras")
    x, _ = data()
    for given in ("native", "masked"):
        with loading_with(given):
            loaded = keras.saving.load_model(tmp_path / "model.keras")
        loaded(x)
        found = {w.kernels and w.kernels.kernels for w in tk.sparse_weights(loaded)}
        assert found == ({"native"} if given == "native" else {None})
    with pytest.raises(ValueError, match="kernels='fast'"), loading_with("fast"):
        pass
