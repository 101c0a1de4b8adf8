"""The base of methods with one mask and one sparsity."""

import dataclasses
from typing import ClassVar

from topkast_tf.core.sparsities import validate_sparsities
from topkast_tf.methods.base import Method


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneMask(Method):
    """A = B, with one planned sparsity.

    Attributes:
      sparsity: in [0, 1).
    """

    one_mask: ClassVar[bool] = True  # type: ignore[misc]

    sparsity: float

    def __post_init__(self) -> None:
        validate_sparsities(self.sparsity, self.sparsity)

    @property
    def fwd(self) -> float:  # type: ignore[override]
        return self.sparsity

    @property
    def bwd(self) -> float:  # type: ignore[override]
        return self.sparsity
