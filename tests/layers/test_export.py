"""Models for other engines: what is in the file, how large it is, what it computes."""

import gzip
import importlib.util
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import topkast_tf as tk

HAS_ONNX = all(map(importlib.util.find_spec, ("onnx", "onnxruntime", "tf2onnx")))
LITERT = pytest.mark.skipif(not hasattr(tf, "lite"), reason="no tf.lite")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    with tk.topkast_scope(0.9, 0.8):
        return keras.Sequential(
            [
                keras.Input((16, 16, 8)),
                layers.Conv2D(64, 1, activation="relu"),
                layers.Conv2D(64, 3, strides=2, activation="relu"),
                layers.Flatten(),
                layers.Dense(64),
            ]
        )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(1, 16, 16, 8)).astype(np.float32)


@LITERT
@pytest.mark.parametrize("stripped", [False, True])
def test_litert(model, images, stripped, tmp_path):
    given = tk.strip(model, kernels="native") if stripped else model
    paths = {
        is_sparse: tk.export_litert(
            given, tmp_path / f"{is_sparse}.tflite", sparse_encoding=is_sparse
        )
        for is_sparse in (False, True)
    }
    Interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter
    whole, sparse = (path.read_bytes() for path in paths.values())
    entries = sum(int(w.forward_mask().sum()) for w in tk.sparse_weights(model))
    size = sum(w.forward_mask().size for w in tk.sparse_weights(model))
    assert len(whole) > 4 * size > 0
    assert 4 * entries < len(sparse) < 0.25 * len(whole)
    assert len(gzip.compress(whole, 9)) < 0.3 * len(whole)
    for content in (whole, sparse):
        interpreter = Interpreter(model_content=content)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
        interpreter.invoke()
        found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        np.testing.assert_allclose(found, model(images), rtol=1e-4, atol=1e-5)


@LITERT
def test_what_litert_refuses(tmp_path, monkeypatch):
    with pytest.raises(TypeError, match="Expected a Keras model or layer"):
        tk.export_litert("model", tmp_path / "x.tflite")
    monkeypatch.delattr(tf.lite, "TFLiteConverter")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    with pytest.raises(RuntimeError, match="Expected a TensorFlow with tf.lite"):
        tk.export_litert(model, tmp_path / "x.tflite")


@pytest.mark.skipif(not HAS_ONNX, reason="needs onnxruntime and tf2onnx")
def test_onnx(model, images, tmp_path):
    import onnxruntime

    path = pathlib.Path(tmp_path / "model.onnx")
    plain = tk.strip(model)
    plain(images)  # Keras asks for a model that was called
    plain.export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [found] = session.run(None, {session.get_inputs()[0].name: images})
    np.testing.assert_allclose(found, model(images), rtol=1e-4, atol=1e-5)
    content = path.read_bytes()
    assert len(gzip.compress(content, 9)) < 0.3 * len(content)
