"""What is measured of moving sets: churn of A, use of the reservoir, sparsities, loss."""

import math
from collections.abc import Sequence

import numpy as np

from topkast_tf.analysis.mask_history import unpacked
from topkast_tf.core.sets import FORWARD, RESERVOIR
from topkast_tf.variables.weight import SparseWeight

MEASURES = (
    "churn",
    "reservoir_used",
    "forward_sparsity",
    "backward_sparsity",
    "exploration_loss",
)
"""What is measured of each weight, in the order of the values."""


def churn(before: np.ndarray, after: np.ndarray) -> float:
    r"""The share of a set A that is no longer in it.

    ``churn = |A \ A'| / |A|``, which is ``|A xor A'| / (2 |A|)`` when A and A' are of one
    size. When they are not, entries that enter without another leaving do not count.

    Args:
      before: A, a boolean array of any shape, as `SparseWeight.forward_mask` gives it.
      after: A', a boolean array of the same shape.

    Returns:
      A fraction in [0, 1]; NaN if A is empty.

    Raises:
      ValueError: if the shapes differ.

    >>> churn(np.array([True, True, False]), np.array([True, False, True]))
    0.5

    Source: Top-KAST, figure 3a (there after 5,000 steps, and averaged over
    the layers).
    """
    _check_shapes(before, after)
    return _share(before, ~np.asarray(after, bool))


def reservoir_used(initial_codes: np.ndarray, ever_forward: np.ndarray) -> float:
    """The share of the initial reservoir C_0 that has ever been in A.

    ``|C_0 and (A_1 or A_2 or ...)| / |C_0|``

    Args:
      initial_codes: set codes at the beginning, as `SparseWeight.codes` gives them: 0
        for C, 1 for B without A, 2 for A; any shape.
      ever_forward: boolean array of the same shape: which entries have been in A.

    Returns:
      A fraction in [0, 1]; NaN if C_0 is empty, as it is with ``bwd=0``.

    Raises:
      ValueError: if the shapes differ.

    >>> reservoir_used(np.array([2, 1, 0, 0]), np.array([True, True, True, False]))
    0.5

    Source: Top-KAST, figures 3b and 3c.
    """
    _check_shapes(initial_codes, ever_forward)
    return _share(np.asarray(initial_codes) == RESERVOIR, ever_forward)


def _check_shapes(first: np.ndarray, second: np.ndarray) -> None:
    if np.shape(first) != np.shape(second):
        raise ValueError(
            "Expected two arrays of the same shape. "
            f"Received: shapes {np.shape(first)} and {np.shape(second)}"
        )


def _share(whole: np.ndarray, part: np.ndarray) -> float:
    """The fraction of a set that is in another one; NaN of an empty set."""
    whole = np.asarray(whole, bool)
    size = np.count_nonzero(whole)
    return float(np.count_nonzero(whole & part) / size) if size else math.nan


def measures_of(
    weight: SparseWeight,
    codes: np.ndarray,
    before: np.ndarray,
    reservoir: np.ndarray,
    ever: np.ndarray,
) -> tuple[float, ...]:
    """The measures of one weight; the sets but for the codes are bits."""
    forward = codes == FORWARD
    return (
        churn(unpacked(before, codes.shape), forward),
        _share(unpacked(reservoir, codes.shape), unpacked(ever, codes.shape)),
        1.0 - float(forward.mean()),
        float((codes == RESERVOIR).mean()),
        float(weight.penalty()),
    )


def over_all(rows: np.ndarray, sizes: Sequence[int]) -> list[float]:
    """The measures of the model, from those of its weights."""
    churns, used, forward, backward, losses = rows.T
    return [
        _mean(churns),
        _mean(used),
        float(np.average(forward, weights=sizes)),
        float(np.average(backward, weights=sizes)),
        float(losses.sum()),
    ]


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else math.nan
