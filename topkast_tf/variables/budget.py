"""Weights whose sets are selected together, such as under the global distribution."""

import weakref
from typing import Any


class Budget:
    """The weights that share one budget.

    Attributes:
      weights: the `SparseWeight`s, in the order in which they were made.
    """

    def __init__(self):
        self.weights: list[Any] = []


_budgets: "weakref.WeakValueDictionary[str, Budget]" = weakref.WeakValueDictionary()


def shared_budget(key: str, renew: bool = False) -> Budget:
    """The budget of a key, which the layers of one saved model find each other by.

    Args:
      key: the scope's unique id, or a string made from it.
      renew: whether to begin a new one.
    """
    budget = None if renew else _budgets.get(key)
    if budget is None:
        budget = _budgets[key] = Budget()
    return budget
