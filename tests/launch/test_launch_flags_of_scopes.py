"""Flags, which know the scopes without TensorFlow, agree with the scopes."""

import contextlib
import dataclasses

import pytest

from launch.config import methods
from launch.support.errors import UserError
from tests.launch.runs import parsed


def opened(*arguments, total_steps=None):
    """The innermost scope that the flags of a method give, with a model in it."""
    import keras

    values = parsed(*arguments)
    with contextlib.ExitStack() as scopes:
        for scope in methods.METHODS[values.method].scopes(values, total_steps):
            found = scopes.enter_context(scope)
        model = keras.Sequential([keras.Input((9,)), keras.layers.Dense(8)])
        model.add(keras.layers.Dense(4, name="logits"))
    return found, model


def test_scope_arguments_have_the_types_of_the_scope():
    found, _ = opened(
        "--block=4,2",
        "--exempt=first",
        '--distribution={"logits": [0.9, 0.8]}',
        "--stop_exploring_at=50",
        "--seed=3",
    )
    assert found.method.get_config() == {
        "fwd": 0.9,
        "bwd": 0.8,
        "refresh_every": 1,
        "exploration": 1e-4,
        "exploration_norm": "l2",
        "backward": "topk",
        "stop_exploring_at": 50,
        "block": (4, 2),
        "block_reduce": "sum",
        "slots": "decay",
        "total_steps": None,
    }
    assert dataclasses.asdict(found.placement) == {
        "distribution": {"logits": (0.9, 0.8)},
        "exempt": ("first",),
        "include": None,
        "seed": 3,
    }


def test_swat_arguments_have_the_types_of_the_scope():
    found, model = opened(
        *("--method=swat", "--sparsity=0.8", "--forward_sparse="),
        *("--backward_sparse=weights", "--freeze_at=9", "--distribution=erk"),
    )
    assert found.method.get_config() == {
        "sparsity": 0.8,
        "topk_period": 1,
        "topk_period_of": "all",
        "structured": None,
        "momentum": False,
        "updates": "dense",
        "freeze_at": 9,
        "forward": False,
        "total_steps": None,
    }
    assert found.placement.distribution == "erk"
    assert model.layers[0]._topkast_rule.get_config() == {
        "sparsity": 0.8,
        "activations": None,
        "topk_period": 1,
        "topk_period_of": "all",
        "forward": (),
        "backward": ("weights",),
        "activations_per": "batch",
        "errors": 0.0,
        "errors_per": "batch",
        "storage": "dense",
    }


def test_rigl_gets_the_length_of_the_run():
    found, _ = opened("--method=rigl", "--update_every=5", total_steps=200)
    assert (found.method.schedule.last, found.method.anneal) == (150, "cosine")
    found, _ = opened("--method=rigl", "--update_until=90", "--drop_noise=0")
    assert (found.method.schedule.last, found.method.noise) == (90, 0.0)
    found, _ = opened("--method=set")
    assert found.method.schedule.last is None
    for one in ("1", "1.0"):
        found, _ = opened("--method=set", f"--update_until={one}", total_steps=200)
        assert found.method.last_update == 200
    with pytest.raises(UserError, match="Expected --steps, as --update_until=0.75"):
        opened("--method=rigl")


@pytest.mark.parametrize("method", ["topkast", "swat", "topkast_swat"])
def test_the_last_selection_of_a_run_is_trained(method):
    import topkast_tf

    arguments = f"--method={method}", "--refresh_every=50", "--topk_period=50"
    arguments = [
        each for each in arguments if method != "topkast" or "topk_" not in each
    ]
    arguments = [
        each for each in arguments if method != "swat" or "refresh" not in each
    ]
    _, model = opened(*arguments, total_steps=200)
    schedule = topkast_tf.sparse_weights(model)[0].schedule
    assert [t for t in range(301) if schedule.due(t)] == [0, 50, 100, 150, 250, 300]


@pytest.mark.parametrize("name", ["static", "set", "rigl"])
def test_each_argument_of_a_method_is_a_flag(name):
    from topkast_tf.methods import METHODS

    fields = {field.name for field in dataclasses.fields(METHODS[name])}
    names = {n.removeprefix("drop_n") for n in methods.METHODS[name].flag_names}
    names = {"noise" if n == "oise" else n for n in names}
    of_every_scope = {
        "distribution",
        "exempt",
        "include",
        "kernels",
        "power",
        "storage",
        "theta",
    }
    assert fields - {"total_steps"} == names - of_every_scope


def test_kernels_are_those_of_the_scopes():
    from topkast_tf.kernels.choice import KERNELS

    [flag] = [each for each in methods.COMMON if each.name == "kernels"]
    assert flag.choices == KERNELS


# --- Accepted and refused alike ------------------------------------------------------


def scoped(*arguments):
    """Makes the scope of a method from flags, which validates its arguments."""
    values = parsed(*arguments)
    methods.METHODS[values.method].scopes(values, 100_000)


OF_SCOPES = [
    *((m, flag) for m in methods.METHODS for flag in methods.METHODS[m].flags),
    *(("static", flag) for flag in methods.COMMON if flag.name == "sparsity"),
]


WITH = {
    "anneal": ["--update_until=50"],
    "final_drop_fraction": [
        *("--drop_fraction=0.99", "--update_until=50000", "--anneal=cosine"),
    ],
    "update_from": ["--update_until=0.99"],
    "initial_sparsity": ["--sparsity=0.97"],
    "warm_up": ["--last_dense_from=0.96", "--last_compressed_from=0.97"],
    "last_dense_from": ["--last_compressed_from=0.97"],
}
"""What a flag is given with, so that its values make sense."""


@pytest.mark.parametrize(("method", "flag"), OF_SCOPES, ids=lambda x: str(x)[:30])
def test_scopes_accept_what_the_flags_accept(method, flag):
    base = ["--fwd=0.95"] if flag.name == "bwd" else ["--bwd=0"]
    base += WITH.get(flag.name, ())
    if method == "granet" and flag.name == "final_drop_fraction":
        base.append("--prune_until=0.4")
    if method == "nm":
        base.append("--sparsity=0.5")
    values = list(flag.choices)
    if flag.name == "update_from" and method != "pruning":
        values += [0, 5]  # a fraction is for pruning alone
    elif flag.range is not None:
        values += [number for number in (0.0, 0.8, 0.95) if flag.range.holds(number)]
    if flag.bounds:
        values.append(flag.bounds["lower_bound"])
    for value in values:
        scoped(f"--method={method}", *base, f"--{flag.name}={value}")


@pytest.mark.parametrize(
    ("argument", "keyword", "value"),
    [
        ("--fwd=1", "fwd", 1.0),
        ("--bwd=-0.1", "bwd", -0.1),
        ("--refresh_every=0", "refresh_every", 0),
        ("--stop_exploring_at=-1", "stop_exploring_at", -1),
        ("--exploration=-1", "exploration", -1.0),
        ("--exploration_norm=l3", "exploration_norm", "l3"),
        ("--backward=all", "backward", "all"),
        ("--block=0,1", "block", (0, 1)),
        ("--block_reduce=mean", "block_reduce", "mean"),
        ("--distribution=even", "distribution", "even"),
    ],
)
def test_scope_refuses_what_the_flags_refuse(argument, keyword, value):
    import topkast_tf

    with pytest.raises(UserError):
        parsed(argument)
    with pytest.raises(ValueError):
        topkast_tf.topkast_scope(**{"fwd": 0.9, "bwd": 0.8, keyword: value})


def test_flags_and_scopes_know_the_same_distributions():
    import swat_tf  # noqa: F401
    from topkast_tf.core.distributions import NAMED
    from topkast_tf.methods import METHODS

    for name, method in METHODS.items():
        known = {*(method.distributions or NAMED), *method.own_distributions}
        assert set(methods.METHODS[name].distributions) == known


def test_launcher_has_every_method_of_the_library():
    import swat_tf  # noqa: F401
    from topkast_tf.methods import METHODS, SETTINGS

    of_the_launcher = {"dense", "small_dense", "topkast_swat", "meprop", "dsg"}
    assert set(methods.METHODS) == {*METHODS, *SETTINGS, *of_the_launcher}
