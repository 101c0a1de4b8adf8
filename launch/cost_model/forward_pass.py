"""What a training step multiplies and what it keeps for its backward pass."""

import dataclasses
from collections.abc import Mapping

RELU = "relu"
"""Reader of a tensor: the gradient of the ReLU whose output it is."""

OTHER = "other"
"""Reader of a tensor: any gradient but that of a weight's product or of a ReLU."""


@dataclasses.dataclass(frozen=True)
class Amount:
    """A number that grows with the batch: `each` for an example, and `once`.

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
      entries: how many it has.
      itemsize: bytes of one.
      readers: who reads it: paths of the weights whose products it goes into, `RELU`,
        `OTHER`.
    """

    entries: Amount
    itemsize: int
    readers: tuple[str, ...] = (OTHER,)


@dataclasses.dataclass(frozen=True)
class ForwardPass:
    """A forward pass in training.

    Attributes:
      macs: weight path -> dense multiply-adds.
      activation_macs: those of products of activations with each other.
      kept: what the backward pass reads.
      inputs: bytes of a batch and its labels.
      carried: bytes that stay from one step to the next, such as a memory of segments.
    """

    macs: Mapping[str, Amount]
    activation_macs: Amount
    kept: tuple[Kept, ...]
    inputs: Amount
    carried: Amount = Amount()
