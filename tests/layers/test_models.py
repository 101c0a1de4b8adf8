"""Every kind of model becomes sparse, and computes with alpha in every mode."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from tests import zoo

# The others take long to compile, by Keras itself, or are much like one of these.
_QUICK = (zoo.sequential, zoo.shared, zoo.attention, zoo.Subclassed)
BUILDERS = pytest.mark.parametrize("builder", zoo.KERNELS, ids=lambda b: b.__name__)
TRAINED = pytest.mark.parametrize(
    "builder",
    [
        pytest.param(builder, marks=[] if builder in _QUICK else [pytest.mark.slow])
        for builder in zoo.KERNELS
    ],
    ids=lambda b: b.__name__,
)


def sparse(builder, **kwargs):
    with tk.topkast_scope(**{"fwd": 0.9, "bwd": 0.8, **kwargs}):
        return builder()


@BUILDERS
def test_outputs_are_those_of_a_dense_model_with_the_alphas(builder):
    inputs = zoo.images(builder)
    model = sparse(builder)
    eager = model(inputs).numpy()
    assert len(tk.sparse_weights(model)) == zoo.KERNELS[builder]
    expected = zoo.dense_twin(builder, model, inputs)(inputs).numpy()
    assert np.any(expected)
    np.testing.assert_allclose(eager, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        model.predict(inputs, verbose=0), expected, rtol=1e-5, atol=1e-5
    )


@BUILDERS
def test_reads_outside_a_forward_pass_are_dense(builder):
    inputs = zoo.images(builder)
    model = sparse(builder)
    model(inputs)
    for weight in tk.sparse_weights(model):
        theta = tf.convert_to_tensor(weight.variable).numpy()
        np.testing.assert_array_equal(theta, weight.dense())
        # Inside, only A is used; outside the reservoir keeps its initial values.
        assert (theta != 0).mean() > 0.9 * (1 - weight.forward_sparsity)
        assert np.count_nonzero(theta) > np.count_nonzero(weight.effective())


@TRAINED
def test_training_moves_b_and_leaves_c_bit_for_bit(builder):
    inputs, labels = zoo.images(builder), zoo.labels()
    model = sparse(builder, refresh_every=100)
    model.compile(
        keras.optimizers.AdamW(0.01, weight_decay=0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model(inputs)
    before = {w.path: w.dense() for w in tk.sparse_weights(model)}
    masks = {w.path: w.backward_mask() for w in tk.sparse_weights(model)}
    model.fit(inputs, labels, batch_size=4, epochs=2, verbose=0)
    for weight in tk.sparse_weights(model):
        assert weight.step == 4
        after, mask = weight.dense(), masks[weight.path]
        np.testing.assert_array_equal(weight.backward_mask(), mask)
        changed = after.view(np.int32) != before[weight.path].view(np.int32)
        assert not np.any(changed & ~mask), weight.path
        assert np.all(changed[mask]), weight.path  # weight decay reaches all of B


@TRAINED
def test_saved_model_comes_back_the_same(builder, tmp_path):
    inputs, labels = zoo.images(builder), zoo.labels()
    model = sparse(builder)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(inputs, labels, verbose=0)
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


@BUILDERS
def test_stripped_model_is_plain_and_computes_the_same(builder, tmp_path):
    inputs = zoo.images(builder)
    model = sparse(builder)
    expected = model(inputs).numpy()
    plain = tk.strip(model)
    np.testing.assert_allclose(plain(inputs).numpy(), expected, rtol=1e-5, atol=1e-6)
    assert tk.sparse_weights(plain) == []
    assert not any(v.name.endswith(("_sets", "_clock")) for v in plain.weights)
    assert "topkast" not in str(keras.saving.serialize_keras_object(plain))
