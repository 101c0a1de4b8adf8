"""Layers with native kernels compute and train as those with the masked product."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import topkast_tf as tk
from tests import zoo
from topkast_tf.kernels import library as kernels
from topkast_tf.kernels.choice import loading_with
from topkast_tf.layers.products import einsum_as_matrix

pytestmark = pytest.mark.skipif(
    kernels.why_unavailable() is not None, reason=str(kernels.why_unavailable())
)

IMAGES = (3, 7, 5, 6)
CASES = [
    ("Dense", (5, 12), {"units": 9}),
    ("Dense", (2, 3, 4, 12), {"units": 9, "activation": "relu"}),
    (
        "EinsumDense",
        (2, 3, 6),
        {"equation": "abc,cde->abde", "output_shape": (3, 4, 5)},
    ),
    (
        "EinsumDense",
        (2, 3, 4, 5),
        {"equation": "abcd,cde->abe", "output_shape": (3, 6), "bias_axes": "e"},
    ),
    ("EinsumDense", (2, 3, 6), {"equation": "...x,xy->...y", "output_shape": 7}),
    ("Conv1D", (3, 9, 6), {"filters": 8, "kernel_size": 1, "padding": "causal"}),
    ("Conv2D", IMAGES, {"filters": 8, "kernel_size": 1}),
    ("Conv2D", IMAGES, {"filters": 8, "kernel_size": 1, "strides": (2, 3)}),
    (
        "Conv2D",
        IMAGES,
        {"filters": 8, "kernel_size": 1, "strides": 2, "padding": "same"},
    ),
    ("Conv3D", (2, 3, 2, 2, 6), {"filters": 8, "kernel_size": 1}),
    ("Conv2D", IMAGES, {"filters": 8, "kernel_size": 3}),
    ("Conv2D", IMAGES, {"filters": 8, "kernel_size": (3, 2), "strides": (2, 3)}),
    ("Conv2D", IMAGES, {"filters": 8, "kernel_size": 3, "padding": "same"}),
    (
        "Conv2D",
        IMAGES,
        {"filters": 8, "kernel_size": (1, 5), "strides": 2, "padding": "same"},
    ),
    (
        "Conv2D",
        IMAGES,
        {"filters": 8, "kernel_size": 3, "dilation_rate": (2, 1), "padding": "same"},
    ),
    ("Conv1D", (3, 9, 6), {"filters": 8, "kernel_size": 3, "activation": "relu"}),
    (
        "Conv1D",
        (3, 9, 6),
        {"filters": 8, "kernel_size": 4, "strides": 2, "padding": "same"},
    ),
    (
        "Conv1D",
        (3, 9, 6),
        {"filters": 8, "kernel_size": 3, "dilation_rate": 2, "padding": "causal"},
    ),
    (
        "Conv1D",
        (3, 9, 6),
        {"filters": 8, "kernel_size": 3, "strides": 2, "padding": "causal"},
    ),
]


def layer_in_scope(library, name, arguments, shape, kernels):
    with tk.topkast_scope(0.7, 0.4, kernels=kernels):
        layer = getattr(library.layers, name)(
            **arguments, kernel_initializer="glorot_normal", bias_initializer="ones"
        )
        layer.build(shape)
    values = np.random.default_rng(1).normal(size=layer.kernel.shape)
    layer.kernel.assign(values.astype("float32"))
    return layer


def output_and_gradients(layer, x):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        loss = tf.reduce_sum(tf.sin(y))
    return y, *tape.gradient(loss, [x, *_raw(layer)])


def _raw(layer):
    return [getattr(v, "_value", v) for v in layer.trainable_variables]


@pytest.mark.parametrize(("name", "shape", "arguments"), CASES)
@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_native_layer_equals_masked(library, name, shape, arguments):
    if library is tf_keras and name in ("Conv1D", "Conv3D"):
        pytest.skip("masked in tf_keras")
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    masked, native = (
        layer_in_scope(library, name, arguments, shape, kernels)
        for kernels in ("masked", "native")
    )
    expected, found = output_and_gradients(masked, x), output_and_gradients(native, x)
    [weight] = tk.sparse_weights(native)
    assert weight.kernels == ("native", "asked for")
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(found[2])[~weight.backward_mask()], 0)
    np.testing.assert_array_equal(
        native(x[:0]).shape, [0, *tuple(expected[0].shape)[1:]]
    )


@pytest.mark.parametrize(
    ("name", "shape", "arguments", "why"),
    [
        (
            "Conv3D",
            (2, 3, 4, 4, 6),
            {"filters": 8, "kernel_size": 3},
            r"window \(3, 3, 3\)",
        ),
        ("Conv2D", IMAGES, {"filters": 8, "kernel_size": 1, "groups": 2}, "Conv2D"),
        ("Conv2D", IMAGES, {"filters": 8, "kernel_size": 3, "groups": 2}, "Conv2D"),
        (
            "Conv2D",
            IMAGES,
            {"filters": 8, "kernel_size": 3, "data_format": "channels_first"},
            "Conv2D",
        ),
        (
            "Conv2D",
            IMAGES,
            {"filters": 8, "kernel_size": 3, "dtype": "mixed_bfloat16"},
            "bfloat16",
        ),
        (
            "EinsumDense",
            (2, 3, 6),
            {"equation": "abc,dc->abd", "output_shape": (3, 7)},
            "EinsumDense",
        ),
        ("Dense", (5, 12), {"units": 9, "dtype": "mixed_bfloat16"}, "bfloat16"),
        ("Dense", (5, 12), {"units": 9, "dtype": "float64"}, "float64"),
    ],
)
def test_layer_without_native_kernel(name, shape, arguments, why):
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    layer = layer_in_scope(keras, name, arguments, shape, "native")
    with pytest.raises(ValueError, match=f"kernels='native' asks for.*{why}"):
        layer(x)
    layer = layer_in_scope(keras, name, arguments, shape, "auto")
    layer(x)
    [weight] = tk.sparse_weights(layer)
    assert weight.kernels.kernels == "masked"


@pytest.mark.parametrize("size", [1, 2])
def test_strides_with_a_further_batch_axis_are_masked(size):
    x = np.ones((2, 3, 8, 8, 6), np.float32)
    arguments = {"filters": 8, "kernel_size": size, "strides": 2}
    layer = layer_in_scope(tf_keras, "Conv2D", arguments, (2, 3, 8, 8, 6), "auto")
    assert layer(x).shape == (2, 3, 4, 4, 8)


def test_input_of_another_width_is_refused_as_by_keras():
    arguments = {"equation": "bc,cd->bd", "output_shape": 9}
    layer = layer_in_scope(keras, "EinsumDense", arguments, (5, 12), "auto")
    function = tf.function(layer, input_signature=[tf.TensorSpec([None, 24])])
    with pytest.raises(ValueError, match="12.*24|24.*12"):
        function(tf.ones([4, 24]))


def test_given_weights_and_dense_reads_take_the_masked_product():
    layer = layer_in_scope(keras, "Dense", {"units": 900}, (None, 600), "auto")
    x = tf.random.normal([2048, 600])
    layer(x)
    [weight] = tk.sparse_weights(layer)
    assert weight.kernels.kernels == "native"
    given = [v.value * 2 for v in layer.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(given)
        y, _ = layer.stateless_call(
            given, [v.value for v in layer.non_trainable_variables], x
        )
    assert tape.gradient(y, given)[0] is not None
    assert "StatelessScope" in weight.kernels.why
    with tk.dense_reads():
        y = layer(x)
    np.testing.assert_allclose(y - layer.bias, x @ weight.dense(), atol=1e-3)


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        ("abc,cd->abd", (1, 1)),
        ("abc,cde->abde", (1, 1)),
        ("abcd,cde->abe", (2, 2)),
        ("...x,xy->...y", (1, 1)),
        ("ab,bc->ac", (1, 1)),
        ("abc,dc->abd", None),  # transposed kernel
        ("abcd,dce->abe", None),  # other order
        ("abc,cd->adb", None),  # transposed output
        ("abc,bcd->abd", None),  # an axis of both
        ("abc,bd->acd", None),  # not the last axis
        ("bb,bbc->c", None),  # a diagonal
    ],
)
def test_einsums_that_are_products_of_matrices(equation, expected):
    found = einsum_as_matrix(equation)
    assert (found and found[:2]) == expected


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
