"""Every kind of model becomes sparse, and computes with alpha in every mode."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from tests import zoo

# The others compile slowly in Keras itself, or resemble one of these.
_QUICK = (zoo.sequential, zoo.shared, zoo.attention, zoo.Subclassed)
_TRAINED = [
    pytest.param(builder, marks=[] if builder in _QUICK else [pytest.mark.slow])
    for builder in zoo.KERNELS
]


def sparse(builder, **kwargs):
    with tk.topkast_scope(**{"fwd": 0.9, "bwd": 0.8, **kwargs}):
        return builder()


@pytest.fixture(scope="module", params=zoo.KERNELS, ids=lambda b: b.__name__)
def built(request):
    """Builder, inputs, sparse model and its outputs, which tests only read."""
    keras.utils.set_random_seed(0)
    builder, inputs = request.param, zoo.images(request.param)
    model = sparse(builder)
    return builder, inputs, model, model(inputs).numpy()


def test_outputs_equal_a_dense_model_with_the_alphas(built):
    builder, inputs, model, eager = built
    assert len(tk.sparse_weights(model)) == zoo.KERNELS[builder]
    expected = zoo.dense_twin(builder, model, inputs)(inputs).numpy()
    assert np.any(expected)
    np.testing.assert_allclose(eager, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        model.predict(inputs, verbose=0), expected, rtol=1e-5, atol=1e-5
    )


def test_reads_outside_a_forward_pass_are_dense(built):
    for weight in tk.sparse_weights(built[2]):
        theta = tf.convert_to_tensor(weight.variable).numpy()
        np.testing.assert_array_equal(theta, weight.dense())
        # Inside, only A is used; outside the reservoir keeps its initial values.
        assert (theta != 0).mean() > 0.9 * (1 - weight.forward_sparsity)
        assert np.count_nonzero(theta) > np.count_nonzero(weight.effective())


def test_stripped_model_is_plain_and_computes_the_same(built):
    _, inputs, model, expected = built
    plain = tk.strip(model)
    np.testing.assert_allclose(plain(inputs).numpy(), expected, rtol=1e-5, atol=1e-6)
    assert tk.sparse_weights(plain) == []
    assert not any(v.name.endswith(("_sets", "_clock")) for v in plain.weights)
    assert "topkast" not in str(keras.saving.serialize_keras_object(plain))


def seen(model):
    weights = tk.sparse_weights(model)
    return {w.path: (w.dense(), w.backward_mask(), w.step) for w in weights}


@pytest.fixture(scope="module", params=_TRAINED, ids=lambda b: b.__name__)
def trained(request):
    """Builder, model, and its state before and after training; tests only read it."""
    keras.utils.set_random_seed(0)
    builder, inputs = request.param, zoo.images(request.param)
    model = sparse(builder, refresh_every=100)
    model.compile(
        keras.optimizers.AdamW(0.01, weight_decay=0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model(inputs)
    before = seen(model)
    model.fit(inputs, zoo.labels(), batch_size=4, epochs=2, verbose=0)
    after = seen(model)
    tk.refresh(model)  # so that a file holds other sets than the initial ones
    return builder, model, before, after


def test_training_changes_b_and_keeps_c_bitwise(trained):
    _, _, before, after = trained
    for path, (old, mask, _) in before.items():
        new, mask_after, step = after[path]
        assert step == 4
        np.testing.assert_array_equal(mask_after, mask)
        changed = new.view(np.int32) != old.view(np.int32)
        assert not np.any(changed & ~mask), path
        assert np.all(changed[mask]), path  # weight decay reaches all of B


def test_saved_model_is_restored(trained, tmp_path):
    builder, model, *_ = trained
    inputs = zoo.images(builder)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        model.predict(inputs, verbose=0), loaded.predict(inputs, verbose=0)
    )
    ours, theirs = tk.sparse_weights(model), tk.sparse_weights(loaded)
    assert len(ours) == len(theirs) == zoo.KERNELS[builder]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.codes(), other.codes())
        np.testing.assert_array_equal(one.dense(), other.dense())
        assert (one.fwd, one.bwd, one.step) == (other.fwd, other.bwd, other.step)
