"""What a scope's arguments must be, given its method."""

import math
from typing import Any

from topkast_tf.core.sparsities import is_number
from topkast_tf.methods import Method
from topkast_tf.variables.placement import Placement


def check_distribution(method: Method, placement: Placement) -> None:
    """Raises a ValueError for a distribution that a method cannot have."""
    given, known = placement.distribution, method.distributions
    if method.finds_sparsity and not isinstance(given, str):
        raise ValueError(
            f"Expected distribution='uniform' for {method.name!r}, which finds the "
            "sparsity of each weight in training (`exempt` leaves weights dense). "
            f"Received: distribution={given!r}"
        )
    if known is not None and isinstance(given, str) and given not in known:
        raise ValueError(
            f"Expected a distribution that {method.name!r} can keep: one of "
            f"{list(known)}, a mapping or a function. Received: distribution={given!r}"
        )


def check_power(method: Method, power: Any) -> None:
    """Raises a ValueError for a power that a method cannot have (Powerpropagation)."""
    if not is_number(power) or not 1 <= power < math.inf:
        raise ValueError(
            f"`power` must be a finite number, at least 1. Received: power={power!r}"
        )
    if power == 1:
        return
    expected = "Expected power=1 (the default) for {}. Received: power={}"
    if method.resets:
        # Theta has no gradient at zero then.
        why = f"{method.name!r}, in which entries start again at zero"
    elif method.computes_alpha:
        why = f"{method.name!r}, which computes alpha itself"
    elif not method.sparse_forward or method.requires_product_rule:
        why = f"{method.name!r}, which computes products by a rule of its own"
    else:
        return
    raise ValueError(expected.format(why, power))
