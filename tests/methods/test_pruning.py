"""Gradual pruning and AC/DC against an oracle, and their counts by hand."""

import keras
import numpy as np
import pytest

import topkast_tf as tk
from tests.methods.linear_oracle import Linear, batches, largest, layers
from topkast_tf.gradients import bytes_reduced
from topkast_tf.kernels import choice
from topkast_tf.layers import native
from topkast_tf.methods import ACDC, GradualPruning

RAMP = {"update_every": 2, "update_from": 2, "update_until": 9}


def sparsity_at(step, final, initial=0.0):
    """Zhu and Gupta's formula: updates at 2, 4, 6, 8, so that n dt = 6."""
    if step < 2:
        return initial
    update = min(step // 2 * 2, 8)
    return final + (initial - final) * (1 - (update - 2) / 6) ** 3


def test_counts_by_hand():
    """Of 1,000 entries to 0.9: shares left 1, 8/27, 1/27, 0 of the 900 that go."""
    method = GradualPruning(sparsity=0.9, **RAMP)
    found = [method.counts(1000, 100, 100, step)[0] for step in range(12)]
    assert found == [1000] * 4 + [366] * 2 + [133] * 2 + [100] * 4


@pytest.mark.parametrize("initial", [0.0, 0.5])
def test_equals_the_formula_over_training(initial):
    model = layers("pruning", sparsity=0.9, initial_sparsity=initial, **RAMP)
    oracle = Linear(model)
    x, y = batches(11)
    assert oracle.forward[0].sum() == 72 - int(72 * initial)
    for step, (a, b) in enumerate(zip(x, y, strict=True), 1):
        oracle.step(a, b)
        if step in (2, 4, 6, 8):
            first, last = 72 - int(72 * initial), 72 - int(72 * 0.9)
            kept = 72 * (1 - sparsity_at(step, 0.9, initial))
            # Whole weights: within one of the formula.
            count = last + int((first - last) * (1 - (step - 2) / 6) ** 3)
            assert abs(count - kept) <= 1
            oracle.set_masks([largest(np.abs(oracle.thetas[0]), count)])
        model.train_on_batch(a, b)
        oracle.check(model)
    theta = np.abs(oracle.thetas[0])
    assert oracle.forward[0].sum() == 8
    # The pruned ones are as they were when they were pruned.
    assert theta[~oracle.forward[0]].max() > 0


def test_last_update_is_magnitude_pruning():
    model = layers("pruning", sparsity=0.9, **RAMP)
    [weight] = tk.sparse_weights(model)
    x, y = batches(8)
    for a, b in zip(x, y, strict=True):
        model.train_on_batch(a, b)
    np.testing.assert_array_equal(
        weight.forward_mask(), largest(np.abs(weight.dense()), 8)
    )


def test_global_pruning_has_one_threshold():
    sizes = ((12, 40), (40, 6))
    model = layers("pruning", sizes, sparsity=0.9, distribution="global", **RAMP)
    x, y = batches(8)
    for a, b in zip(x, y, strict=True):
        model.train_on_batch(a, b)
    thetas = [np.abs(weight.dense()).ravel() for weight in tk.sparse_weights(model)]
    masks = [weight.forward_mask().ravel() for weight in tk.sparse_weights(model)]
    together = np.concatenate(thetas)
    np.testing.assert_array_equal(np.concatenate(masks), largest(together, 72))
    assert masks[0].mean() != masks[1].mean()


def test_mean_products_are_those_of_the_steps():
    method = GradualPruning(sparsity=0.9, total_steps=20, **RAMP)
    shares = [1 - method.counts(10**6, 10**5, 10**5, t)[0] / 1e6 for t in range(20)]
    assert method.mean_products(0.9, 0.9).forward == pytest.approx(np.mean(shares))
    method = ACDC(sparsity=0.9, total_steps=200)
    shares = [1 - method.counts(10**6, 10**5, 10**5, t)[0] / 1e6 for t in range(200)]
    assert method.mean_products(0.9, 0.9).forward == pytest.approx(np.mean(shares))


def test_acdc_alternates():
    """Compressed are 2 and 4, and what follows 8; the last dense phase is 5 to 7."""
    model = layers(
        "acdc",
        sparsity=0.75,
        total_steps=10,
        warm_up=0.2,
        phase=0.1,
        last_dense_from=0.5,
        last_compressed_from=0.8,
    )
    oracle = Linear(model)
    x, y = batches(10)
    everything = np.ones((12, 6), bool)
    returned = []
    for step, (a, b) in enumerate(zip(x, y, strict=True), 1):
        oracle.step(a, b)
        if step in (2, 4, 8):
            mask = largest(np.abs(oracle.thetas[0]), 18)
            oracle.thetas[0] = oracle.thetas[0] * mask
            oracle.set_masks([mask])
        elif step in (3, 5):
            returned.append(oracle.thetas[0][~oracle.forward[0]])
            oracle.set_masks([everything])
        model.train_on_batch(a, b)
        oracle.check(model)
    assert not np.any(returned)  # they start at zero
    assert oracle.forward[0].sum() == 18


def test_what_was_pruned_moves_in_a_dense_phase_with_its_momentum():
    model = layers("acdc", sparsity=0.75, total_steps=20)
    [weight] = tk.sparse_weights(model)
    x, y = batches(4)
    for a, b in zip(x, y, strict=True):
        model.train_on_batch(a, b)
        [slot] = [v for v in model.optimizer.variables if v.shape == (12, 6)]
    assert np.any(slot.numpy()[~weight.forward_mask()])


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("pruning", {}, "Expected `total_steps`"),
        ("pruning", {"update_from": 5, "update_until": 9}, "at least two updates"),
        (
            "pruning",
            {"initial_sparsity": 0.95, "total_steps": 1000},
            "`initial_sparsity` of at most `sparsity`",
        ),
        ("acdc", {}, "Expected `total_steps`"),
        ("acdc", {"total_steps": 5}, "at least 1 step"),
        ("acdc", {"total_steps": 100, "warm_up": 2}, "`warm_up` must be a fraction"),
        (
            "acdc",
            {"total_steps": 100, "last_compressed_from": 0.7},
            "after the last dense one",
        ),
    ],
)
def test_arguments_are_checked(name, arguments, match):
    with pytest.raises(ValueError, match=match):
        tk.sparse_scope(name, sparsity=0.9, **arguments)


@pytest.mark.parametrize("steps", [0, 5, 9])
def test_a_file_is_checked_against_the_count_of_its_step(steps, tmp_path):
    model = layers("pruning", sparsity=0.9, **RAMP)
    x, y = batches(9)
    for a, b in zip(x[:steps], y[:steps], strict=True):
        model.train_on_batch(a, b)
    sizes = bytes_reduced(model)  # not packed, as counts vary
    assert sizes.packed == sizes.dense
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    [ours], [theirs] = tk.sparse_weights(model), tk.sparse_weights(loaded)
    np.testing.assert_array_equal(ours.codes(), theirs.codes())
    if steps == 5:
        model.save_weights(tmp_path / "w.weights.h5")
        other = layers("pruning", sparsity=0.8, **RAMP)
        with pytest.raises(ValueError, match="Expected"):
            other.load_weights(tmp_path / "w.weights.h5")


def test_frozen_sets_are_saved_in_the_midst_of_the_ramp(tmp_path):
    model = layers("pruning", sparsity=0.9, **RAMP)
    x, y = batches(8)
    for step, (a, b) in enumerate(zip(x, y, strict=True)):
        if step == 5:
            tk.freeze(model)
        model.train_on_batch(a, b)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    [ours], [theirs] = tk.sparse_weights(model), tk.sparse_weights(loaded)
    np.testing.assert_array_equal(ours.codes(), theirs.codes())


def test_kernels_are_chosen_by_the_mean_density(monkeypatch):
    """Not by that of the end: for half of the run the network is nearly dense."""
    seen = []

    def speedup(*args, forward_density, backward_density, **others):
        seen.append((forward_density, backward_density))
        return 0.5

    monkeypatch.setattr(choice, "speedup", speedup)
    monkeypatch.setattr(native.library, "is_available", lambda: True)
    model = layers("pruning", sparsity=0.9, total_steps=1000, update_every=50)
    x, y = batches(1)
    model.train_on_batch(x[0], y[0])
    [weight] = tk.sparse_weights(model)
    mean = 1 - weight.method.mean_products(0.9, 0.9).forward
    assert seen and set(seen) == {(mean, mean)} and 0.4 < mean < 0.6


def test_pruning_from_a_trained_model():
    dense = keras.Sequential([keras.Input((12,)), keras.layers.Dense(6)])
    scope = tk.sparse_scope("pruning", sparsity=0.9, initial_sparsity=0.5, **RAMP)
    [weight] = tk.sparse_weights(tk.sparsify(dense, scope))
    kernel = np.abs(dense.layers[0].kernel.numpy())
    np.testing.assert_array_equal(weight.forward_mask(), largest(kernel, 36))
