"""Invalid saved sets are refused; the error names the weight and the problem."""

import shutil

import h5py
import numpy as np
import pytest

import topkast_tf as tk
from tests import zoo


def altered(path, change):
    """Changes each layer's state in a file of weights, in place."""
    with h5py.File(path, "r+") as file:
        names = []
        file.visit(names.append)
        for name in names:
            if name.endswith(("_sets", "_clock")):
                values = file[name][()]
                values = change(name.rsplit("_", 1)[1], values)
                if values is not None:
                    del file[name]
                    file[name] = values


def filled(code):
    return lambda kind, values: np.full_like(values, code) if kind == "sets" else None


def one_less(kind, values):
    if kind == "sets":
        values[np.unravel_index(np.argmax(values == 2), values.shape)] = 0
        return values
    return None


DAMAGE = {
    "code 7": (filled(7), "codes of at most 2"),
    "all in A": (filled(2), "its counters say"),
    "all in B": (filled(1), "its counters say"),
    "all in C": (filled(0), "its counters say"),
    "one less": (one_less, "its counters say"),
    "transposed": (lambda kind, v: v[:, None] if kind == "sets" else None, "damaged"),
}
DAMAGED_SCOPES = {
    "topkast": {"fwd": 0.9, "bwd": 0.8},
    "blocks": {"fwd": 0.9, "bwd": 0.8, "block": (2, 2)},
    "random": {"fwd": 0.9, "bwd": 0.8, "backward": "random"},
    "no longer exploring": {"fwd": 0.9, "bwd": 0.5, "stop_exploring_at": 0},
}


def saved(scope, folder):
    """A model and a file of its weights, which each test loads first."""
    with tk.topkast_scope(**scope):
        model = zoo.unbuilt_sequential()
    model(zoo.images(zoo.unbuilt_sequential))
    model.save_weights(folder / "model.weights.h5")
    return model, folder / "model.weights.h5"


@pytest.fixture(scope="module", params=DAMAGED_SCOPES)
def of_a_scope(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("of_a_scope")
    return request.param, *saved(DAMAGED_SCOPES[request.param], folder)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_sets_are_refused(of_a_scope, damage, tmp_path):
    scope, model, whole = of_a_scope
    model.load_weights(whole)
    path = shutil.copy(whole, tmp_path)
    change, message = DAMAGE[damage]
    altered(path, change)
    with pytest.raises(ValueError, match="damaged|divide one|counters say"):
        model.load_weights(path)
    if scope == "topkast":
        with pytest.raises(ValueError, match=message):
            model.load_weights(path)


@pytest.fixture(scope="module")
def of_a_common_budget(tmp_path_factory):
    scope = {"fwd": 0.9, "bwd": 0.8, "distribution": "global"}
    return saved(scope, tmp_path_factory.mktemp("of_a_common_budget"))


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name != "transposed"])
def test_damaged_sets_of_a_common_budget_are_refused(
    of_a_common_budget, damage, tmp_path
):
    model, whole = of_a_common_budget
    images = zoo.images(zoo.unbuilt_sequential)
    model.load_weights(whole)
    model(images)
    path = shutil.copy(whole, tmp_path)
    altered(path, DAMAGE[damage][0])
    with pytest.raises(ValueError, match="damaged"):
        model.load_weights(path)
        model(images)


def test_damaged_sets_in_set_weights_are_refused():
    with tk.topkast_scope(0.9, 0.8):
        model = zoo.sequential()
    values = [np.array(value) for value in model.get_weights()]
    averaged = [(value + value) / 2 for value in values]
    model.set_weights(averaged)  # of one model: nothing has changed
    values[-2] = np.full_like(values[-2], 7)
    with pytest.raises(
        ValueError, match="codes of at most 2.*averages of `get_weights`"
    ):
        model.set_weights(values)
