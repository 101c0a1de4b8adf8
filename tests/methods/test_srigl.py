"""SRigL: a constant fan-in, ablation, and its update output by output."""

import math

import keras
import numpy as np
import pytest

import topkast_tf as tk
from tests.methods.linear_oracle import Linear, batches, largest, layers


def fan_ins(mask):
    return set(mask.reshape(-1, mask.shape[-1]).sum(0).tolist())


def cosine(step, end):
    return 0.3 * 0.5 * (1 + math.cos(math.pi * min(step, end) / end))


def updated(theta, gradient, mask, planned, fraction, gamma):
    """The equations of the class, output by output, in NumPy."""
    rows, cols = theta.shape
    moved = math.floor(np.float32(fraction) * np.float32(planned))
    salient = largest(np.abs(theta), mask.sum() - moved, mask)
    salient |= largest(np.abs(gradient), min(moved, mask.size - mask.sum()), ~mask)
    alive = mask.any(0)
    if gamma:
        enough = salient.sum(0) >= np.float32(gamma * mask.sum(0).max())
        best = np.where(alive, salient.sum(0), -1).argmax()
        left = alive & enough
        alive = left if left.any() else np.arange(cols) == best
    fan_in = min(max(planned // alive.sum(), 1), rows)
    left = fan_in - math.floor(np.float32(fraction) * np.float32(fan_in))
    found = np.zeros_like(mask)
    for output in np.flatnonzero(alive):
        own = mask[:, output]
        kept = largest(np.abs(theta[:, output]), min(left, own.sum()), own)
        grown = largest(np.abs(gradient[:, output]), fan_in - kept.sum(), ~kept)
        found[:, output] = kept | grown
    assert found.shape == (rows, cols)
    return found


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.9])
def test_equals_its_equations_over_training(gamma):
    sizes = ((24, 20),)
    model = layers(
        "srigl",
        sizes,
        sparsity=0.8,
        update_every=2,
        total_steps=20,
        update_until=0.8,
        ablation=gamma,
    )
    oracle = Linear(model)
    x, y = batches(14, 24, 20)
    outputs = [oracle.forward[0].any(0).sum()]
    for step, (a, b) in enumerate(zip(x, y, strict=True), 1):
        [gradient] = oracle.step(a, b)
        if step % 2:
            mask, theta = oracle.forward[0], oracle.thetas[0]
            new = updated(theta, gradient, mask, 96, cosine(step, 16), gamma)
            oracle.thetas[0] = np.where(new & ~mask, 0, theta)
            oracle.velocities[0] = np.where(new & ~mask, 0, oracle.velocities[0])
            oracle.set_masks([new])
            assert len(fan_ins(new) - {0}) == 1 and new.sum() <= 96
            outputs.append(new.any(0).sum())
        model.train_on_batch(a, b)
        oracle.check(model)
    assert outputs == sorted(outputs, reverse=True)  # none is revived
    assert (outputs[-1] < 20) == (gamma == 0.9) or gamma == 0.3


def test_the_first_sets_have_one_fan_in_for_convolutions_too():
    with tk.sparse_scope("srigl", sparsity=0.9, total_steps=100):
        model = keras.Sequential(
            [
                keras.Input((8, 8, 4)),
                keras.layers.Conv2D(6, 3),
                keras.layers.EinsumDense("abcd,de->abce", (None, None, 5)),
            ]
        )
    masks = [weight.forward_mask() for weight in tk.sparse_weights(model)]
    # 216 entries to 0.9 keep 22: 3 of 36 inputs for each of six filters.
    assert fan_ins(masks[0]) == {3}
    assert fan_ins(masks[1]) == {1}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "`total_steps`"),
        ({"total_steps": 100, "ablation": 2}, r"`ablation` must be in \[0, 1\]"),
        ({"total_steps": 100, "first_mask": "magnitude"}, "Expected first_mask"),
    ],
)
def test_arguments_are_checked(arguments, match):
    with pytest.raises(ValueError, match=match):
        tk.sparse_scope("srigl", sparsity=0.9, **arguments)
