"""What a sparse-training method is, and the registry of methods.

A method is a composition: score x selection x distribution x schedule. It says how the
sets A and B follow from theta, when, and what it adds to the loss. It holds no
variables: the scope gives it arrays and keeps what it returns.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import tensorflow as tf

from topkast_tf.core.blocks import Blocks, MatrixView
from topkast_tf.core.schedules import RefreshSchedule

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
      blocks: the division into units of several entries, or None for single entries.
      threshold: int scalar, the threshold that the method last returned; 0 at first.
      sets: the present set codes; None when the first ones are selected.
      momentum: where the method asks for it, the weight's momentum in theta's shape;
        None when the first sets are selected.
      schedule: when the weight's sets are selected, see `Method.schedule_of`.
    """

    theta: tf.Tensor
    kept_forward: tf.Tensor
    kept_backward: tf.Tensor
    seed: tf.Tensor
    blocks: Blocks | None
    threshold: tf.Tensor | None = None
    sets: tf.Tensor | None = None
    momentum: tf.Tensor | None = None
    schedule: RefreshSchedule | None = None


class Sets(NamedTuple):
    """What a method selects for the weights that share one budget.

    Attributes:
      codes: the set codes of each weight (uint8, in the weight's shape).
      finite: boolean scalar, whether every score was a number. If it is False the codes
        are meaningless.
      thresholds: an integer scalar a weight for `Selection.threshold`, or None.
      kept_forward: an integer scalar a weight, where the method changes how many units
        A keeps; or None.
    """

    codes: Sequence[tf.Tensor]
    finite: tf.Tensor
    thresholds: Sequence[tf.Tensor] | None = None
    kept_forward: Sequence[tf.Tensor] | None = None


class Method(abc.ABC):
    """A way to choose the sets A and B from theta.

    Attributes:
      own_distributions: names of distributions that only this method has.
      fwd: nominal forward sparsity.
      bwd: nominal backward sparsity.
      dense_updates: whether every entry is updated, so that nothing needs to be masked.
      sparse_forward: whether a forward pass reads alpha; if not, it reads theta, and
        the sets serve the backward pass only.
      updates_between_refreshes: whether the sets change between two selections, too.
      needs_momentum: whether a selection looks at the momentum of the weights.
      requires_product_rule: whether a weight is sparsified only in layers whose product
        can be computed by a rule of one's own (`topkast_tf.layers.product_rule`).
      has_penalty: whether a weight may add to the loss (`penalty`).
    """

    name: ClassVar[str]
    own_distributions: ClassVar[tuple[str, ...]] = ()

    fwd: float
    bwd: float
    dense_updates: bool = False
    sparse_forward: bool = True
    updates_between_refreshes: bool = False
    needs_momentum: bool = False
    requires_product_rule: bool = False
    has_penalty: bool = False

    @property
    @abc.abstractmethod
    def schedule(self) -> RefreshSchedule:
        """When the sets are selected."""

    def schedule_of(self, view: MatrixView) -> RefreshSchedule:
        """When the sets of one weight are selected, where weights differ in that.

        Weights of a common budget are given to `select` together at each step at which
        the sets of any of them are due.

        Args:
          view: of the weight.
        """
        del view
        return self.schedule

    @abc.abstractmethod
    def select(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        """Chooses the sets of weights that share one budget.

        Args:
          weights: one weight, or all weights of a common budget.
          step: integer scalar, the step at which the sets take effect.

        Returns:
          The `Sets`.
        """

    def update_between_refreshes(self, weight: Selection, step: tf.Tensor) -> tf.Tensor:
        """The set codes of a weight at a step at which none are selected.

        Called only if the method `updates_between_refreshes`.

        Args:
          weight: the weight, with the threshold of the last selection.
          step: integer scalar.
        """
        raise NotImplementedError

    def counts(
        self, kept_forward: int, kept_backward: int, step: int
    ) -> tuple[int, int] | None:
        """How many units the sets A and B hold after a step, or None where that varies.

        What is read from a file is held against it.

        Args:
          kept_forward: units of A by the counters.
          kept_backward: units of B by the counters.
          step: optimizer steps taken.
        """
        del step
        return None if self.updates_between_refreshes else (kept_forward, kept_backward)

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

    def check(self, blocks: Sequence[Blocks | None]) -> None:
        """Raises a ValueError if its arguments do not fit the weights of a scope.

        Args:
          blocks: the division of each sparsified weight.
        """
        del blocks

    def get_config(self) -> dict:
        """The arguments that make this method again."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]
