"""The scopes of static masks, SET and RigL: valid and invalid arguments."""

import keras
import pytest

import topkast_tf as tk


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("rigl", {}, "total_steps"),
        ("rigl", {"update_until": 0}, "end after they begin"),
        ("rigl", {"update_until": None}, "end of the updates"),
        ("rigl", {"update_until": 1.5}, "update_until"),
        ("rigl", {"update_until": 9, "grow_init": "ones"}, "grow_init"),
        ("set", {"grow_init": "grad_scale_2"}, "grow_init"),
        ("set", {"drop_fraction": 1.0}, "drop_fraction"),
        ("set", {"anneal": "linear"}, "anneal"),
        ("set", {"anneal": None}, "anneal=None"),
        ("set", {"grow_init": None}, "grow_init=None"),
        ("set", {"update_every": 0}, "update_every"),
        ("set", {"update_from": -1}, "update_from"),
        ("set", {"drop": "least"}, "drop"),
        ("set", {"noise": -1.0}, "noise"),
        ("static", {"first_mask": "best"}, "first_mask"),
        ("static", {"distribution": "global"}, "'static' can keep"),
        ("static", {"sparsity": 1.0}, "fwd"),
        ("stattic", {}, "one of the methods"),
    ],
)
def test_arguments_are_validated(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        with tk.sparse_scope(name, **{"sparsity": 0.5, **arguments}):
            pass


def test_unknown_arguments_name_the_known_ones():
    with pytest.raises(TypeError, match="update_every.*drop_fraction.*Received: bwd"):
        tk.sparse_scope("set", sparsity=0.5, bwd=0.2)


def test_sparse_scope_equals_the_scope_of_each_method():
    from swat_tf import swat_scope

    for one, other in (
        (tk.sparse_scope("topkast", sparsity=0.9, bwd=0.8), tk.topkast_scope(0.9, 0.8)),
        (
            tk.sparse_scope("swat", sparsity=0.9, errors=0.5),
            swat_scope(0.9, errors=0.5),
        ),
    ):
        found = []
        for scope in (one, other):
            with scope:
                model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
            [weight] = tk.sparse_weights(model)
            found.append((weight.method, weight.rule, weight.fwd, weight.bwd))
        assert found[0] == found[1]
