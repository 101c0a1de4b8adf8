"""Every method of the launcher: its flags have the defaults of its class."""

import dataclasses

import keras
import pytest

import topkast_tf as tk
from launch.config import flags as launch_flags
from launch.config import resolve
from launch.config.methods import METHODS
from launch.run import sparsity
from topkast_tf.methods import METHODS as CLASSES
from topkast_tf.methods import SETTINGS

OWN = [name for name in METHODS if name in CLASSES or name in SETTINGS]


def method_of(*arguments, total_steps=10_000):
    settings = resolve.resolved(
        launch_flags.parse(["", "--dataset=digits", *arguments])
    )
    with sparsity.scope(settings.method, settings, total_steps):
        model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(8)])
    [weight] = tk.sparse_weights(model)
    return weight.method


def test_every_method_of_the_library_can_be_run():
    assert {*CLASSES, *SETTINGS} <= {*METHODS}


@pytest.mark.parametrize("name", [n for n in OWN if n not in ("topkast", "swat")])
def test_defaults_are_those_of_the_class(name):
    found = method_of(f"--method={name}", "--sparsity=0.75")
    make = SETTINGS.get(name, CLASSES.get(name))
    given = {"sparsity": 0.75}
    if any(f.name == "total_steps" for f in dataclasses.fields(found)):
        given["total_steps"] = 10_000
    assert found == make(**given)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--method=mest", "--mutation=0.1", "--surplus"], {"surplus": True}),
        (["--method=set", "--update_every=7"], {"update_every": 7}),
        (["--method=set", "--update_until=0.5"], {"update_until": 0.5}),
        (["--method=set", "--update_until=70"], {"update_until": 70}),
        (["--method=rigl", "--drop_noise=0"], {"noise": 0.0}),
        (
            ["--method=rigl", "--noupdate_replaces_step"],
            {"update_replaces_step": False},
        ),
        (["--method=pruning", "--update_from=0.1"], {"update_from": 0.1}),
        (["--method=pruning", "--initial_sparsity=0.5"], {"initial_sparsity": 0.5}),
        (["--method=granet", "--prune_until=0.5"], {"prune_until": 0.5}),
        (["--method=acdc", "--warm_up=0.2"], {"warm_up": 0.2}),
        (["--method=dsr", "--threshold=0.1"], {"threshold": 0.1}),
        (["--method=nm", "--sparsity=0.5", "--m=8"], {"m": 8}),
        (["--method=nm", "--sparsity=0.5", "--sr_ste_decay=0"], {"decay": 0.0}),
        (["--method=str", "--threshold_decay=0.1"], {"decay": 0.1}),
        (["--method=dst", "--thresholds_per=weight"], {"per": "weight"}),
        (["--method=cs", "--gate_penalty=0.1"], {"penalty_coefficient": 0.1}),
        (["--method=cs", "--rounds=1"], {"rounds": 1}),
        (["--method=spartan", "--sharpness=5"], {"sharpness": 5.0}),
        (["--method=grasp", "--temperature=2"], {"temperature": 2.0}),
        (["--method=synflow", "--prune_rounds=3"], {"rounds": 3}),
    ],
)
def test_flags_reach_the_method(arguments, expected):
    found = method_of(*arguments)
    for name, value in expected.items():
        assert getattr(found, name) == value


def test_every_flag_of_a_method_is_one_of_its_arguments():
    """A flag that does nothing would be a trap."""
    renamed = {
        "drop_noise": "noise",
        "sr_ste_decay": "decay",
        "threshold_decay": "decay",
        "thresholds_per": "per",
        "prune_rounds": "rounds",
        "gate_penalty": "penalty_coefficient",
    }
    of_the_run = {"prune_batches", "storage", "theta", "kernels"}
    for name in OWN:
        if name in ("topkast", "swat"):
            continue
        made = method_of(f"--method={name}", "--sparsity=0.75")
        fields = {field.name for field in dataclasses.fields(made)}
        for flag in METHODS[name].flags:
            argument = renamed.get(flag.name, flag.name)
            assert argument in fields or flag.name in of_the_run, (name, flag.name)


@pytest.mark.parametrize(
    ("arguments", "itself"),
    [
        (["--method=dnw"], False),
        (["--method=topkast", "--bwd=0", "--exploration_norm=l1"], True),
        (["--method=topkast", "--exploration=0"], True),
    ],
)
def test_an_exploration_loss_is_the_decay_of_its_weights(arguments, itself):
    """DNW has none, and its weights are decayed as those of a dense network."""
    settings = resolve.resolved(
        launch_flags.parse(["", "--dataset=digits", *arguments])
    )
    with sparsity.scope(settings.method, settings, 1000):
        model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(8)])
    assert bool(sparsity.decays_itself(model)) == itself
