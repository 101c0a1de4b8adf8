"""Top-KAST's arguments: the sets, when they are selected, and updated entries."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import optimizers

import topkast_tf as tk
from tests.small_models import LOSS, dense_layer, small_model, thetas, train


def test_sets_are_the_largest_of_theta_at_refreshes_and_stay_between(digits):
    model = small_model(refresh_every=3)
    previous = None
    for step in range(1, 8):
        train(model, digits, 1)
        for weight in tk.sparse_weights(model):
            order = np.argsort(-np.abs(weight.dense().ravel()), kind="stable")
            codes = np.zeros(order.size, np.uint8)
            codes[order[: weight.kept_backward]] = 1
            codes[order[: weight.kept_forward]] = 2
            if step % 3 == 0:
                np.testing.assert_array_equal(weight.codes().ravel(), codes)
        now = [weight.codes() for weight in tk.sparse_weights(model)]
        if step % 3 and previous is not None:
            assert all(np.array_equal(a, b) for a, b in zip(now, previous, strict=True))
        previous = now


def test_backward_sparsity_zero_updates_every_weight_straight_through(digits):
    # DNW: the gradient at alpha reaches every weight of theta.
    model = small_model(bwd=0.0, exploration=0.0)
    x, y = digits[0][:32], digits[1][:32]
    with tf.GradientTape() as tape:
        loss = LOSS(y, model(x))
    gradients = tape.gradient(loss, model.trainable_variables)
    plain = tk.strip(model)
    with tf.GradientTape() as tape:
        loss = LOSS(y, plain(x))
    for ours, theirs in zip(
        gradients, tape.gradient(loss, plain.trainable_variables), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    before = thetas(model)
    train(model, digits, 3)
    moved = np.mean(before[-1] != thetas(model)[-1])
    assert moved > 0.5


def test_equal_sparsities_update_only_active_entries(digits):
    model = small_model(fwd=0.8, bwd=0.8, refresh_every=100)
    before = thetas(model)
    train(model, digits, 3)
    for weight, old in zip(tk.sparse_weights(model), before, strict=True):
        np.testing.assert_array_equal(weight.forward_mask(), weight.backward_mask())
        moved = weight.dense() != old
        assert moved.any() and not np.any(moved & ~weight.forward_mask())


def test_decay_lets_the_reservoir_in_when_the_sets_are_equal():
    # Without gradients A decays until it falls below the frozen reservoir.
    theta = [[4.0, 3.9], [1.0, 0.5]]
    model, weight = dense_layer(theta, fwd=0.75, bwd=0.75, exploration=0.5)
    optimizer = optimizers.SGD(0.1)
    with tf.GradientTape() as tape:
        loss = sum(model.losses)
    gradient = tape.gradient(loss, [model.layers[0].kernel.value])
    optimizer.apply(gradient, [model.layers[0].kernel])
    np.testing.assert_allclose(weight.dense(), [[3.8, 3.9], [1.0, 0.5]], rtol=1e-6)
    np.testing.assert_array_equal(weight.codes(), [[0, 2], [0, 0]])


def test_exploration_stops_at_the_step_even_between_refreshes(digits):
    model = small_model(refresh_every=3, stop_exploring_at=4)
    for step in range(1, 8):
        train(model, digits, 1)
        for weight in tk.sparse_weights(model):
            explores = weight.backward_mask().sum() > weight.forward_mask().sum()
            assert explores == (step < 4)
            assert weight.forward_mask().sum() == weight.kept_forward


def codes_of(model):
    return [weight.codes() for weight in tk.sparse_weights(model)]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("total_steps", [None, 6])
def test_the_last_sets_are_trained_if_the_length_is_known(total_steps, digits):
    model = small_model(refresh_every=3, total_steps=total_steps)
    train(model, digits, 5)
    trained = codes_of(model)
    train(model, digits, 1)
    assert same(trained, codes_of(model)) == (total_steps is not None)
    # A training that goes on selects as before.
    train(model, digits, 2)
    late = codes_of(model)
    train(model, digits, 1)
    assert not same(late, codes_of(model))


def test_sets_that_are_selected_in_each_step_are_those_of_the_last_weights(digits):
    model = small_model(total_steps=3)
    train(model, digits, 2)
    before = codes_of(model)
    train(model, digits, 1)
    assert not same(before, codes_of(model))


def test_random_backward_sets_are_resampled_and_reproducible(digits):
    def run(seed):
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        model = small_model(backward="random", seed=seed)
        drawn = []
        for _ in range(3):
            [_, weight, _] = tk.sparse_weights(model)
            assert weight.backward_mask().sum() == weight.kept_backward
            assert np.all(weight.backward_mask()[weight.forward_mask()])
            drawn.append(weight.codes() == 1)
            train(model, digits, 1)
        return drawn

    first, again, other = run(0), run(0), run(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert np.mean(first[0] != first[1]) > 0.1
    assert np.mean(first[0] != other[0]) > 0.1


@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_blocks_are_kept_whole(reduce, digits):
    model = small_model(block=(4, 2), block_reduce=reduce)
    train(model, digits, 2)
    weight = tk.sparse_weights(model)[1]  # 144 x 16: 36 x 8 blocks
    theta = np.abs(weight.dense()).reshape(36, 4, 8, 2)
    scores = theta.sum((1, 3)) if reduce == "sum" else theta.max((1, 3))
    kept = weight.forward_mask().reshape(36, 4, 8, 2)
    assert np.all(kept.all((1, 3)) == kept.any((1, 3)))
    expected = np.zeros(scores.size, bool)
    expected[np.argsort(-scores.ravel(), kind="stable")[:58]] = True  # 288 - 230
    np.testing.assert_array_equal(kept.all((1, 3)).ravel(), expected)


def test_global_budget_is_one_threshold_over_all_weights(digits):
    model = small_model(distribution="global")
    train(model, digits, 2)
    weights = tk.sparse_weights(model)
    magnitudes = np.concatenate([np.abs(w.dense().ravel()) for w in weights])
    forward = np.concatenate([w.forward_mask().ravel() for w in weights])
    assert forward.sum() == sum(w.kept_forward for w in weights)
    assert magnitudes[forward].min() >= magnitudes[~forward].max()
    assert len({round(w.forward_sparsity, 3) for w in weights}) > 1
    assert {w.step for w in weights} == {2}
