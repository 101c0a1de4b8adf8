"""Transformer-XL's equations: an oracle, finite differences, attention masks."""

import math

import numpy as np
import pytest
import tensorflow as tf

from launch.models.relative_attention import relative_shift, sinusoids, visible
from tests.launch import transformer_xl_oracle as oracle
from tests.launch.transformer_xl_models import (
    EACH,
    ONE,
    TINY,
    VARIANTS,
    build,
    random_memory,
    text,
    weights,
)


def test_shift_by_hand():
    # Columns are the distances 3, 2, 1, 0; the first query stands at key 2.
    scores = tf.constant([[30, 20, 10, 0], [31, 21, 11, 1]])
    found = relative_shift(scores).numpy()
    assert found[0, :3].tolist() == [20, 10, 0]
    assert found[1].tolist() == [31, 21, 11, 1]


@pytest.mark.parametrize("queries, keys", [(1, 1), (1, 4), (3, 3), (3, 7)])
def test_shift_aligns_each_distance_with_its_key(queries, keys):
    distances = np.broadcast_to(np.arange(keys)[::-1], (2, queries, keys))
    found = relative_shift(tf.constant(distances)).numpy()
    for i in range(queries):
        for j in range(i + keys - queries + 1):
            assert (found[:, i, j] == i + keys - queries - j).all()


def test_encodings_equal_the_oracle():
    expected = [oracle.encoding(min(d, 4), 6) for d in range(6, -1, -1)]
    np.testing.assert_allclose(sinusoids(7, 6, 4), expected, atol=1e-6)
    exact = sinusoids(7, 6, 4, "float64")
    np.testing.assert_allclose(exact, expected, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("d_model", [6, 8])
def test_scale_of_the_embedding_is_exact_in_float64(d_model):
    config = ONE.replaced(d_model=d_model)
    embedding = build(config, dtype="float64").core.embedding
    found = embedding(np.arange(11)[None]).numpy()[0]
    np.testing.assert_array_equal(found, embedding.tables[0].numpy() * d_model**0.5)


@pytest.mark.parametrize(
    "dtype, near",
    [
        ("float32", {"rtol": 1e-4, "atol": 1e-5}),
        ("float64", {"rtol": 1e-12, "atol": 1e-13}),
    ],
)
@EACH
def test_model_equals_the_oracle(variant, dtype, near):
    config = VARIANTS[variant]
    model = build(config, dtype=dtype)
    inputs, targets = (part[0] for part in text())
    memory = random_memory(config).astype(dtype)
    hidden, following = model.core(inputs, list(memory), training=False)
    nll = model.softmax(hidden, targets).numpy()
    w = weights(model)
    for row in range(len(inputs)):
        expected, seen = oracle.forward(
            w,
            config,
            inputs[row],
            np.float64(memory[:, row]),
            config.evaluation_clamp_len,
            config.same_length,
        )
        np.testing.assert_allclose(hidden[row], expected, **near)
        for found, states in zip(following, seen, strict=True):
            np.testing.assert_allclose(found[row], states[4:], **near)
        for at, target in enumerate(targets[row]):
            p = oracle.probabilities(w, config, expected[at])[target]
            assert nll[row, at] == pytest.approx(-math.log(p), rel=near["rtol"])


def test_gradients_match_finite_differences():
    config = VARIANTS["narrowing"].replaced(untie_biases=False)
    model = build(config, dtype="float64")
    inputs, targets = (part[0] for part in text())
    memory = list(random_memory(config).astype("float64"))

    def loss():
        hidden, _ = model.core(inputs, memory, training=True)
        return tf.reduce_mean(model.softmax(hidden, targets))

    with tf.GradientTape() as tape:
        value = loss()
    gradients = tape.gradient(value, [w.value for w in model.trainable_weights])
    random = np.random.default_rng(2)
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        direction = random.normal(size=weight.shape)
        slope = np.sum(tf.convert_to_tensor(gradient).numpy() * direction)
        kept, changes = weight.numpy(), []
        for step in (1e-6, -1e-6):
            weight.assign(kept + step * direction)
            changes.append(loss().numpy())
        weight.assign(kept)
        expected = (changes[0] - changes[1]) / 2e-6
        assert slope == pytest.approx(expected, rel=1e-5, abs=1e-8), weight.path


def test_no_token_attends_to_a_later_one():
    model = build()
    inputs = text()[0][0]
    changed = inputs.copy()
    changed[:, 2] = (changed[:, 2] + 1) % 11
    memory = list(random_memory(TINY))
    before, after = (
        model.core(tokens, memory, training=False)[0].numpy()
        for tokens in (inputs, changed)
    )
    np.testing.assert_array_equal(before[:, :2], after[:, :2])
    assert (np.abs(before - after)[:, 2:].max(-1) > 1e-3).all()


def test_same_length_hides_the_oldest_state_from_all_but_the_first_token():
    model = build(ONE.replaced(same_length=True))
    inputs, memory = text()[0][0], random_memory(ONE)
    other = memory.copy()
    other[:, :, 0] += 1

    def difference(training):
        found = [
            model.core(inputs, list(m), training=training)[0] for m in (memory, other)
        ]
        return np.abs(found[0] - found[1]).max((0, 2))

    assert difference(False)[0] > 1e-3 and not difference(False)[1:].any()
    assert (difference(True) > 1e-4).all()  # only in evaluation
    assert visible(4, 9, same_length=True).numpy().sum(1).tolist() == [6] * 4


def test_evaluation_clamp_length_is_not_used_in_training():
    config = ONE.replaced(evaluation_clamp_len=2)
    clamped, free = build(config), build(ONE)
    inputs, memory = text()[0][0], list(random_memory(ONE))
    for training, same in ((True, True), (False, False)):
        a, b = (m.core(inputs, memory, training=training)[0] for m in (clamped, free))
        assert np.allclose(a, b, atol=1e-6) == same
