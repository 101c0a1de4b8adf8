"""`sparsify` prunes a dense model at once, and keeps everything else."""

import keras
import numpy as np
import pytest
from keras import layers

import topkast_tf as tk
from swat_tf import swat_scope
from tests import zoo
from tests.layers.begun_models import LOSS, dense_model, sparse_model, trained


@pytest.fixture(scope="module")
def trained_dense():
    """One model for all tests, which only read it."""
    model = trained(dense_model())
    model.optimizer.learning_rate.assign(0.025)  # not what it was compiled with
    return model


def magnitude_pruned(kernel, sparsity):
    """The definition: the kept(n, s) largest stay, ties by the lower index."""
    flat = kernel.ravel()
    order = sorted(range(flat.size), key=lambda i: (-abs(flat[i]), i))
    keep = order[: max(1, flat.size - int(sparsity * flat.size))]
    pruned = np.zeros_like(flat)
    pruned[keep] = flat[keep]
    return pruned.reshape(kernel.shape)


@pytest.mark.parametrize(
    "builder", [b for b in zoo.KERNELS if b is not zoo.application]
)
def test_sparsify_prunes_any_model_at_once(builder):
    dense = dense_model(builder)
    before = [v.numpy() for v in dense.weights]
    model = tk.sparsify(dense, 0.5, 0.25)
    weights = tk.sparse_weights(model)
    assert len(weights) == zoo.KERNELS[builder]
    thetas = {id(w.variable): w for w in weights}
    twin = builder()
    twin(zoo.images(builder))
    for old, made, target in zip(before, model.weights, twin.weights, strict=True):
        np.testing.assert_array_equal(made.numpy(), old)
        is_sparse = id(made.value) in thetas
        target.assign(magnitude_pruned(old, 0.5) if is_sparse else old)
    np.testing.assert_allclose(
        model(zoo.images(builder)), twin(zoo.images(builder)), rtol=1e-4, atol=1e-5
    )
    for old, variable in zip(before, dense.weights, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)


def test_sparsify_with_the_scope_of_another_method(trained_dense):
    model = tk.sparsify(trained_dense, swat_scope(0.9, exempt="first"))
    assert [w.method.name for w in tk.sparse_weights(model)] == ["swat"] * 2
    with pytest.raises(ValueError, match="no other arguments"):
        tk.sparsify(trained_dense, swat_scope(0.9), refresh_every=3)


def test_sparsify_keeps_the_compile_settings(trained_dense):
    model = tk.sparsify(trained_dense, 0.5, 0.25)
    assert float(model.optimizer.learning_rate) == np.float32(0.025)
    assert int(model.optimizer.iterations) == 0
    model.fit(
        zoo.images(zoo.functional), zoo.labels(), batch_size=4, epochs=1, verbose=0
    )
    assert [w.step for w in tk.sparse_weights(model)] == [2, 2, 2]
    uncompiled = tk.sparsify(dense_model(), 0.5, 0.25)
    assert not uncompiled.compiled


def test_sparsify_keeps_unregistered_losses_and_metrics():
    class Calls(keras.metrics.Metric):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.count = self.add_weight(name="count", initializer="zeros")

        def update_state(self, *args, **kwargs):
            self.count.assign_add(1.0)

        def result(self):
            return self.count

    images, labels = zoo.images(zoo.functional), zoo.labels()
    dense = dense_model()
    dense.compile("sgd", lambda y, p: LOSS(y, p), metrics=[Calls(name="calls")])
    dense.fit(images, labels, batch_size=4, verbose=0)
    model = tk.sparsify(dense, 0.5, 0.25)
    history = model.fit(images, labels, batch_size=2, verbose=0).history
    assert history["calls"] == [4.0]
    assert dense.get_metrics_result()["calls"] == 2.0


def test_sparsify_leaves_frozen_layers_dense():
    dense = dense_model()
    dense.layers[1].trainable = False
    model = tk.sparsify(dense, 0.5, 0.25)
    assert len(tk.sparse_weights(model)) == 2
    assert not model.layers[1].trainable


def test_sparsify_and_strip_are_inverse_at_zero_sparsity(trained_dense):
    plain = tk.strip(tk.sparsify(trained_dense, 0.0, 0.0))
    for one, other in zip(trained_dense.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_sparsify_refuses_invalid_models_and_arguments():
    with pytest.raises(ValueError, match="which has sparse weights"):
        tk.sparsify(sparse_model(), 0.5, 0.25)
    with pytest.raises(TypeError, match="Keras model"):
        tk.sparsify(np.ones(3), 0.5, 0.25)
    with pytest.raises(ValueError, match="built model"):
        tk.sparsify(zoo.unbuilt_sequential(), 0.5, 0.25)
    with pytest.raises(ValueError, match="0 <= bwd <= fwd < 1"):
        tk.sparsify(dense_model(), 0.5)

    class NoConfig(keras.Model):
        def __init__(self, units):
            super().__init__()
            self.inner = layers.Dense(units)

        def call(self, inputs):
            return self.inner(inputs)

        def get_config(self):
            raise NotImplementedError

    model = NoConfig(3)
    model(np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match="get_config"):
        tk.sparsify(model, 0.5, 0.25)
