"""Transformer-XL: its equations, its memory, its loss, its sizes."""

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import swat_tf
import topkast_tf
from launch.models import transformer_xl_counts as counts
from launch.models.relative_attention import relative_shift, sinusoids, visible
from launch.models.segment_memory import ResetMemory
from launch.models.transformer_xl import TransformerXL
from launch.models.transformer_xl_config import CONFIGS, TransformerXLConfig, find
from launch.models.transformer_xl_flops import count_token_flops
from launch.run import gradient_step
from tests import zoo
from tests.launch import transformer_xl_oracle as oracle
from topkast_tf.analysis.flops import count_flops

TINY = CONFIGS["txl_tiny"]
ONE = TINY.replaced(layers=1)
CLUSTERS = {"cutoffs": (3, 6), "d_embed": 16}
VARIANTS = {
    "plain": TINY,
    "shared_biases": TINY.replaced(untie_biases=False),
    "embedding_projected": TINY.replaced(d_embed=6),
    "clusters": TINY.replaced(cutoffs=(3, 6)),
    "clusters_projected": TINY.replaced(cutoffs=(3, 6), d_embed=6),
    "narrowing": TINY.replaced(**CLUSTERS, div_val=4),
    "narrowing_untied": TINY.replaced(**CLUSTERS, div_val=4, tie_projections=False),
    "clamped": TINY.replaced(evaluation_clamp_len=3),
    "same_length": TINY.replaced(same_length=True),
}
EACH = pytest.mark.parametrize("variant", VARIANTS)


def build(config=TINY, std=0.3, seed=0, **kwargs):
    """A model with all its weights, also biases and norms, at random."""
    keras.utils.set_random_seed(seed)
    model = TransformerXL(config, **kwargs)
    if std:
        randomise(model, std)
    return model


def randomise(model, std=0.3):
    random = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(random.normal(0, std, weight.shape))


def compiled(config=TINY, rate=0.1, **kwargs):
    model = build(config, **kwargs)
    model.compile(keras.optimizers.SGD(rate), jit_compile=False)
    return model


def weights(model):
    return {w.path.split("/", 1)[1]: np.float64(w) for w in model.trainable_weights}


def text(batch=2, segments=3, length=4, seed=0, vocabulary=11):
    """Segments that continue each other: inputs and targets [segments, batch, length]."""
    tokens = np.random.default_rng(seed).integers(
        0, vocabulary, (batch, segments * length + 1), np.int32
    )
    return tuple(
        part.reshape(batch, segments, length).swapaxes(0, 1)
        for part in (tokens[:, :-1], tokens[:, 1:])
    )


def dataset(*arguments, **keywords):
    return tf.data.Dataset.from_tensor_slices(text(*arguments, **keywords))


def empty(config, batch=2):
    return [tf.zeros((batch, 0, config.d_model))] * config.layers


def random_memory(config, states=5, batch=2):
    shape = (config.layers, batch, states, config.d_model)
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def quiet_fit(model, data, **kwargs):
    return model.fit(data, shuffle=False, verbose=0, **kwargs).history


# The equations


def test_shift_by_hand():
    # Columns are the distances 3, 2, 1, 0; the first query stands at key 2.
    scores = tf.constant([[30, 20, 10, 0], [31, 21, 11, 1]])
    found = relative_shift(scores).numpy()
    assert found[0, :3].tolist() == [20, 10, 0]
    assert found[1].tolist() == [31, 21, 11, 1]


@pytest.mark.parametrize("queries, keys", [(1, 1), (1, 4), (3, 3), (3, 7)])
def test_shift_brings_each_distance_to_its_key(queries, keys):
    distances = np.broadcast_to(np.arange(keys)[::-1], (2, queries, keys))
    found = relative_shift(tf.constant(distances)).numpy()
    for i in range(queries):
        for j in range(i + keys - queries + 1):
            assert (found[:, i, j] == i + keys - queries - j).all()


def test_encodings_are_those_of_the_oracle():
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
def test_whole_model_is_the_oracle(variant, dtype, near):
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


def test_gradients_are_finite_differences():
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


def test_no_token_sees_a_later_one():
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
    assert (difference(True) > 1e-4).all()  # for evaluation alone
    assert visible(4, 9, same_length=True).numpy().sum(1).tolist() == [6] * 4


def test_clamp_length_of_evaluation_does_not_hold_in_training():
    config = ONE.replaced(evaluation_clamp_len=2)
    clamped, free = build(config), build(ONE)
    inputs, memory = text()[0][0], list(random_memory(ONE))
    for training, same in ((True, True), (False, False)):
        a, b = (m.core(inputs, memory, training=training)[0] for m in (clamped, free))
        assert np.allclose(a, b, atol=1e-6) == same


# The softmax


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


def test_without_clusters_it_is_a_plain_softmax_tied_to_the_embedding():
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


def test_without_cutoffs_a_projection_of_the_softmax_is_its_own():
    model = build(TINY.replaced(d_embed=6))
    hidden = np.random.default_rng(0).normal(size=(1, 3, 8)).astype("float32")
    embedding, softmax = model.core.embedding, model.softmax
    before = softmax(hidden).numpy()
    embedding.projections[0].assign(tf.zeros((6, 8)))
    np.testing.assert_array_equal(softmax(hidden), before)
    softmax.projections["0"].assign(tf.zeros((6, 8)))
    assert not np.allclose(softmax(hidden), before)


def test_a_batch_without_rare_tokens_and_one_with_no_others():
    model = build(VARIANTS["narrowing"])
    hidden = np.random.default_rng(0).normal(size=(1, 4, 8)).astype("float32")
    every = model.softmax(hidden).numpy()
    for token in (0, 10):
        found = model.softmax(hidden, np.full((1, 4), token)).numpy()
        np.testing.assert_allclose(found, -every[..., token], rtol=1e-5)


def test_targets_that_are_no_tokens_are_refused():
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


# The memory


def test_two_segments_with_memory_are_one_long_segment():
    model = build()
    inputs = text(segments=1, length=8)[0][0]
    whole, _ = model.core(inputs, empty(TINY), training=False)
    first, _ = model.core(inputs[:, :4], empty(TINY), training=False)
    # What came into each block in the first half is what the second remembers.
    memory = []
    w = weights(model)
    for i in range(TINY.layers):
        states = [
            oracle.forward(w, TINY, row[:4], np.zeros((2, 0, 8)))[1] for row in inputs
        ]
        memory.append(np.float32([seen[i] for seen in states]))
    second, _ = model.core(inputs[:, 4:], memory, training=False)
    np.testing.assert_allclose(
        np.concatenate([first, second], 1), whole, rtol=1e-4, atol=1e-5
    )


def test_calls_that_see_equally_far_are_one_long_segment():
    config = TINY.replaced(same_length=True)
    model = build(config)
    inputs = text(segments=4)[0]
    parts = [model(segment).numpy() for segment in inputs]
    whole, _ = model.core(
        np.concatenate(inputs, 1), [tf.zeros((2, 4, 8))] * 2, training=False
    )
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=1e-4, atol=1e-5)


def test_without_memory_each_segment_stands_alone():
    model = build(TINY.replaced(memory_length=0))
    inputs = text()[0]
    for segment in inputs[:2]:
        expected, _ = model.core(segment, empty(TINY), training=False)
        np.testing.assert_array_equal(model(segment), expected)
    assert not model.memory.values("evaluation")


def test_the_model_remembers_as_the_core_does():
    model = build()
    inputs, _ = text()
    memory = [tf.zeros((2, 4, 8))] * 2
    for segment in inputs:
        expected, memory = model.core(segment, memory, training=False)
        np.testing.assert_array_equal(model(segment), expected)


def test_memory_longer_and_shorter_than_a_segment():
    model = build(TINY.replaced(evaluation_memory_length=6))
    inputs, _ = text()
    for segment in inputs[:2]:
        model(segment)
    states = model.memory.values("evaluation")
    assert {value.shape for value in states.values()} == {(2, 6, 8)}
    embedded = np.concatenate([model.core.embedding(s) for s in inputs[:2]], 1)
    [first, _] = states.values()
    np.testing.assert_allclose(first, embedded[:, -6:], rtol=1e-6)
    model.evaluation_memory_length = 3
    model(inputs[0])
    values = model.memory.values("evaluation")
    assert (2, 3, 8) in {value.shape for value in values.values()}


def test_no_gradient_goes_into_the_memory():
    model = build()
    memory = [tf.constant(m) for m in random_memory(TINY)]
    with tf.GradientTape() as tape:
        tape.watch(memory)
        hidden, following = model.core(text()[0][0], memory, training=True)
        value = tf.reduce_sum(hidden**2) + tf.add_n(
            [tf.reduce_sum(f) for f in following]
        )
    assert tape.gradient(value, memory) == [None, None]


def test_fit_is_the_loop_written_out():
    fitted, looped = compiled(), compiled()
    history = quiet_fit(fitted, dataset(), epochs=2)
    memory, losses = [tf.zeros((2, 4, 8))] * 2, []
    for inputs, targets in [*zip(*text(), strict=True)] * 2:
        with tf.GradientTape() as tape:
            hidden, memory = looped.core(inputs, memory, training=True)
            loss = tf.reduce_mean(looped.softmax(hidden, targets))
        variables = looped.trainable_weights
        gradients = tape.gradient(loss, [v.value for v in variables])
        looped.optimizer.apply(gradients, variables)
        losses.append(loss.numpy())
    for a, b in zip(fitted.trainable_weights, variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    expected = np.reshape(losses, (2, 3)).mean(1)
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)
    states = fitted.memory.values("training").values()
    for found, state in zip(states, memory, strict=True):
        np.testing.assert_allclose(found, state, rtol=1e-4, atol=1e-6)


def test_training_and_evaluation_have_memories_of_their_own():
    model = compiled(rate=0.0)
    data = dataset()
    quiet_fit(model, data)
    kept = model.memory.values("training")
    model.evaluate(data, verbose=0)
    for name, value in model.memory.values("training").items():
        np.testing.assert_array_equal(value, kept[name])


def test_reset():
    model = compiled()
    quiet_fit(model, dataset(), validation_data=dataset())
    for mode, other in (("training", "evaluation"), ("evaluation", "training")):
        model(text()[0][0], training=mode == "training")
        model(text()[0][0], training=other == "training")
        model.reset_memory(mode)
        assert not any(v.any() for v in model.memory.values(mode).values())
        assert all(v.any() for v in model.memory.values(other).values())
    model.reset_memory()
    assert not any(v.any() for v in model.memory.values("training").values())
    with pytest.raises(ValueError, match="Received: 'test'"):
        model.reset_memory("test")
    with pytest.raises(ValueError, match="outside of a `tf.function`"):
        tf.function(build().reset_memory)()


def test_callback_lets_evaluations_and_epochs_begin_anew():
    model = compiled(rate=0.0)
    data = dataset()
    reset = {"callbacks": [ResetMemory()], "verbose": 0}
    first, again = (model.evaluate(data, **reset)[0] for _ in range(2))
    assert first == again
    assert model.evaluate(data, verbose=0)[0] != first
    carried = quiet_fit(model, data, epochs=2, callbacks=[ResetMemory()])["loss"]
    model.reset_memory()
    anew = quiet_fit(model, data, epochs=2, callbacks=[ResetMemory(True)])["loss"]
    assert carried[0] == anew[0] == anew[1] != carried[1]


def test_each_replica_has_its_part_of_the_memory():
    single = compiled()
    with zoo.two_devices().scope():
        mirrored = TransformerXL(TINY)
        mirrored.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    randomise(mirrored)
    data = dataset(4)
    losses = [quiet_fit(m, data, epochs=2)["nll"] for m in (single, mirrored)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for a, b in zip(single.trainable_weights, mirrored.trainable_weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    whole, parts = (m.memory.values("training") for m in (single, mirrored))
    assert len(parts) == 4
    for layer in range(2):
        joined = [parts[f"training_2x4_{layer}_{replica}"] for replica in range(2)]
        np.testing.assert_allclose(
            np.concatenate(joined),
            whole[f"training_4x4_{layer}_0"],
            rtol=1e-3,
            atol=1e-5,
        )
    store = {}
    mirrored.memory.save_own_variables(store)
    mirrored.reset_memory()
    mirrored.memory.load_own_variables(store)
    for name, value in mirrored.memory.values("training").items():
        np.testing.assert_array_equal(value, parts[name])


def test_batches_of_unknown_size_remember_while_it_stays():
    known, unknown = build(ONE), build(ONE)
    inputs, other = text(segments=4)[0], text(3, 4)[0]
    call = tf.function(unknown, input_signature=[tf.TensorSpec((None, 4), "int32")])
    for i, tokens in enumerate([inputs[0], inputs[1], other[0], other[1], inputs[2]]):
        if i in (2, 4):
            known.reset_memory()  # a memory of its own, which is empty
        expected = known(tokens)
        np.testing.assert_allclose(call(tokens), expected, rtol=1e-4, atol=1e-5)


def test_first_memory_is_zeros_that_are_attended_to():
    model, tokens = build(), text()[0][0]
    found = model(tokens).numpy()
    zeros = [tf.zeros((2, 4, 8))] * 2
    np.testing.assert_allclose(
        found, model.core(tokens, zeros)[0], rtol=1e-5, atol=1e-6
    )
    without = model.core(tokens, empty(TINY))[0]
    assert (np.abs(found - without).max(-1) > 1e-3).all()


# Training


def test_metrics_are_means_over_tokens_in_their_units():
    model = compiled(rate=0.0)
    found = model.evaluate(dataset(), verbose=0, return_dict=True)
    memory, nll = [tf.zeros((2, 4, 8))] * 2, []
    for inputs, targets in zip(*text(), strict=True):
        hidden, memory = model.core(inputs, memory, training=False)
        nll.append(model.softmax(hidden, targets))
    mean = np.mean(nll)
    expected = {"loss": mean, "nll": mean, "bpc": mean / math.log(2)}
    assert found == pytest.approx({**expected, "perplexity": math.exp(mean)}, rel=1e-5)


def test_weights_leave_out_what_fills_a_segment_up():
    model = compiled(rate=0.0)
    (inputs, targets), weight = text(), np.ones((3, 2, 4), "float32")
    shorter = model.evaluate(
        tf.data.Dataset.from_tensors((inputs[0][:, :3], targets[0][:, :3])), verbose=0
    )
    model.reset_memory()
    weight[..., 3] = 0
    data = tf.data.Dataset.from_tensors((inputs[0], targets[0], weight[0]))
    np.testing.assert_allclose(model.evaluate(data, verbose=0), shorter, rtol=1e-5)


def filled_up():
    """Two batches, of which the second has three tokens, all in its first row."""
    (inputs, targets), weight = text(segments=2), np.ones((2, 2, 4), "float32")
    weight[1, 0, 3] = weight[1, 1] = 0
    return inputs, targets, weight


def means_over_tokens(model):
    """(nll, with penalties) of `filled_up` by hand: the sum over 11 tokens, by 11."""
    memory, total = [tf.zeros((2, 4, 8))] * 2, 0.0
    for inputs, targets, weight in zip(*filled_up(), strict=True):
        hidden, memory = model.core(inputs, memory, training=False)
        total += np.sum(model.softmax(hidden, targets) * weight)
    kernel = model.core.blocks[0].inner.kernel
    return total / 11, total / 11 + 0.5 * np.sum(np.square(kernel))


def penalised(model):
    model.core.blocks[0].inner.kernel.regularizer = keras.regularizers.L2(0.5)
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    return model


def test_loss_of_a_filled_up_batch_counts_its_tokens():
    model = penalised(build())
    nll, loss = means_over_tokens(model)
    data = tf.data.Dataset.from_tensor_slices(filled_up())
    for _ in range(2):  # nothing is left of an evaluation before
        model.reset_memory()
        found = model.evaluate(data, verbose=0, return_dict=True)
        assert sorted(found) == ["bpc", "loss", "nll", "perplexity"]
        assert found["nll"] == pytest.approx(nll, rel=1e-5)
        assert found["loss"] == pytest.approx(loss, rel=1e-5)
    trained = quiet_fit(model, data)
    assert trained["loss"] == pytest.approx([loss], rel=1e-5)


def test_loss_of_replicas_with_unequal_tokens_counts_tokens():
    single = penalised(build())
    with zoo.two_devices().scope():
        mirrored = TransformerXL(TINY)
        penalised(mirrored)
    randomise(mirrored)
    data = tf.data.Dataset.from_tensor_slices(filled_up())
    found = mirrored.evaluate(data, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(means_over_tokens(single)[1], rel=1e-5)


def test_loss_of_the_launcher_counts_tokens():
    model = penalised(build())
    loss = means_over_tokens(model)[1]
    step = gradient_step.train_step(model, 1, False)
    for x, y, weight in zip(*filled_up(), strict=True):
        found = step((x, tf.constant(y), tf.constant(weight)))
    assert float(found["loss"]) == pytest.approx(loss, rel=1e-5)


def test_it_learns():
    tokens = np.tile(np.arange(8, dtype="int32"), 5)[None].repeat(2, 0)[:, :33]
    parts = (tokens[:, :-1], tokens[:, 1:])
    data = tf.data.Dataset.from_tensor_slices(
        tuple(part.reshape(2, 8, 4).swapaxes(0, 1) for part in parts)
    )
    model = build(ONE, std=0)
    model.compile(keras.optimizers.Adam(0.02), jit_compile=False)
    nll = quiet_fit(model, data, epochs=12)["nll"]
    assert nll[0] > 1.5 and nll[-1] < 0.2


@pytest.mark.slow
def test_xla_computes_the_same():
    found = []
    for jit in (False, True):
        model = build(ONE)
        model.compile(keras.optimizers.SGD(0.1), jit_compile=jit)
        found.append(quiet_fit(model, dataset())["nll"][0])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    anew = {"callbacks": [ResetMemory()], "verbose": 0}
    assert np.isfinite([model.evaluate(dataset(b), **anew)[0] for b in (1, 3)]).all()
    with pytest.raises(ValueError, match="drop_remainder=True"):
        model.evaluate(*(part[0] for part in text()), verbose=0)
    clusters = build(ONE.replaced(cutoffs=(4,)))
    clusters.compile("sgd")
    assert not clusters.jit_compile


def test_penalties_are_part_of_the_loss():
    model = compiled(rate=0.0)
    model.core.blocks[0].inner.kernel.regularizer = keras.regularizers.L2(0.5)
    found = model.evaluate(dataset(), verbose=0, return_dict=True)
    penalty = 0.5 * np.sum(np.square(model.core.blocks[0].inner.kernel))
    assert found["loss"] - found["nll"] == pytest.approx(penalty, rel=1e-4)


@pytest.mark.parametrize(
    "form",
    [
        "model.weights.h5",
        pytest.param("model.keras", marks=pytest.mark.slow),
        pytest.param("checkpoint", marks=pytest.mark.slow),
    ],
)
def test_resumed_training_is_the_undisturbed_one_bit_for_bit(form, tmp_path):
    config = TINY.replaced(dropout=0.2, attention_dropout=0.1)
    # A file of weights alone does not hold an optimizer.
    make = keras.optimizers.SGD if "weights" in form else keras.optimizers.Adam
    path = str(tmp_path / form)

    def fresh(seed):
        model = build(config, seed=seed, std=0)
        model.compile(make(0.05), jit_compile=False)
        return model

    model, data = fresh(0), dataset()
    quiet_fit(model, data)
    kept = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    if form == "checkpoint":
        kept.write(path)
    else:
        (model.save if form.endswith("keras") else model.save_weights)(path)
    expected = quiet_fit(model, data)
    if form.endswith("keras"):
        resumed = keras.models.load_model(path)
    else:
        resumed = fresh(1)
        if form == "checkpoint":
            # Keras restores an optimizer that has its variables, and no other.
            resumed.optimizer.build(resumed.trainable_variables)
            pair = {"model": resumed, "optimizer": resumed.optimizer}
            tf.train.Checkpoint(**pair).read(path)
        else:
            resumed.load_weights(path)
    assert quiet_fit(resumed, data) == expected
    for a, b in zip(model.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    memories = (m.memory.values("training") for m in (model, resumed))
    for a, b in zip(*(m.values() for m in memories), strict=True):
        np.testing.assert_array_equal(a, b)


def test_loaded_model_takes_batches_of_another_size(tmp_path):
    model = compiled(rate=0.0)
    quiet_fit(model, dataset())
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    loaded = compiled(rate=0.0, seed=1)
    loaded.load_weights(path)
    loaded.save_weights(path)  # its memory, not used yet, is saved again
    loaded.load_weights(path)
    for batch in (1, 3, 1):
        data = dataset(batch)
        model.reset_memory("evaluation")
        loaded.reset_memory("evaluation")
        expected = model.evaluate(data, verbose=0)
        assert loaded.evaluate(data, verbose=0) == expected
    assert quiet_fit(loaded, dataset(2))["nll"] == quiet_fit(model, dataset(2))["nll"]


def test_memory_of_a_deeper_model_is_refused():
    store = {"training_2x4_1_0": np.zeros((2, 4, 8))}
    with pytest.raises(ValueError, match="a model of 1 layers. Received: training_2x4"):
        build(ONE).memory.load_own_variables(store)


# Sparse


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
    # What it computes with is alpha: also rows that are looked up, also in the softmax.
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


def test_multiplications_are_counted():
    cost = count_flops(build(ONE))
    d, heads, inner, tokens, states = 8, 6, 12, 4, 8
    kernels = tokens * (2 * d * heads + 2 * d * inner) + states * 3 * d * heads
    attention = tokens * states * heads * 3
    assert cost.dense.forward == 2 * (kernels + attention)


def test_flops_of_a_token_have_each_tail_as_often_as_it_occurs():
    config = ONE.replaced(cutoffs=(4, 6), div_val=2, d_embed=8)
    cost = count_token_flops(build(config), [0.5, 0.25, 0.125])
    d, heads, inner, tokens, states = 8, 6, 12, 4, 8
    kernels = 2 * d * heads + 2 * d * inner + states * 3 * d * heads / tokens
    attention = states * heads * 3
    # Each token goes through the projections of all three clusters of the embedding.
    embedding = d * (8 + 4 + 2)
    head = d * 8 + 8 * (4 + 2)  # the first projection is its own; two other clusters
    tails = 0.25 * (d * 4 + 4 * 2) + 0.125 * (d * 2 + 2 * 5)
    expected = kernels + attention + embedding + head + tails
    # Rounded to whole multiply-adds, weight by weight.
    assert cost.dense.forward / 2 == pytest.approx(expected, abs=3)
    assert not cost.uncounted


def test_flops_of_a_token_need_a_frequency_for_each_cluster():
    with pytest.raises(ValueError, match="Expected 1 `frequencies`"):
        count_token_flops(build(ONE), [0.5, 0.5])


# Sizes


@pytest.mark.parametrize(
    "name, millions",
    [
        ("enwik8_base", 41),
        ("enwik8_18", 88),
        ("enwik8_large", 277),
        ("text8_large", 277),
        ("wikitext103_base", 151),
        # The paper's table says 257; its authors' settings, as Top-KAST's table, 285.
        ("wikitext103_large", 285),
    ],
)
def test_sizes_are_the_published_ones(name, millions):
    assert counts.count_parameters(find(name)) == pytest.approx(
        millions * 1e6, rel=0.01
    )


def test_topkast_row_of_wikitext103_has_sparse_embeddings():
    config = find("wikitext103_large")
    kept = counts.count_kept(config, 0.8, sparse_embeddings=True)
    assert kept == pytest.approx(57e6, rel=0.01)
    assert counts.count_kept(config, 0.8) > 80e6
    assert counts.count_kept(find("enwik8_large"), 0.8) == pytest.approx(55e6, rel=0.02)


@EACH
def test_counted_weights_are_those_of_the_model(variant):
    config = VARIANTS[variant]
    model = build(config, std=0)
    found = {path: value.shape for path, value in weights(model).items()}
    assert found == counts.weight_shapes(config)
    assert counts.count_parameters(config) == model.count_params()


def test_initial_weights_are_the_published_ones():
    config = TINY.replaced(
        d_model=64, d_inner=256, vocabulary=200, **CLUSTERS, div_val=4
    )
    w = weights(build(config, std=0))
    for path, value in w.items():
        name = path.split("/")[-1]
        if name == "gamma":
            assert (value == 1).all()
        elif "bias" in name and "content" not in name and "position" not in name:
            assert not value.any()
        elif name in ("beta", "cluster_embeddings"):
            assert not value.any()
        elif value.size > 1000:
            std = 0.01 if "projection" in name else 0.02
            assert value.std() == pytest.approx(std, rel=0.1), path
    a, b = w["core/block_0/inner/kernel"], w["core/block_1/inner/kernel"]
    assert not np.array_equal(a, b)


# Mistakes


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"d_model": 7}, "`d_model` to be even. Received: 7"),
        ({"heads": 0}, "`heads` to be at least 1. Received: 0"),
        ({"dropout": 1.0}, r"`dropout` to be in \[0, 1\). Received: 1.0"),
        ({"memory_length": -1}, "`memory_length` to be at least 0. Received: -1"),
        ({"clamp_len": 0}, "`clamp_len` to be None or at least 1. Received: 0"),
        ({"cutoffs": (5, 5)}, r"`cutoffs` to increase.*Received: cutoffs=\(5, 5\)"),
        ({"cutoffs": (5, 11)}, "`cutoffs` to increase"),
        ({"cutoffs": (2, 4), "div_val": 4}, "at least 1 wide in the last cluster"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TINY.replaced(**wrong)


def test_what_the_model_cannot_do_is_said():
    with pytest.raises(ValueError, match="Received: 'enwik9'"):
        find("enwik9")
    model = compiled(ONE)
    with pytest.raises(ValueError, match="Received: no targets"):
        model.evaluate(text()[0][0], verbose=0)
    with pytest.raises(ValueError, match="at least 0. Received: -1"):
        model.evaluation_memory_length = -1


def test_configuration_makes_the_model_again():
    config = VARIANTS["narrowing"]
    model = build(config, name="again")
    again = TransformerXL.from_config(model.get_config())
    assert again.config == config and again.name == "again"
    assert isinstance(again.config, TransformerXLConfig)
    assert dataclasses.asdict(again.config) == dataclasses.asdict(config)
