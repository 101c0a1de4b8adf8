"""Transformer-XL's memory: its contents, its resets, and one for each replica."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from launch.models.segment_memory import ResetMemory
from launch.models.transformer_xl import TransformerXL
from tests import zoo
from tests.launch import transformer_xl_oracle as oracle
from tests.launch.transformer_xl_models import (
    ONE,
    TINY,
    build,
    compiled,
    dataset,
    empty,
    quiet_fit,
    random_memory,
    randomise,
    text,
    weights,
)


def test_two_segments_with_memory_equal_one_long_segment():
    model = build()
    inputs = text(segments=1, length=8)[0][0]
    whole, _ = model.core(inputs, empty(TINY), training=False)
    first, _ = model.core(inputs[:, :4], empty(TINY), training=False)
    # The inputs of each block in the first half are the memory of the second.
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


def test_same_length_calls_equal_one_long_segment():
    config = TINY.replaced(same_length=True)
    model = build(config)
    inputs = text(segments=4)[0]
    parts = [model(segment).numpy() for segment in inputs]
    whole, _ = model.core(
        np.concatenate(inputs, 1), [tf.zeros((2, 4, 8))] * 2, training=False
    )
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=1e-4, atol=1e-5)


def test_segments_are_independent_without_memory():
    model = build(TINY.replaced(memory_length=0))
    inputs = text()[0]
    for segment in inputs[:2]:
        expected, _ = model.core(segment, empty(TINY), training=False)
        np.testing.assert_array_equal(model(segment), expected)
    assert not model.memory.values("evaluation")


def test_model_memory_equals_that_of_the_core():
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


def test_no_gradient_flows_into_the_memory():
    model = build()
    memory = [tf.constant(m) for m in random_memory(TINY)]
    with tf.GradientTape() as tape:
        tape.watch(memory)
        hidden, following = model.core(text()[0][0], memory, training=True)
        value = tf.reduce_sum(hidden**2) + tf.add_n(
            [tf.reduce_sum(f) for f in following]
        )
    assert tape.gradient(value, memory) == [None, None]


def test_training_and_evaluation_have_separate_memories():
    model = compiled(ONE, rate=0.0)
    data = dataset()
    quiet_fit(model, data)
    kept = model.memory.values("training")
    model.evaluate(data, verbose=0)
    for name, value in model.memory.values("training").items():
        np.testing.assert_array_equal(value, kept[name])


def test_reset_memory():
    model = compiled()
    model.run_eagerly = True  # nothing to trace for a few steps
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


def test_callback_resets_memory_for_evaluations_and_epochs():
    model = compiled(ONE, rate=0.0)
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


def test_memory_of_unknown_batch_size_is_kept_while_the_size_stays():
    known, unknown = build(ONE), build(ONE)
    inputs, other = text(segments=4)[0], text(3, 4)[0]
    call = tf.function(unknown, input_signature=[tf.TensorSpec((None, 4), "int32")])
    for i, tokens in enumerate([inputs[0], inputs[1], other[0], other[1], inputs[2]]):
        if i in (2, 4):
            known.reset_memory()  # another size starts with an empty memory
        expected = known(tokens)
        np.testing.assert_allclose(call(tokens), expected, rtol=1e-4, atol=1e-5)


def test_initial_memory_is_zeros_that_are_attended_to():
    model, tokens = build(), text()[0][0]
    found = model(tokens).numpy()
    zeros = [tf.zeros((2, 4, 8))] * 2
    np.testing.assert_allclose(
        found, model.core(tokens, zeros)[0], rtol=1e-5, atol=1e-6
    )
    without = model.core(tokens, empty(TINY))[0]
    assert (np.abs(found - without).max(-1) > 1e-3).all()
