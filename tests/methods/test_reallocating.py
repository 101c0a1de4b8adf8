"""SNFS, DSR and GraNet: entries move from weight to weight, under one budget."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from tests.methods.linear_oracle import Linear, batches, largest, layers
from topkast_tf.core.sets import FORWARD
from topkast_tf.methods import DSR, SNFS, GraNet, Selection
from topkast_tf.methods.reallocating import whole_numbers
from topkast_tf.methods.snfs import dealt

SIZES = ((12, 20), (20, 6))


def selections(thetas, masks, **inputs):
    """What an update is given; inputs are one array a weight."""
    found = []
    for i, (theta, mask) in enumerate(zip(thetas, masks, strict=True)):
        kept = tf.constant(int(np.sum(mask)))
        more = {name: tf.constant(x[i], tf.float32) for name, x in inputs.items()}
        codes = tf.constant(np.where(mask, FORWARD, 0), tf.uint8)
        seed = tf.constant(i, tf.int64)
        found.append(
            Selection(
                tf.constant(theta, tf.float32),
                *(kept, kept, seed, None),
                threshold=tf.constant(0, tf.int64),
                sets=codes,
                **more,
            )
        )
    return found


def updated(method, weights, step):
    sets = method.update(weights, tf.constant(step, tf.int64))
    assert bool(sets.finite)
    masks = [codes.numpy() == FORWARD for codes in sets.codes]
    assert [int(kept) for kept in sets.kept_forward] == [m.sum() for m in masks]
    return masks, sets


def cosine(step, first, last, end):
    return last + (first - last) / 2 * (1 + math.cos(math.pi * min(step, end) / end))


# SNFS.


def test_snfs_by_hand():
    """Two weights, half of the active entries dropped: 2 and 1, three to grow.

    Mean |m| on A is 1 and 3, so that the shares are 1/4 and 3/4 of 3: 0.75 and 2.25, and in
    whole numbers 0 and 2, and the one that is missing goes to the first.
    """
    thetas = [[4.0, 3, 2, 1, 9, 9, 9, 9], [2.0, 1, 9, 9, 9, 9]]
    masks = [np.arange(8) < 4, np.arange(6) < 2]
    momentum = [[1.0, 1, -1, 1, 5, 7, 6, 5], [-3.0, 3, 1, 4, 2, 3]]
    method = SNFS(sparsity=0.5, total_steps=100, drop_fraction=0.5)
    found, sets = updated(method, selections(thetas, masks, momentum=momentum), 0)
    # Kept 0 and 1 of the first, 0 of the second, whose entry 1 returns with |m| = 3.
    assert found[0].nonzero()[0].tolist() == [0, 1, 5]
    assert found[1].nonzero()[0].tolist() == [0, 1, 3]
    new = [reset.entries.numpy().nonzero()[0].tolist() for reset in sets.resets]
    assert new == [[5], [3]]
    assert all(reset.slots is None for reset in sets.resets)


def test_snfs_deals_what_is_over_a_limit():
    found = dealt(
        tf.constant([8.0, 1.0, 0.0], tf.float64),
        tf.constant([3.0, 2.5, 9.0], tf.float64),
    )
    # 5 are over: 1 2/3 each; then 1 2/3 + 1/6 are over again, and so on.
    np.testing.assert_allclose(found, [3.0, 2.5, 3.5], atol=1e-4)
    assert float(tf.reduce_sum(found)) == pytest.approx(9)


def test_whole_numbers_have_the_sum():
    rng = np.random.default_rng(0)
    for _ in range(200):
        rooms = rng.integers(0, 50, 5)
        total = int(rng.integers(0, rooms.sum() + 1))
        amounts = rng.dirichlet(np.ones(5)) * total
        found = whole_numbers(
            tf.constant(amounts, tf.float64), tf.constant(rooms, tf.int64), total
        ).numpy()
        assert found.sum() == total and np.all(found <= rooms) and np.all(found >= 0)


def snfs_update(oracle, step, end):
    """The method's equations; |velocity| is |momentum|."""
    masks, thetas = oracle.forward, oracle.thetas
    means = [np.abs(v)[m].mean() for v, m in zip(oracle.velocities, masks, strict=True)]
    shares = np.array(means) / sum(means)
    kept = []
    for theta, mask, share in zip(thetas, masks, shares, strict=True):
        fraction, sparsity = cosine(step, 0.5, 0.005, end), 1 - mask.mean()
        if sparsity < 0.2 and share > 0.5:
            fraction = min(fraction, sparsity)
        left = int(mask.sum()) - math.ceil(fraction * mask.sum())
        kept.append(largest(np.abs(theta), left, mask))
    removed = sum(m.sum() for m in masks) - sum(m.sum() for m in kept)
    rooms = np.array([m.size - m.sum() for m in kept])
    amounts = shares * removed
    for _ in range(1000):
        within = np.minimum(amounts, 0.99 * rooms)
        over = removed - within.sum()
        amounts = within + over / 2
        if over <= 1e-9:
            break
    grown = np.minimum(np.floor(within), rooms).astype(int)
    for i in range(2):
        more = min(removed - grown.sum(), rooms[i] - grown[i])
        grown[i] += more
    for i, (mask, count) in enumerate(zip(kept, grown, strict=True)):
        new = largest(np.abs(oracle.velocities[i]), count, ~mask)
        oracle.thetas[i] = np.where(new & ~masks[i], 0, oracle.thetas[i])
        kept[i] = mask | new
    oracle.set_masks(kept)


def test_snfs_equals_its_equations_over_training():
    model = layers("snfs", SIZES, sparsity=0.8, update_every=3, total_steps=12)
    oracle = Linear(model, dense_slots=True)
    x, y = batches(11)
    counts = set()
    for step, (a, b) in enumerate(zip(x, y, strict=True), 1):
        oracle.step(a, b)
        if step in (1, 4, 7, 10):
            snfs_update(oracle, step, 12)
        model.train_on_batch(a, b)
        oracle.check(model, atol=1e-5)
        counts.add(tuple(int(m.sum()) for m in oracle.forward))
    assert len(counts) > 2 and len({sum(each) for each in counts}) == 1


# DSR.


def test_dsr_by_hand():
    """H = 1.5 drops two of the first and one of the second, which keeps its largest.

    Three of six survive... two of the first and one of the second: shares 2/3 and 1/3 of
    three, so 2 and 1. Dropped are 3 of 6, wanted 0.25 * 6: more than 1.1 times, H halves.
    """
    thetas = [[4.0, 3, 1, -1, 9, 9, 9, 9], [1.0, 0.5, 9, 9, 9, 9]]
    masks = [np.arange(8) < 4, np.arange(6) < 2]
    method = DSR(sparsity=0.5, total_steps=100, threshold=1.5, drop_fraction=0.25)
    found, sets = updated(method, selections(thetas, masks), 3)
    assert found[0][:2].all() and found[1][0]
    assert [m.sum() for m in found] == [4, 2]
    assert not np.any(np.array(thetas[0])[found[0] & ~masks[0]] < 9)
    after = np.array([int(t) for t in sets.thresholds], np.int32).view(np.float32)
    assert after.tolist() == [0.75, 0.75]


@pytest.mark.parametrize(
    ("fraction", "factor"), [(0.4, 2), (0.3, 1), (1 / 3.2, 1), (0.2, 0.5)]
)
def test_dsr_adapts_its_threshold(fraction, factor):
    """Three of ten are dropped; 0.9 and 1.1 of what is wanted are the bounds."""
    theta, mask = np.arange(10.0), np.ones(10, bool)
    method = DSR(sparsity=0.0, update_until=None, threshold=2.5, drop_fraction=fraction)
    _, sets = updated(method, selections([theta], [mask]), 3)
    [after] = np.array([int(sets.thresholds[0])], np.int32).view(np.float32)
    assert after == np.float32(2.5 * factor)


def test_dsr_keeps_the_total_and_its_threshold_over_training():
    model = layers(
        "dsr", SIZES, sparsity=0.8, update_every=2, update_until=None, threshold=0.01
    )
    weights = tk.sparse_weights(model)
    x, y = batches(12)
    before = [weight.forward_mask() for weight in weights]
    thresholds, counts = [], []
    for a, b in zip(x, y, strict=True):
        model.train_on_batch(a, b)
        bits = weights[0].replica().counters.numpy()[6]
        thresholds.append(np.array([bits], np.int32).view(np.float32)[0])
        counts.append([int(weight.forward_mask().sum()) for weight in weights])
    assert len({sum(each) for each in counts}) == 1
    assert len({tuple(each) for each in counts}) > 1
    assert len(set(thresholds)) > 2 and max(thresholds) >= 0.02
    assert any(
        np.any(weight.forward_mask() != mask)
        for weight, mask in zip(weights, before, strict=True)
    )


# GraNet.


def test_granet_of_constant_density_is_rigl():
    common = {"sparsity": 0.8, "update_every": 2, "total_steps": 12, "noise": 0.0}
    x, y = batches(11)
    found = []
    for name, arguments in (
        ("granet", {"initial_sparsity": 0.8, "final_drop_fraction": 0.0}),
        (
            "rigl",
            {
                "drop_fraction": 0.5,
                "update_until": 1.0,
                "update_replaces_step": False,
            },
        ),
    ):
        model = layers(name, SIZES, **common, **arguments)
        for a, b in zip(x, y, strict=True):
            model.train_on_batch(a, b)
        weights = tk.sparse_weights(model)
        found.append([w.dense() for w in weights] + [w.codes() for w in weights])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def granet_update(oracle, step, gradients, counts):
    masks = oracle.forward
    flat = np.concatenate([np.abs(t).ravel() for t in oracle.thetas])
    among = np.concatenate([m.ravel() for m in masks])
    pruned = largest(flat, min(counts[step], among.sum()), among)
    ends = np.cumsum([m.size for m in masks])[:-1]
    kept = []
    for i, part in enumerate(np.split(pruned, ends)):
        mask = part.reshape(masks[i].shape)
        mask |= largest(np.abs(oracle.thetas[i]), 1, masks[i])
        dropped = math.floor(np.float32(cosine(step, 0.5, 0.005, 12)) * mask.sum())
        left = largest(np.abs(oracle.thetas[i]), int(mask.sum()) - dropped, mask)
        new = largest(np.abs(gradients[i]), dropped, ~left)
        oracle.thetas[i] = np.where(new & ~masks[i], 0, oracle.thetas[i])
        oracle.velocities[i] = np.where(new & ~masks[i], 0, oracle.velocities[i])
        kept.append(left | new)
    oracle.set_masks(kept)


def test_granet_equals_its_equations_over_training():
    """Updates at 1, 4, 7 and 10; the last that prunes is at 7 (`prune_until` is 8)."""
    model = layers("granet", SIZES, sparsity=0.9, update_every=3, total_steps=12)
    oracle = Linear(model)
    x, y = batches(11)
    first, last = 360 - 180, 360 - 324
    ramp = {1: first, 4: last + int((first - last) / 8), 7: last, 10: last}
    for step, (a, b) in enumerate(zip(x, y, strict=True), 1):
        gradients = oracle.step(a, b)
        if step in ramp:
            granet_update(oracle, step, gradients, ramp)
        model.train_on_batch(a, b)
        oracle.check(model, atol=1e-5)
    assert sum(m.sum() for m in oracle.forward) == last


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("snfs", {"total_steps": 20}),
        ("granet", {"total_steps": 20}),
        ("dsr", {"update_until": None, "threshold": 0.1}),
        ("mest", {"total_steps": 20, "surplus": True, "mutation": 0.1}),
    ],
)
def test_a_refresh_keeps_the_counts(name, arguments, tmp_path):
    model = layers(name, SIZES, sparsity=0.8, update_every=3, **arguments)
    x, y = batches(5)
    for a, b in zip(x, y, strict=True):
        model.train_on_batch(a, b)
    weights = tk.sparse_weights(model)
    before = [weight.forward_mask().sum() for weight in weights]
    tk.refresh(model)
    for weight, count in zip(weights, before, strict=True):
        assert weight.forward_mask().sum() == weight.backward_mask().sum() == count
    model.save_weights(tmp_path / "w.weights.h5")
    again = layers(name, SIZES, seed=1, sparsity=0.8, update_every=3, **arguments)
    again.load_weights(tmp_path / "w.weights.h5")


def test_an_input_of_zeros_has_no_momentum_outside_a():
    """A regularizer is one of alpha, so that growth follows the network alone."""
    with tk.sparse_scope("snfs", sparsity=0.5, total_steps=100, update_every=50):
        model = keras.Sequential(
            [
                keras.Input((12,)),
                keras.layers.Dense(6, kernel_regularizer=keras.regularizers.L2(1.0)),
            ]
        )
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    x, y = batches(3)
    x[:, :, 0] = 0
    [weight] = tk.sparse_weights(model)
    before = weight.forward_mask()
    model.train_on_batch(x[0], y[0])
    outside = ~(weight.forward_mask() | before)[0]
    for a, b in zip(x[1:], y[1:], strict=True):
        model.train_on_batch(a, b)
    [slot] = [v for v in model.optimizer.variables if v.shape == (12, 6)]
    assert not np.any(slot.numpy()[0][outside])


def test_granet_begins_dense_if_asked():
    model = layers("granet", initial_sparsity=0.0, sparsity=0.9, total_steps=5000)
    assert tk.sparse_weights(model)[0].forward_mask().all()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: GraNet(sparsity=0.9), "`total_steps`"),
        (lambda: SNFS(sparsity=0.9), "`total_steps`"),
        (
            lambda: DSR(sparsity=0.9, total_steps=9, threshold=0.0),
            "`threshold` must be",
        ),
        (
            lambda: GraNet(sparsity=0.4, total_steps=10_000),
            "`initial_sparsity` of at most",
        ),
        (
            lambda: SNFS(sparsity=0.9, total_steps=9, final_drop_fraction=0.6),
            "`final_drop_fraction` must be in",
        ),
    ],
)
def test_arguments_are_checked(make, match):
    with pytest.raises(ValueError, match=match):
        make()
