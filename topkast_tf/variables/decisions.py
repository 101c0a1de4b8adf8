"""Whether a parameter is sparsified, and why not: by rules, or as saved in a file."""

import dataclasses
import re
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from topkast_tf.variables.placement import ENDS, Placement
from topkast_tf.variables.weight import SparseWeight

FIRST = "`exempt` names the first"
"""Why the first weight of a scope stays dense."""
LAST = "`exempt` names the last"
"""Why the last weight of a scope stays dense."""


@dataclasses.dataclass(frozen=True, eq=False)
class Decision:
    """The decision on one parameter.

    Attributes:
      variable: the parameter.
      path: its path.
      shape: its shape.
      weight: its sparse weight, or None.
      dense: why it stays dense, or None.
      owner: the layer that created it, if any.
    """

    variable: Any
    path: str
    shape: tuple[int, ...]
    weight: SparseWeight | None
    dense: str | None
    owner: weakref.ref | None

    def get_config(self) -> dict:
        """The part saved in a file: the decision, not the rules that led to it."""
        weight = self.weight
        return {
            "shape": list(self.shape),
            "dense": self.dense,
            "fwd": weight and weight.fwd,
            "bwd": weight and weight.bwd,
            "exempt": weight and weight.exempt,
        }


class Rules:
    """The rules of a placement, and a record of their use.

    Attributes:
      used: the patterns that have matched.
      refused: path -> why the method cannot sparsify it.
    """

    def __init__(self, placement: Placement):
        self._placement = placement
        self.used: set[str] = set()
        self.refused: dict[str, str] = {}

    def why_dense(
        self,
        path: str,
        shape: Sequence[int],
        *,
        not_kernel: str | None,
        refused: str | None,
        may_be_first: bool,
    ) -> str | None:
        """Why a parameter stays dense, or None if it is sparsified.

        Args:
          path: the parameter's path.
          shape: its shape.
          not_kernel: why it is not a matmul or convolution kernel, or None if it is.
          refused: why the method cannot sparsify it, if it cannot.
          may_be_first: whether it would be the first one of its scope.
        """
        include = self._placement.include
        # First of all: a regex counts as used even if another reason applies.
        included = include is None or self._any_matches(include, path)
        exempt = self._any_matches(self._placement.exempt, path)
        if include is None and not_kernel:
            return not_kernel
        if not included:
            return "not in `include`"
        if 0 in shape:
            return f"its shape {tuple(shape)} has no entries"
        if refused:
            self.refused[path] = refused
            return refused
        if exempt:
            return "in `exempt`"
        if may_be_first and "first" in self._placement.exempt:
            return FIRST
        return None

    def _any_matches(self, patterns: Sequence[str], path: str) -> bool:
        matching = [p for p in patterns if p not in ENDS and re.search(p, path)]
        self.used.update(matching)
        return bool(matching)

    def check_all_used(self, paths: Sequence[str]) -> None:
        """Raises a ValueError if a regex has matched nothing.

        Args:
          paths: the paths of all weights.
        """
        for argument in ("exempt", "include"):
            for pattern in getattr(self._placement, argument) or ():
                if pattern not in self.used and pattern not in ENDS:
                    raise ValueError(
                        f"Expected each regex of `{argument}` to match a weight. "
                        f"Received: {pattern!r}, which matches none of {paths[:8]}"
                    )


class SavedDecisions:
    """The decisions of a file, taken one by one as its weights are created."""

    def __init__(self, decisions: Sequence[Mapping]):
        self.left = list(decisions)

    def take(self, path: str, shape: Sequence[int]) -> Mapping:
        """The decision on the next weight.

        Raises:
          ValueError: if none is left, or its weight has another shape.
        """
        if not self.left:
            raise ValueError(
                "Expected no weights other than those of the saved model. Received: "
                f"one more, {path} of shape {tuple(shape)}"
            )
        saved = self.left.pop(0)
        if tuple(saved["shape"]) != tuple(shape):
            raise ValueError(
                f"Expected a weight of shape {tuple(saved['shape'])}, as in the saved "
                f"model. Received: {path} of shape {tuple(shape)}"
            )
        return saved
