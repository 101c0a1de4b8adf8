"""The products of a training step, and the tensors kept for its backward pass."""

import dataclasses
from collections.abc import Mapping

RELU = "relu"
"""Reader of a tensor: the gradient of the ReLU that computed it."""

OTHER = "other"
"""Reader of a tensor: any gradient other than that of a weight's product or a ReLU."""


@dataclasses.dataclass(frozen=True)
class Amount:
    """A number that grows with the batch: `each` per example, plus `once`.

    >>> Amount(each=3, once=10).of(4)
    22
    """

    each: int = 0
    once: int = 0

    def of(self, batch: int) -> int:
        """The number for a batch."""
        return self.each * batch + self.once

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.each + other.each, self.once + other.once)


@dataclasses.dataclass(frozen=True)
class Kept:
    """One tensor of the forward pass that the backward pass reads.

    Attributes:
      entries: number of entries.
      itemsize: bytes per entry.
      readers: the gradients that read it: paths of the weights that it is multiplied
        with, `RELU`, `OTHER`.
    """

    entries: Amount
    itemsize: int
    readers: tuple[str, ...] = (OTHER,)


@dataclasses.dataclass(frozen=True)
class ForwardPass:
    """A forward pass in training.

    Attributes:
      macs: weight path -> dense multiply-adds.
      activation_macs: multiply-adds of products between activations.
      kept: the tensors that the backward pass reads.
      inputs: bytes of a batch and its labels.
      carried: bytes kept from one step to the next, such as a memory of segments.
    """

    macs: Mapping[str, Amount]
    activation_macs: Amount
    kept: tuple[Kept, ...]
    inputs: Amount
    carried: Amount = Amount()
