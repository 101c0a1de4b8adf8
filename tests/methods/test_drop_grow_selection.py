"""Entries that SET and RigL drop and grow, by hand, and static masks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from tests import zoo
from topkast_tf.analysis.graph_macs import (
    BRANCHES,
    FUNCTION_CALLS,
    Frame,
    branches_of,
)
from topkast_tf.analysis.training_step import TrainingStep
from topkast_tf.core.sets import FORWARD
from topkast_tf.methods import SET, RigL, Selection, Static


def selection_of(theta, active, gradient=None, seed=3):
    theta = tf.constant(theta, tf.float32)
    codes = tf.constant(np.where(active, FORWARD, 0), tf.uint8)
    kept = tf.constant(int(np.sum(active)))
    return Selection(
        theta,
        kept,
        kept,
        tf.constant(seed, tf.int64),
        None,
        sets=codes,
        gradient=None if gradient is None else tf.constant(gradient, tf.float32),
    )


def updated(method, weight, step=0):
    sets = method.update([weight], tf.constant(step, tf.int64))
    assert bool(sets.finite)
    [codes], [reset] = sets.codes, sets.resets
    return codes.numpy() == FORWARD, reset


# Worked by hand.


def test_rigl_by_hand():
    """Four active of eight, half of them replaced.

    |theta| on A is 4, 1, 3, 2: the two smallest, entries 2 and 6, are dropped. Not kept
    are 1, 2, 3, 5, 6, 7 with |g| 9, 8, 1, 0, 2, 3: entries 1 and 2 are grown. Entry 2
    was active, so that only entry 1 is new.
    """
    theta = [4.0, 9.0, -1.0, 9.0, -3.0, 9.0, 2.0, 9.0]
    active = np.array([1, 0, 1, 0, 1, 0, 1, 0], bool)
    gradient = [7.0, -9.0, 8.0, 1.0, 7.0, 0.0, -2.0, 3.0]
    method = RigL(sparsity=0.5, drop_fraction=0.5, anneal="constant", noise=0.0,
                  update_until=None)  # fmt: skip
    mask, reset = updated(method, selection_of(theta, active, gradient))
    assert mask.tolist() == [True, True, True, False, True, False, False, False]
    assert reset.entries.numpy().tolist() == [False, True] + [False] * 6
    assert not np.any(reset.theta) and not np.any(reset.slots)


@pytest.mark.parametrize("noise", [0.0, 1e-5])
def test_inactive_entries_are_never_kept(noise):
    """Three of the four active entries are 0; none of the inactive takes their place."""
    active = np.array([0, 1, 0, 1, 0, 1, 0, 1], bool)
    theta = np.where(active, [0, 0, 0, 0, 0, 0, 0, 5.0], 9.0)
    method = SET(sparsity=0.5, drop_fraction=0.25, noise=noise)
    mask, reset = updated(method, selection_of(theta, active))
    assert (mask & active).sum() >= 3
    new = mask & ~active
    np.testing.assert_array_equal(reset.entries, new)  # all that enter start at zero


def test_ties_of_the_gradient_go_to_the_lower_index():
    method = RigL(sparsity=0.5, drop_fraction=0.5, anneal="constant", noise=0.0,
                  update_until=None)  # fmt: skip
    weight = selection_of(np.arange(1.0, 9.0), [0, 0, 0, 0, 1, 1, 1, 1], np.zeros(8))
    mask, _ = updated(method, weight)
    # Entries 4 and 5 are dropped; of zeros everywhere, 0 and 1 come first.
    assert mask.nonzero()[0].tolist() == [0, 1, 6, 7]


def test_set_drops_each_sign_separately():
    """Half of the positive ones and half of the negative ones, those nearest to zero.

    (Another library zeroes nearly all negative ones here.)
    """
    theta = [1.0, 2.0, 3.0, 4.0, -1.0, -2.0, -3.0, -4.0, 0.0, 0.0, 0.0, 0.0]
    active = np.arange(12) < 8
    method = SET(sparsity=1 / 3, drop_fraction=0.5, drop="signs", noise=0.0)
    mask, _ = updated(method, selection_of(theta, active))
    assert mask[[2, 3, 6, 7]].all() and mask.sum() == 8


def test_initial_values_of_grown_entries():
    theta, active = np.linspace(-1, 1, 8), np.arange(8) < 4
    gradient = np.linspace(2, -2, 8)
    for grow_init, expected in (
        ("zeros", np.zeros(8)),
        ("grad_scale_10", gradient / 10),
        ("grad_sign_4", np.sign(gradient) / 4),
    ):
        method = RigL(sparsity=0.5, grow_init=grow_init, slot_scale=0.5,
                      update_until=10)  # fmt: skip
        _, reset = updated(method, selection_of(theta, active, gradient))
        np.testing.assert_allclose(reset.theta, expected, rtol=1e-6)
        np.testing.assert_allclose(reset.slots, gradient / 2, rtol=1e-6)
    weight = selection_of(np.linspace(-1, 1, 4000), np.arange(4000) < 9)
    for kind, deviation in (
        ("random_normal_2", np.std(weight.theta) / 2),
        ("random_uniform_2", np.mean(np.abs(weight.theta)) / 2 / 3**0.5),
    ):
        method = SET(sparsity=0.5, grow_init=kind)
        _, reset = updated(method, weight)
        assert np.std(reset.theta) == pytest.approx(deviation, rel=0.05)
        assert np.mean(reset.theta) == pytest.approx(0, abs=0.05)


def test_noise_only_breaks_ties():
    theta, active = np.full(1000, 0.5), np.arange(1000) < 500
    theta[:250] = 0.6
    method = SET(sparsity=0.5, drop_fraction=0.3)
    mask, _ = updated(method, selection_of(theta, active))
    assert mask[:250].all()  # 150 of the 250 equal ones are dropped at random
    kept = mask[250:500]
    assert 100 <= kept.sum() < 250 and np.any(np.diff(kept.astype(int)) == 1)
    other, _ = updated(method, selection_of(theta, active), step=1)
    assert np.any(other[250:500] != kept)


# Static masks.


def static_oracle(n, sparsity):
    return n - int(np.floor(sparsity * n + 1e-9))


@pytest.mark.parametrize("sparsity", [0.0, 0.33, 0.9, 0.99])
def test_static_masks_have_exact_counts_and_stay(sparsity, digits):
    with tk.sparse_scope("static", sparsity=sparsity, seed=5):
        model = zoo.nested()
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    before = [weight.forward_mask() for weight in tk.sparse_weights(model)]
    for mask in before:
        assert mask.sum() == max(1, static_oracle(mask.size, sparsity))
    model.fit(*digits, verbose=0)
    for weight, mask in zip(tk.sparse_weights(model), before, strict=True):
        np.testing.assert_array_equal(weight.forward_mask(), mask)
        np.testing.assert_array_equal(weight.backward_mask(), mask)


def test_random_masks_are_sampled_uniformly():
    """Each entry is equally likely: a chi-square test over 400 seeds."""
    counts = np.zeros(40)
    method = Static(sparsity=0.75)
    for seed in range(400):
        weight = selection_of(np.ones(40), np.arange(40) < 10, seed=seed)
        [codes] = method.initial([weight]).codes
        counts += codes.numpy() == FORWARD
    expected = 400 * 10 / 40
    # Of 39 degrees of freedom (less, as each mask has ten): 99.9 % lie below 72.
    assert np.sum((counts - expected) ** 2 / expected) < 72


def test_static_mask_by_magnitude_of_a_dense_model():
    dense = keras.Sequential([keras.Input((12,)), keras.layers.Dense(6)])
    scope = tk.sparse_scope("static", sparsity=0.7, first_mask="magnitude")
    [weight] = tk.sparse_weights(tk.sparsify(dense, scope))
    kernel = np.abs(dense.layers[0].kernel.numpy())
    assert kernel[weight.forward_mask()].min() > kernel[~weight.forward_mask()].max()


@pytest.mark.parametrize("name", ["set", "rigl", "acdc"])
def test_an_update_holds_no_tensors_of_zeros(name):
    """TensorFlow would fold them to constants, which the graph holds between steps."""
    length = {"total_steps": 100}
    with tk.sparse_scope(name, sparsity=0.5, **length):
        model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(12)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", jit_compile=False)
    graph = TrainingStep(model, (2, 16)).graph
    made = [
        op.type
        for each in [graph, *function_graphs(graph)]
        for op in each.get_operations()
        if op.type in ("ZerosLike", "OnesLike", "Fill", "Const")
        and op.outputs[0].shape.num_elements() == 16 * 12
        and op.outputs[0].consumers()
    ]
    assert made == []


def function_graphs(graph):
    """The graphs that a graph calls, at any depth."""
    frames, found = [Frame(graph)], []
    while frames:
        frame = frames.pop()
        for op in frame.graph.get_operations():
            if op.type in BRANCHES:
                called = branches_of(op)
            elif op.type in FUNCTION_CALLS:
                called = [op.get_attr("f")]
            else:
                continue
            frames += [frame.enter(each) for each in called]
        found.append(frame.graph)
    return found[1:]
