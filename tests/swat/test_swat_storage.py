"""Packed storage of SWAT's activations: equal training, and no output kept twice."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from tests import zoo
from tests.swat.swat_models import LOSS, build


def test_packed_storage_trains_bitwise_like_dense(digits):
    def after(storage):
        model = build(zoo.functional, storage=storage)
        model.compile(model.optimizer, LOSS, jit_compile=False)
        model.fit(*digits, batch_size=32, verbose=0, shuffle=False)
        return model

    dense, packed = after("dense"), after("packed")
    for one, other in zip(
        dense.trainable_weights, packed.trainable_weights, strict=True
    ):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_packed_storage_keeps_no_relu_output(digits):
    """Not even that of the first layer, which is left dense."""
    model = build(exempt="first", storage="packed")

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x, training=True))
        return tape.gradient(loss, model.trainable_variables)

    graph = gradients.get_concrete_function(tf.constant(digits[0][:4])).graph
    ops = [op.type for op in graph.get_operations()]
    assert "Relu" in ops
    assert "ReluGrad" not in ops


def test_packed_storage_is_not_compiled_by_xla():
    model = build(storage="packed")
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        model.compile(model.optimizer, LOSS, jit_compile=True)
    assert not model.jit_compile


def test_packed_relu_layers_are_restored(tmp_path, digits):
    model = build(zoo.functional, storage="packed")
    model.fit(*digits, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        model.predict(digits[0], verbose=0), loaded.predict(digits[0], verbose=0)
    )
    names = [type(layer).__name__ for layer in tk.strip(model).layers]
    assert "ReLU" in names
    assert "topkast" not in str(keras.saving.serialize_keras_object(tk.strip(model)))
