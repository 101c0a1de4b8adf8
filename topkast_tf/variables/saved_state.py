"""Checks of sets and counters read from a file. Pure: NumPy arrays and numbers."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from topkast_tf.core.sets import FORWARD, RESERVOIR
from topkast_tf.variables.counters import Counter


def set_sizes(codes: np.ndarray) -> tuple[int, int]:
    """The numbers of codes in A and in B."""
    return int((codes == FORWARD).sum()), int((codes != RESERVOIR).sum())


_NOT_STATE = (
    "the file is damaged, or the arrays were computed, such as averages of `get_weights`, "
    "which holds the sets and counters too: average `trainable_variables` only"
)


def check_shapes(
    path: str, shape: Sequence[int], counters: np.ndarray, sets: np.ndarray
) -> None:
    """Raises a ValueError unless saved arrays have the shapes of a weight's state."""
    if counters.shape != (len(Counter),) or sets.shape != tuple(shape):
        raise ValueError(
            f"Expected sets of shape {tuple(shape)} and {len(Counter)} counters for "
            f"{path}: the shapes of a saved model and of this one must match. Received: "
            f"sets of shape {sets.shape} and {counters.size} counters, of another model "
            "or a damaged file"
        )


def check_codes(path: str, sets: np.ndarray) -> None:
    """Raises a ValueError unless an array holds set codes."""
    if sets.max(initial=0) > FORWARD:
        raise ValueError(
            f"Expected set codes of at most {FORWARD} for {path}. Received: "
            f"{sets.max()}; {_NOT_STATE}"
        )


def codes_of_units(
    path: str, sets: np.ndarray, unit_of: np.ndarray | None
) -> np.ndarray:
    """One code per unit of selection.

    Args:
      path: the weight's path.
      sets: a code for each entry.
      unit_of: the block index of each entry; None for single entries.

    Raises:
      ValueError: if a block holds different codes.
    """
    if unit_of is None:
        return sets
    units = np.zeros(unit_of.max() + 1, np.uint8)
    units[unit_of] = sets
    if np.any(units[unit_of] != sets):
        raise ValueError(
            f"Expected sets of {path} that hold whole blocks. Received: sets "
            f"that divide one; {_NOT_STATE}"
        )
    return units


def unit_of_entries(blocks: object, units: int) -> np.ndarray | None:
    """The block index of each entry, or None without blocks."""
    if blocks is None:
        return None
    return blocks.expand(tf.range(units)).numpy()  # type: ignore[attr-defined]


def check_sizes(
    path: str, found: tuple[int, int], expected: tuple[int, int] | None
) -> None:
    """Raises a ValueError unless sets have the sizes that their counters state."""
    if expected is not None and found != expected:
        raise ValueError(
            f"Expected sets of {path} that keep {expected[0]} units forward and "
            f"{expected[1]} backward, as its counters say. Received: sets that keep "
            f"{found[0]} and {found[1]}; {_NOT_STATE}"
        )


def check_total_sizes(
    paths: Sequence[str], found: tuple[int, int], expected: tuple[int, int] | None
) -> None:
    """As `check_sizes`, for all sets of a shared budget together."""
    if expected is not None and found != expected:
        raise ValueError(
            f"Expected sets that keep {expected[0]} units forward and {expected[1]} "
            f"backward over {list(paths)} together. Received: a file whose sets keep "
            f"{found[0]} and {found[1]}; it is damaged, or holds only some of these "
            "weights (`refresh` reselects)"
        )


def check_counts(
    path: str,
    units: int,
    sparsities: tuple[float, float],
    found: Sequence[int],
    expected: Sequence[int],
) -> None:
    """Raises a ValueError unless saved counters match the planned counts of a weight."""
    if list(found) != list(expected):
        fwd, bwd = sparsities
        raise ValueError(
            f"Expected sets that keep {list(expected)} of {units} units of {path} "
            f"(fwd={fwd}, bwd={bwd}). Build the model in a scope with the sparsities "
            "that it was saved with, or, if its sets came from `set_masks`, call it with "
            f"masks of these sizes first. Received: a file whose sets keep {list(found)}"
        )
