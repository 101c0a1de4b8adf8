"""Transformer-XL in the scopes of Top-KAST and SWAT."""

import keras
import numpy as np

import swat_tf
import topkast_tf
from launch.models import transformer_xl_counts as counts
from launch.models.transformer_xl import TransformerXL
from tests.launch import transformer_xl_oracle as oracle
from tests.launch.transformer_xl_models import (
    CLUSTERS,
    ONE,
    dataset,
    empty,
    quiet_fit,
    text,
    weights,
)


def test_topkast_makes_the_kernels_sparse_and_fit_keeps_the_reservoir():
    keras.utils.set_random_seed(0)
    with topkast_tf.topkast_scope(fwd=0.8, bwd=0.6):
        model = TransformerXL(ONE)
    sparse = {w.path.split("/", 1)[1]: w for w in topkast_tf.sparse_weights(model)}
    expected = counts.sparsified(ONE)
    assert set(sparse) == {path for path, made in expected.items() if made}
    assert len(sparse) == 7
    model.compile(keras.optimizers.SGD(0.5), jit_compile=False)
    before = {p: (w.dense().copy(), w.backward_mask()) for p, w in sparse.items()}
    found = quiet_fit(model, dataset(segments=1))
    assert found["loss"][0] > found["nll"][0]  # by the exploration loss
    for path, (theta, mask) in before.items():
        after = sparse[path].dense()
        np.testing.assert_array_equal(after[~mask], theta[~mask])
        assert (after != theta)[mask].any()
    plain = topkast_tf.strip(model)
    model.reset_memory()
    tokens = text()[0][0]
    np.testing.assert_allclose(plain(tokens), model(tokens), rtol=1e-5, atol=1e-6)


def test_embeddings_are_sparse_on_request():
    config = ONE.replaced(**CLUSTERS, div_val=4)
    include = counts.sparse_patterns(sparse_embeddings=True)
    with topkast_tf.topkast_scope(fwd=0.5, bwd=0.25, include=include):
        model = TransformerXL(config)
    sparse = {w.path.split("/", 1)[1] for w in topkast_tf.sparse_weights(model)}
    expected = counts.sparsified(config, sparse_embeddings=True)
    assert sparse == set(expected) and all(expected.values())
    summary = topkast_tf.summary(model)
    assert summary.kept_parameters == counts.count_kept(config, 0.5, True)
    # It computes with alpha, also in row look-ups and in the softmax.
    w = weights(model)
    for made in topkast_tf.sparse_weights(model):
        w[made.path.split("/", 1)[1]] = np.float64(made.effective())
    tokens = text()[0][0]
    hidden, _ = model.core(tokens, empty(config), training=False)
    for row in range(2):
        expected, _ = oracle.forward(w, config, tokens[row], np.zeros((1, 0, 8)))
        np.testing.assert_allclose(hidden[row], expected, rtol=1e-4, atol=1e-5)
        last = oracle.probabilities(w, config, expected[-1])
        found = np.exp(model.softmax(hidden))[row, -1]
        np.testing.assert_allclose(found, last, rtol=1e-4)


def test_swat_trains_every_kernel():
    with swat_tf.swat_scope(0.5):
        model = TransformerXL(ONE)
    sparse = topkast_tf.sparse_weights(model)
    assert len(sparse) == 7
    model.compile(keras.optimizers.SGD(0.5), jit_compile=False)
    before = [w.dense().copy() for w in sparse]
    assert np.isfinite(quiet_fit(model, dataset(segments=1))["nll"][0])
    for weight, old in zip(sparse, before, strict=True):
        assert weight.forward_sparsity == 0.5
        assert (weight.dense() != old).any()
