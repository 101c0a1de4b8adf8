"""SWAT in models of tf_keras."""

import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from swat_tf import swat_scope
from tests.swat import swat_oracle as oracle


@pytest.mark.parametrize(
    "jit_compile",
    [
        pytest.param(False, id="graph"),
        pytest.param(True, id="xla", marks=pytest.mark.slow),
    ],
)
def test_training_and_saving_in_tf_keras(jit_compile, digits, tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    tf_keras.utils.set_random_seed(0)
    with swat_scope(0.8, topk_period=2):
        model = tf_keras.Sequential(
            [
                tf_keras.layers.Conv2D(8, 3, input_shape=(8, 8, 1)),
                tf_keras.layers.SeparableConv2D(4, 3),
                tf_keras.layers.Flatten(),
                tf_keras.layers.Dense(16, activation="relu"),
                tf_keras.layers.Dense(10),
            ]
        )
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sgd = tf_keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(sgd, loss, jit_compile=jit_compile)
    weights = tk.sparse_weights(model)
    assert [w.shape for w in weights] == [(3, 3, 1, 8), (64, 16), (16, 10)]
    # The last layer's gradient, at the largest of its inputs.
    images, labels = digits[0][:32], digits[1][:32]
    features = tf_keras.Model(model.inputs, model.layers[-2].output)(images)
    with tf.GradientTape() as tape:
        outputs = model(images)
    found = tape.gradient(outputs, model.layers[-1].kernel)
    expected = oracle.keep(features.numpy(), 0.8).T @ np.ones((32, 10))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    before = [w.dense() for w in weights]
    model.fit(images, labels, batch_size=8, verbose=0)
    for weight, theta in zip(weights, before, strict=True):
        assert weight.step == 4 and np.any(
            (weight.dense() != theta) & ~weight.forward_mask()
        )
    model.save(tmp_path / "model.keras")
    loaded = tf_keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(images, verbose=0), model.predict(images, verbose=0), rtol=1e-5
    )
    assert [w.rule for w in tk.sparse_weights(loaded)] == [w.rule for w in weights]
