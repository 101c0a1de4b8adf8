"""The dense network that costs what a sparse one does."""

import keras
import pytest

import topkast_tf as tk
from launch import plan
from launch.config import flags as launch_flags
from launch.config import resolve
from launch.run import sparsity
from launch.run.building import build
from launch.run.small_dense import width_factor
from launch.support.errors import UserError
from launch.tasks import task_of
from tests.launch.runs import parsed


def task(*arguments):
    given = ["", "--dataset=digits", "--model=resnet8", "--method=small_dense"]
    settings = resolve.resolved(launch_flags.parse([*given, *arguments]))
    found = task_of(settings)
    found.load()
    return found


@pytest.mark.parametrize("by", ["flops", "parameters"])
def test_it_costs_what_the_sparse_network_costs(by):
    made = task("--sparsity=0.8", f"--small_by={by}", "--exempt=first")
    small = build(made, "small_dense")
    assert not tk.sparse_weights(small)
    made.width_factor = 1.0
    with sparsity.scope("static", made.settings):
        sparse = made.build()
    if by == "flops":
        costs = [made.flops(each).sparse.forward for each in (small, sparse)]
    else:
        costs = [tk.summary(each).kept_parameters for each in (small, sparse)]
    assert costs[0] == pytest.approx(costs[1], rel=0.1)


def test_the_dense_twin_keeps_its_widths():
    made = task("--sparsity=0.8")
    small = build(made, "small_dense").count_params()
    assert build(made, "dense").count_params() > 3 * small
    assert made.width_factor == 1.0


def test_a_sparsity_beyond_the_smallest_network_is_refused():
    keras.utils.set_random_seed(0)
    with pytest.raises(UserError, match="at which a smaller network exists"):
        width_factor(task("--sparsity=0.9995"))


def test_a_plan_asks_for_the_width(capsys):
    given = ["plan.py", "--dataset=digits", "--model=resnet8", "--method=small_dense"]
    assert plan.main(given) == 2
    assert "give the smaller --width itself" in capsys.readouterr().err


def test_flags_of_other_methods_have_no_effect():
    values = parsed("--method=small_dense", "--drop_fraction=0.2")
    assert values.method == "small_dense"
