"""Counted FLOPs averaged over training, by the schedules of methods."""

import keras
import numpy as np
import pytest

import topkast_tf as tk


def report(name, **arguments):
    with tk.sparse_scope(name, **arguments):
        model = keras.Sequential(
            [keras.Input((100,)), keras.layers.Dense(50, use_bias=False)]
        )
    [weight] = tk.sparse_weights(model)
    return tk.count_flops(model), weight.method


def test_pruning_is_averaged_over_its_ramp():
    """Step by step from the counts: all three products have the density of the step."""
    found, method = report("pruning", sparsity=0.9, total_steps=1000, update_every=50)
    each = [method.counts(5000, 500, 500, step)[0] / 5000 for step in range(1000)]
    assert found.run_ratio == pytest.approx(np.mean(each), rel=1e-3)
    assert found.training_ratio == 1.0  # now, at step 0
    assert found.run.forward / found.dense.forward == pytest.approx(found.run_ratio)
    assert "all of training" in str(found)


def test_acdc_is_dense_for_half_of_the_time():
    """Of 100 parts 50 are compressed: 13 phases of 5, every other one, and the last 15."""
    found, _ = report("acdc", sparsity=0.8, total_steps=1000)
    assert found.run_ratio == pytest.approx(1 - 0.8 * 0.5)


def test_rigl_has_a_dense_gradient_at_its_updates():
    """Updates at 0, 100, ..., 700 of 1,000 steps: 8 of them."""
    found, _ = report("rigl", sparsity=0.9, total_steps=1000, update_every=100)
    gradient = 0.1 + 0.9 * 8 / 1000
    assert found.run_ratio == pytest.approx((0.1 + 0.1 + gradient) / 3)


def test_snfs_has_a_dense_gradient_always():
    found, _ = report("snfs", sparsity=0.9, total_steps=1000)
    assert found.run_ratio == pytest.approx((0.1 + 0.1 + 1) / 3)


def test_mest_with_surplus_is_denser_at_first():
    """10 % more until 0.25 of the run, 5 % until 0.75."""
    found, _ = report(
        "mest",
        sparsity=0.5,
        total_steps=1000,
        mutation=0.1,
        surplus=True,
        stages=(0.25, 0.75),
    )
    assert found.run_ratio == pytest.approx(0.5 + 0.1 * 0.25 + 0.05 * 0.5)


def test_granet_falls_from_its_first_density():
    found, method = report("granet", sparsity=0.9, total_steps=1000, update_every=10)
    assert 0.1 < found.run_ratio < 0.5
    share = method._ramp.mean_share(1000)
    density = 0.1 + 0.4 * share
    updates = 1 / 10 * (1 - density)
    assert found.run_ratio == pytest.approx(density + updates / 3, rel=1e-3)


@pytest.mark.parametrize("name", ["topkast", "static", "nm"])
def test_constant_methods_cost_what_their_sets_do(name):
    arguments = {"sparsity": 0.5} | ({"bwd": 0.25} if name == "topkast" else {})
    found, _ = report(name, **arguments)
    assert found.run == found.sparse
    assert "all of training" not in str(found)
