"""Helpers for tests of runs: flags, metrics and comparisons."""

import csv

import numpy as np
import pytest

import topkast_tf as tk
from launch.config import flags as launch_flags
from launch.config import resolve

IMAGES = (
    *("--dataset=digits", "--model=plain", "--steps=7", "--batch_size=128"),
    *("--evaluate_every=4", "--learning_rate=0.05", "--dynamics_every=2"),
)
METHODS = {
    "dense": (),
    "topkast": ("--fwd=0.8", "--bwd=0.6", "--refresh_every=2"),
    # Thresholds per example do not depend on how the batch is divided.
    "swat": ("--sparsity=0.8", "--activations_per=sample", "--errors=0.5")
    + ("--errors_per=sample",),
    "rigl": (
        "--sparsity=0.8",
        "--update_every=2",
        "--update_until=5",
        "--drop_noise=0",
    ),
}


def parsed(*arguments):
    """The values of flags, as they were written."""
    return launch_flags.parse(["train.py", *arguments])


def settings(*arguments):
    """The values of flags, resolved by the data and the method."""
    return resolve.resolved(parsed(*arguments))


def rows(folder):
    """The rows of a method's metrics, without times, which are never the same."""
    with open(folder / "metrics.csv", newline="") as file:
        found = list(csv.DictReader(file))
    for row in found:
        del row["seconds"], row["processor_seconds"], row["step_ms"]
    return found


def write_text(path, draws, size):
    """Writes a text of few letters with some structure, `size` bytes long."""
    letters = np.random.default_rng(0).integers(0, 4, draws)
    path.write_bytes(b"".join(b"ab" if i < 2 else b"cde" for i in letters)[:size])
    return path


def assert_close(ours, theirs):
    """Models and rows are equal up to rounding, the sets exactly."""
    for mine, yours in zip(ours[1], theirs[1], strict=True):
        assert mine.keys() == yours.keys()
        for name, value in mine.items():
            assert float(value) == pytest.approx(float(yours[name]), rel=1e-4), name
    for mine, yours in zip(
        ours[0].trainable_variables, theirs[0].trainable_variables, strict=True
    ):
        np.testing.assert_allclose(mine, yours, atol=1e-5, err_msg=mine.path)
    for mine, yours in zip(*map(tk.sparse_weights, (ours[0], theirs[0])), strict=True):
        np.testing.assert_array_equal(mine.codes(), yours.codes())
