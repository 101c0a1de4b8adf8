"""The configuration of SWAT: the sparse operands of each product."""

import dataclasses

from swat_tf.packing import validate_storage
from swat_tf.topk import validate_per
from topkast_tf.core.sparsities import is_number

OPERANDS = ("weights", "activations")
PERIOD_OF = ("all", "convolutions")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Which operands of the three products are sparse.

    The default is SWAT. Other settings isolate one pass, as the paper's Figures 1 and 2 do:
    ``forward=("activations",), backward=()``; ``forward=()``; ``forward=(),
    backward=(), errors=0.9``.

    Attributes:
      forward: which of ``"weights"`` and ``"activations"`` are sparse in the forward
        pass.
      backward: which are sparse in the backward pass: weights in the input gradient,
        activations in the weight gradient.
      activations_per: activations are selected over the ``"batch"`` or per ``"sample"``.
      errors: sparsity of the gradient of the output, before both backward products.
      errors_per: as for activations; ``"sample"`` is meProp's.
      storage: ``"dense"``, or ``"packed"``: tensors saved for the backward pass are
        stored as values and one bit per entry.
    """

    forward: tuple[str, ...] = ("weights",)
    backward: tuple[str, ...] = OPERANDS
    activations_per: str = "batch"
    errors: float = 0.0
    errors_per: str = "batch"
    storage: str = "dense"

    def __post_init__(self) -> None:
        for name in ("forward", "backward"):
            asked = getattr(self, name)
            asked = (asked,) if isinstance(asked, str) else tuple(asked)
            if set(asked) - set(OPERANDS):
                raise ValueError(
                    f"`{name}` must name some of {list(OPERANDS)}. "
                    f"Received: {name}={getattr(self, name)!r}"
                )
            object.__setattr__(self, name, asked)
        validate_sparsity("errors", self.errors)
        validate_per("activations_per", self.activations_per)
        validate_per("errors_per", self.errors_per)
        validate_storage(self.storage)


def validate_period_of(period_of: object) -> None:
    """Raises a ValueError unless this names the layers of a period.

    >>> validate_period_of("convolutions")
    """
    if period_of not in PERIOD_OF:
        raise ValueError(
            f"`topk_period_of` must be one of {list(PERIOD_OF)}. "
            f"Received: topk_period_of={period_of!r}"
        )


def validate_sparsity(name: str, sparsity: object) -> None:
    """Raises a ValueError unless this is a sparsity.

    >>> validate_sparsity("errors", 0.5)
    """
    if not (is_number(sparsity) and 0 <= sparsity < 1):  # type: ignore[operator]
        raise ValueError(
            f"`{name}` must be a sparsity (a fraction of zeros) in [0, 1). "
            f"Received: {name}={sparsity!r}"
        )


def check_dense(name: str, why: str, distribution: object, storage: object) -> None:
    """Raises a ValueError for what only sparse weights and activations could have.

    Args:
      name: a method with neither.
      why: what it has, for the message.
      distribution: of its scope.
      storage: of its scope.
    """
    for argument, given, only in (
        ("distribution", distribution, "uniform"),
        ("storage", storage, "dense"),
    ):
        if given != only:
            raise ValueError(
                f"Expected {argument}={only!r} of {name!r}, {why}. "
                f"Received: {argument}={given!r}"
            )
