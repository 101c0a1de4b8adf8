"""MEST: counts of its two forms, and SET as the first of them."""

import numpy as np
import pytest

import topkast_tf as tk
from tests.methods.linear_oracle import Linear, batches, largest, layers
from topkast_tf.methods import MEST


def test_elastic_mutation_without_surplus_is_set():
    """Of 72 entries 36 are active; 1/8 of all, a quarter of the active ones, move."""
    x, y = batches(9)
    found = []
    for name, arguments in (
        ("mest", {"mutation": 0.125, "stages": (1.0, 1.0), "total_steps": 100}),
        ("set", {"drop_fraction": 0.25, "noise": 0.0}),
    ):
        model = layers(name, sparsity=0.5, update_every=2, **arguments)
        for a, b in zip(x, y, strict=True):
            model.train_on_batch(a, b)
        [weight] = tk.sparse_weights(model)
        found.append((weight.dense(), weight.codes()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("surplus", [False, True])
def test_counts_over_training(surplus):
    """n = 72 at 0.75: 18. mu = 1/8 moves 9 until step 6, then 4 until step 9, then none."""
    model = layers(
        "mest",
        sparsity=0.75,
        mutation=0.125,
        stages=(0.5, 0.75),
        surplus=surplus,
        update_every=1,
        total_steps=12,
    )
    oracle = Linear(model)
    [weight] = tk.sparse_weights(model)
    x, y = batches(12)
    for step, (a, b) in enumerate(zip(x, y, strict=True), 1):
        oracle.step(a, b)
        before = weight.forward_mask()
        model.train_on_batch(a, b)
        after = weight.forward_mask()
        moved = 9 if step < 6 else 4 if step < 9 else 0
        left, whole = (18, 18 + moved) if surplus else (18 - moved, 18)
        assert after.sum() == whole
        kept = largest(np.abs(oracle.thetas[0]), left, before)
        assert np.all(after[kept])
        oracle.thetas[0] = np.where(after & ~before, 0, oracle.thetas[0])
        oracle.velocities[0] = np.where(after & ~before, 0, oracle.velocities[0])
        oracle.set_masks([after])
        oracle.check(model)


def test_at_most_half_of_a_moves():
    """2 % of 720 would be 14 of the 15 entries at 0.98."""
    model = layers("mest", ((12, 60),), sparsity=0.98, total_steps=100, update_every=1)
    [weight] = tk.sparse_weights(model)
    before = weight.forward_mask()
    x, y = batches(1, 12, 60)
    model.train_on_batch(x[0], y[0])
    assert before.sum() == weight.forward_mask().sum() == 15
    assert (before & weight.forward_mask()).sum() >= 8


def test_gradients_count_in_the_score():
    """A small weight with a large gradient stays: |theta| + lambda |g|."""
    model = layers(
        "mest",
        sparsity=0.5,
        mutation=0.25,
        update_every=1,
        total_steps=10,
        gradient_weight=1e6,
    )
    oracle = Linear(model)
    [weight] = tk.sparse_weights(model)
    x, y = batches(1)
    [gradient] = oracle.step(x[0], y[0])
    model.train_on_batch(x[0], y[0])
    kept = largest(np.abs(gradient), 18, oracle.forward[0])
    assert np.all(weight.forward_mask()[kept])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "Expected `total_steps`"),
        ({"total_steps": 9, "mutation": 0.0}, "`mutation` must be in"),
        ({"total_steps": 9, "stages": (0.8, 0.2)}, "two fractions in order"),
        ({"total_steps": 9, "surplus": 1}, "`surplus` must be True or False"),
        ({"total_steps": 9, "gradient_weight": -1}, "`gradient_weight` must be"),
    ],
)
def test_arguments_are_checked(arguments, match):
    with pytest.raises(ValueError, match=match):
        MEST(sparsity=0.9, **arguments)
