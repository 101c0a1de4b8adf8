"""Updates and the end of training; what they do to averages, slots and counted costs."""

import keras
import numpy as np
import pytest

import topkast_tf as tk
from topkast_tf.methods import METHODS, SETTINGS

LENGTHS = range(4, 31)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("set", {}),
        ("set", {"update_until": 1.0}),
        ("rigl", {"update_replaces_step": False, "update_until": 1.0}),
        ("rigl", {"update_until": 1.0}),
        ("snfs", {}),
        ("dsr", {"update_until": None}),
        ("srigl", {"update_until": 1.0}),
        ("mest", {}),
        ("granet", {"prune_until": 1.0}),
        ("pruning", {"update_until": 1.0}),
        ("set_itop", {}),
        ("rigl_itop", {}),
        ("topkast", {"bwd": 0.5}),
    ],
)
def test_nothing_is_due_after_the_last_step(name, arguments):
    every = "refresh_every" if name == "topkast" else "update_every"
    arguments = {every: 2, **arguments}
    if name == "topkast":
        arguments["fwd"] = 0.8
    else:
        arguments["sparsity"] = 0.8
    make = SETTINGS.get(name) or METHODS[name]
    for steps in LENGTHS:
        schedule = make(total_steps=steps, **arguments).schedule
        assert not schedule.due(steps)
        assert any(map(schedule.due, range(1, steps)))


@pytest.mark.parametrize("until", [0.75, 1.0])
@pytest.mark.parametrize("steps", LENGTHS)
def test_pruning_and_granet_reach_their_sparsity_in_training(until, steps):
    pruning = METHODS["pruning"](
        sparsity=0.9, update_every=1, total_steps=steps, update_until=until
    )
    assert pruning.counts(1000, 100, 100, steps - 1) == (100, 100)
    granet = METHODS["granet"](
        sparsity=0.9, update_every=1, total_steps=steps, prune_until=until
    )
    assert granet._ramp.kept(500, 100, steps - 1) == 100


def test_granet_that_stops_before_it_is_sparse_is_refused():
    with pytest.raises(ValueError, match=r"Expected updates to go on until.*step 27\b"):
        METHODS["granet"](
            sparsity=0.9, update_every=2, total_steps=40, update_until=0.3
        )


@pytest.mark.parametrize(
    "arguments",
    [
        {"total_steps": 30, "update_every": 10},
        {"total_steps": 40, "update_every": 2, "update_until": 0.5},
        {"total_steps": 300},
    ],
)
def test_a_surplus_that_would_stay_is_refused(arguments):
    with pytest.raises(ValueError, match="Expected an update at or after step"):
        METHODS["mest"](sparsity=0.8, mutation=0.1, surplus=True, **arguments)
    METHODS["mest"](sparsity=0.8, mutation=0.1, **arguments)


def trained(name, optimizer, steps, **arguments):
    """A layer after some steps on noise, and its optimizer."""
    keras.utils.set_random_seed(0)
    with tk.sparse_scope(name, sparsity=0.8, **arguments):
        model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(30)])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 20)), rng.normal(size=(64, 30))
    model.compile(optimizer, "mse", jit_compile=False)
    [weight] = tk.sparse_weights(model)
    before = weight.forward_mask()
    for _ in range(steps):
        before = weight.forward_mask()
        model.train_on_batch(x, y)
    return weight, weight.forward_mask() & ~before


GROWING = ("set", "rigl", "snfs", "dsr", "mest", "granet", "srigl")


@pytest.mark.parametrize("name", GROWING)
def test_the_average_of_a_new_entry_is_its_new_value(name):
    optimizer = keras.optimizers.SGD(0.01, use_ema=True, ema_momentum=0.9)
    given = {"rigl": {"update_replaces_step": False}, "dsr": {"threshold": 0.1}}
    weight, new = trained(
        name, optimizer, 3, update_every=2, total_steps=20, **given.get(name, {})
    )
    assert new.any()
    [average] = [
        v
        for v in optimizer.variables
        if tuple(v.shape) == (20, 30) and "average" in v.path
    ]
    np.testing.assert_array_equal(average.numpy()[new], weight.dense()[new])


@pytest.mark.parametrize("optimizer", ["Adam", "RMSprop"])
def test_scaled_slots_of_new_entries_are_momentums_alone(optimizer):
    optimizer = getattr(keras.optimizers, optimizer)(0.01)
    weight, new = trained(
        "rigl",
        optimizer,
        3,
        update_every=2,
        total_steps=20,
        slot_scale=0.1,
        update_replaces_step=False,
    )
    assert new.any()
    for slot in optimizer.variables:
        if tuple(slot.shape) == (20, 30):
            values = slot.numpy()[new]
            assert np.all(values == 0) != ("momentum" in slot.path)
    assert np.isfinite(weight.dense()).all()


def test_costs_know_when_exploration_stops():
    def ratio(**arguments):
        with tk.topkast_scope(0.9, 0.2, exploration=0, **arguments):
            layer = keras.layers.Dense(100, use_bias=False)
            model = keras.Sequential([keras.Input((100,)), layer])
        return tk.count_flops(model).run_ratio

    expected = (0.1 + 0.1 + 0.5 * 0.8 + 0.5 * 0.1) / 3
    assert ratio(stop_exploring_at=5, total_steps=10) == pytest.approx(expected)
    assert ratio(total_steps=10) == ratio() == pytest.approx((0.1 + 0.1 + 0.8) / 3)


def test_costs_of_continuous_sparsification_are_those_of_its_ticket():
    with tk.sparse_scope("cs", total_steps=40, sparsity=0.9, initial_gate=1.0):
        layer = keras.layers.Dense(100, use_bias=False)
        model = keras.Sequential([keras.Input((100,)), layer])
    assert tk.count_flops(model).run_ratio == pytest.approx(1 - 0.9 / 4)
    [weight] = tk.sparse_weights(model)
    # A gate is open or shut; from step 30 on the sets are fixed.
    [gate] = [v for v in model.trainable_variables if v.path.endswith("kernel_gate")]
    gate.assign(np.where(np.arange(10_000).reshape(100, 100) % 4, -1.0, 1.0))
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    for _ in range(40):
        model.train_on_batch(np.ones((1, 100)), np.ones((1, 100)))
    assert weight.forward_sparsity == pytest.approx(0.75)
    assert tk.count_flops(model).run_ratio == pytest.approx(1 - 0.75 / 4)


@pytest.mark.parametrize("steps", ["a", 0.5, True, 10.5, 0])
@pytest.mark.parametrize("name", ["set", "mest", "pruning"])
def test_lengths_that_are_none_are_refused(name, steps):
    with pytest.raises(ValueError, match=f"total_steps={steps!r}"):
        METHODS[name](sparsity=0.9, total_steps=steps)
