"""The time of a training step by types of operations."""

import csv

import pytest

from benchmarks import breakdown


def test_own_times_by_hand():
    events = [(12, 13, "inner"), (0, 10, "outer"), (2, 5, "inner"), (3, 4, "leaf")]
    assert breakdown.own_times(events) == {"outer": 7, "inner": 3, "leaf": 1}


def test_table_by_hand():
    times = {
        "dense": {"MatMul": 60.0, "Tiny": 0.5, breakdown.STEP: 80.0},
        "native": {"MatMul": 10.0, "Sparse": 20.0, "Tiny": 0.1, breakdown.STEP: 40.0},
    }
    assert breakdown.table_rows(times) == [
        ("operations, ms a step", "dense", "native"),
        ("MatMul", "60.0", "10.0"),
        ("Sparse", "0.0", "20.0"),
        ("others", "0.5", "0.1"),
        ("between operations", "19.5", "9.9"),
        (breakdown.STEP, "80.0", "40.0"),
    ]


def test_a_small_model_is_profiled(tmp_path, capsys):
    arguments = (
        *("breakdown", "--case=dense_64x64", "--variants=dense,masked", "--steps=2"),
        f"--csv={tmp_path / 'times.csv'}",
    )
    breakdown.main(arguments)
    with open(tmp_path / "times.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for variant in ("dense", "masked"):
        of = {r["operation"]: r for r in rows if r["variant"] == variant}
        # Two layers: forward pass, and the gradients of weights and of the second input.
        products = [row for name, row in of.items() if name.endswith("MatMul")]
        assert sum(float(row["calls"]) for row in products) == 5
        assert 0 < sum(float(row["ms"]) for row in products)
    # What is there is not measured again.
    breakdown.main(arguments)
    with open(tmp_path / "times.csv", newline="") as file:
        assert list(csv.DictReader(file)) == rows
    assert "between operations" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--case=vgg", "Expected --case among"),
        ("--variants=jit", "Expected --variants among"),
        ("--sparsity=0.9", "Expected sparsities such as 0.9/0.8. Received: 0.9"),
    ],
)
def test_bad_input_is_reported_in_one_sentence(argument, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        breakdown.main(["breakdown", argument, f"--csv={tmp_path / 'times.csv'}"])
    assert message in capsys.readouterr().err
