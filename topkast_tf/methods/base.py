"""What a sparse-training method is, and the registry of methods.

A method is a composition: score x selection x distribution x schedule. It says how the
sets A and B follow from theta, when, and what it adds to the loss. It holds no
variables: the scope gives it arrays and keeps what it returns.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import tensorflow as tf

from topkast_tf.blocks import Blocks, MatrixView
from topkast_tf.schedules import RefreshSchedule

METHODS: dict[str, type["Method"]] = {}
"""Every registered method by name; the conformance table of the tests iterates it."""


def register(cls: type["Method"]) -> type["Method"]:
    """Class decorator: makes a method known by its `name`."""
    METHODS[cls.name] = cls
    return cls


@dataclasses.dataclass(frozen=True)
class Selection:
    """What one weight brings to a selection.

    Attributes:
      theta: the dense parameter.
      kept_forward: int scalar, how many units (entries or blocks) A keeps.
      kept_backward: int scalar, how many units B keeps.
      seed: int scalar, the weight's own random seed.
      blocks: the division into blocks, or None for single entries.
    """

    theta: tf.Tensor
    kept_forward: tf.Tensor
    kept_backward: tf.Tensor
    seed: tf.Tensor
    blocks: Blocks | None


class Method(abc.ABC):
    """A way to choose the sets A and B from theta."""

    name: ClassVar[str]

    fwd: float
    bwd: float

    @property
    @abc.abstractmethod
    def schedule(self) -> RefreshSchedule:
        """When the sets are selected."""

    @abc.abstractmethod
    def select(
        self, weights: Sequence[Selection], step: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Chooses the sets of weights that share one budget.

        Args:
          weights: one weight, or all weights of a global budget.
          step: integer scalar, the step at which the sets take effect.

        Returns:
          The set codes of each weight (uint8, in the weight's shape), and a boolean
          scalar: whether every score was a number. If it is False the codes are
          meaningless.
        """

    def penalty(
        self, theta: tf.Tensor, sets: tf.Tensor, density: tf.Tensor
    ) -> tf.Tensor | None:
        """What a weight adds to the loss, or None.

        Args:
          theta: the dense parameter.
          sets: its set codes.
          density: scalar, its forward density D.
        """
        del theta, sets, density
        return None

    def blocks(self, view: MatrixView) -> Blocks | None:
        """How a kernel is divided into the units that are selected."""
        del view
        return None

    def get_config(self) -> dict:
        """The arguments that make this method again."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]
