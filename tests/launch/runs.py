"""What the tests of runs give to them and read of them."""

import csv

import numpy as np


def rows(folder):
    """The rows of a method's metrics, without the seconds, which are never the same."""
    with open(folder / "metrics.csv", newline="") as file:
        found = list(csv.DictReader(file))
    for row in found:
        del row["seconds"]
    return found


def write_text(path, draws, size):
    """A text of few letters with some order in it, of a number of bytes."""
    letters = np.random.default_rng(0).integers(0, 4, draws)
    path.write_bytes(b"".join(b"ab" if i < 2 else b"cde" for i in letters)[:size])
    return path
