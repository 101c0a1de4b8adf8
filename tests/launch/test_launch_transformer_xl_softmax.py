"""Transformer-XL's adaptive softmax: clusters, ties to the embedding, precision."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.launch.transformer_xl_models import (
    EACH,
    TINY,
    VARIANTS,
    build,
    dataset,
    quiet_fit,
    text,
    weights,
)


@EACH
def test_probabilities_of_all_tokens_sum_to_one(variant):
    config = VARIANTS[variant]
    model = build(config)
    hidden = np.random.default_rng(0).normal(size=(2, 3, 8)).astype("float32")
    found = model.softmax(hidden).numpy()
    assert found.shape == (2, 3, 11)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1, rtol=1e-5)
    targets = np.random.default_rng(0).integers(0, 11, (2, 3))
    expected = -np.take_along_axis(found, targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(model.softmax(hidden, targets), expected, rtol=1e-5)


def test_softmax_without_clusters_is_plain_and_tied():
    model = build()
    w = weights(model)
    hidden = np.random.default_rng(0).normal(size=(1, 3, 8)).astype("float32")
    logits = hidden @ w["core/embedding/embeddings_0"].T + w["softmax/bias_0"]
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(model.softmax(hidden), expected, rtol=1e-4, atol=1e-5)


def test_rows_of_clusters_are_in_the_order_of_clusters():
    model = build(TINY.replaced(cutoffs=(4, 7)), std=0)
    for table in (model.core.embedding.tables[0], model.softmax.cluster_table):
        table.assign(tf.zeros_like(table))
    model.softmax.cluster_bias.assign([math.log(2), math.log(6)])
    # Of 4 tokens and 2 clusters, with the odds 1, 1, 1, 1, 2 and 6.
    p = np.exp(model.softmax(np.zeros((1, 1, 8), "float32")))[0, 0]
    by_cluster = [p[:4].sum(), p[4:7].sum(), p[7:].sum()]
    np.testing.assert_allclose(by_cluster, np.array([4, 2, 6]) / 12, rtol=1e-5)


def test_softmax_projection_without_cutoffs_is_not_tied():
    model = build(TINY.replaced(d_embed=6))
    hidden = np.random.default_rng(0).normal(size=(1, 3, 8)).astype("float32")
    embedding, softmax = model.core.embedding, model.softmax
    before = softmax(hidden).numpy()
    embedding.projections[0].assign(tf.zeros((6, 8)))
    np.testing.assert_array_equal(softmax(hidden), before)
    softmax.projections["0"].assign(tf.zeros((6, 8)))
    assert not np.allclose(softmax(hidden), before)


def test_batches_without_and_with_only_rare_tokens():
    model = build(VARIANTS["narrowing"])
    hidden = np.random.default_rng(0).normal(size=(1, 4, 8)).astype("float32")
    every = model.softmax(hidden).numpy()
    for token in (0, 10):
        found = model.softmax(hidden, np.full((1, 4), token)).numpy()
        np.testing.assert_allclose(found, -every[..., token], rtol=1e-5)


def test_targets_outside_the_vocabulary_are_refused():
    for variant in ("plain", "narrowing"):
        model = build(VARIANTS[variant])
        for token in (-1, 11):
            with pytest.raises(tf.errors.InvalidArgumentError, match="label value"):
                model.softmax(np.zeros((1, 1, 8), "float32"), np.full((1, 1), token))


def test_mixed_precision_keeps_softmaxes_in_float32():
    config = VARIANTS["narrowing"].replaced(untie_biases=False)
    inputs, targets = (part[0] for part in text())
    found = {}
    for policy in ("float32", "mixed_bfloat16"):
        model = build(config, std=0.1, dtype=policy)
        hidden = model(inputs)
        found[policy] = model.softmax(hidden, targets)
        assert found[policy].dtype == "float32"
    assert hidden.dtype == "bfloat16"
    np.testing.assert_allclose(*found.values(), rtol=0.05)
    assert not np.array_equal(*found.values())
    model.compile("sgd", jit_compile=False)
    assert np.isfinite(quiet_fit(model, dataset())["nll"][0])
