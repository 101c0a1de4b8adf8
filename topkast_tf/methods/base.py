"""The contract of a sparse-training method.

A method is a composition: score x selection x distribution x schedule. It says what the
sets A and B are at first (`initial`), how they change and when (`update`), what it must
see for that (`inputs`), and what it adds to the loss. It holds no variables: it is given
arrays, and what it returns is kept for it.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import tensorflow as tf

from topkast_tf.core.blocks import Blocks, MatrixView
from topkast_tf.core.schedules import RefreshSchedule

GRADIENT = "gradient"
"""Input: the dense gradient of the loss with respect to alpha, of the whole step."""
MOMENTUM = "momentum"
"""Input: the optimizer's momentum, or an average of gradients where it keeps none."""
INPUTS = (GRADIENT, MOMENTUM)
"""What a method may ask for beside theta and the sets."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """What one weight brings to a selection.

    Attributes:
      theta: the dense parameter.
      kept_forward: int scalar, how many units (entries or blocks) A keeps.
      kept_backward: int scalar, how many units B keeps.
      seed: int scalar, the weight's own random seed.
      blocks: the division into units of several entries, or None for single entries.
      threshold: int scalar, what the method last returned as such; 0 at first.
      sets: the present set codes; None when the first ones are selected.
      gradient: where the method asks for it, ``dL/dalpha`` in theta's shape, summed over
        replicas and averaged over accumulated batches, also of entries outside B.
      momentum: where the method asks for it, the weight's momentum in theta's shape.
        Both inputs are None when sets are selected without a step (`initial`,
        `reselect`).
      schedule: when the weight's sets are updated, see `Method.schedule_of`.
    """

    theta: tf.Tensor
    kept_forward: tf.Tensor
    kept_backward: tf.Tensor
    seed: tf.Tensor
    blocks: Blocks | None
    threshold: tf.Tensor | None = None
    sets: tf.Tensor | None = None
    gradient: tf.Tensor | None = None
    momentum: tf.Tensor | None = None
    schedule: RefreshSchedule | None = None


class Reset(NamedTuple):
    """Entries of a weight that begin anew, as those that a method has grown.

    Attributes:
      entries: boolean, in the weight's shape.
      theta: the value of theta there, in the weight's shape.
      slots: the value there of the optimizer's slots (momentum, second moments, ...) of
        the weight's shape.
    """

    entries: tf.Tensor
    theta: tf.Tensor
    slots: tf.Tensor


class Sets(NamedTuple):
    """What a method selects for the weights that share one budget.

    Attributes:
      codes: the set codes of each weight (uint8, in the weight's shape).
      finite: boolean scalar, whether every score was a number. If it is False the codes
        are meaningless.
      thresholds: an integer scalar a weight for `Selection.threshold`, or None.
      kept_forward: an integer scalar a weight, where the method changes how many units
        A keeps; or None.
      resets: a `Reset` a weight, or None.
    """

    codes: Sequence[tf.Tensor]
    finite: tf.Tensor
    thresholds: Sequence[tf.Tensor] | None = None
    kept_forward: Sequence[tf.Tensor] | None = None
    resets: Sequence[Reset] | None = None


class Method(abc.ABC):
    """A way to choose the sets A and B.

    Attributes:
      own_distributions: names of distributions that only this method has.
      distributions: those that it can be spread by; None for all.
      fwd: nominal forward sparsity.
      bwd: nominal backward sparsity.
      budget: ``"layer"``: each weight has its own, unless the distribution is global;
        ``"global"``: the method moves units from weight to weight.
      inputs: which of `INPUTS` an update looks at. It is given them at the steps of its
        schedule only.
      replaces_step: whether an update takes the place of the optimizer's step: it comes
        before that step, sees the gradient of the present weights, and no parameter
        moves in that call. Otherwise it follows the step that it is due at.
      resets: whether an update has entries begin anew (`Sets.resets`).
      dense_updates: whether every entry is updated, so that nothing needs to be masked.
      varying_counts: whether a weight keeps other numbers of units while it trains than
        are planned: what is sent of its gradient is not packed, figures planned from it
        are nominal, and files are taken at their word.
      sparse_forward: whether a forward pass reads alpha; if not, it reads theta, and
        the sets serve the backward pass only.
      updates_between_refreshes: whether the sets change between two selections, too.
      requires_product_rule: whether a weight is sparsified only in layers whose product
        can be computed by a rule of one's own (`topkast_tf.layers.product_rule`).
      has_penalty: whether a weight may add to the loss (`penalty`).
    """

    name: ClassVar[str]
    own_distributions: ClassVar[tuple[str, ...]] = ()
    distributions: ClassVar[tuple[str, ...] | None] = None

    fwd: float
    bwd: float
    budget: str = "layer"
    inputs: tuple[str, ...] = ()
    replaces_step: bool = False
    resets: bool = False
    dense_updates: bool = False
    varying_counts: bool = False
    sparse_forward: bool = True
    updates_between_refreshes: bool = False
    requires_product_rule: bool = False
    has_penalty: bool = False

    @property
    @abc.abstractmethod
    def schedule(self) -> RefreshSchedule:
        """When the sets are updated: `due` gives whether they are, of a step."""

    def schedule_of(self, view: MatrixView) -> RefreshSchedule:
        """When the sets of one weight are updated, where weights differ in that.

        Weights of a common budget are given to `update` together at each step at which
        the sets of any of them are due.

        Args:
          view: of the weight.
        """
        del view
        return self.schedule

    @abc.abstractmethod
    def update(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        """The next sets of weights that share one budget.

        Args:
          weights: one weight, or all weights of a common budget.
          step: integer scalar, the step at which the sets take effect.
        """

    def initial(self, weights: Sequence[Selection]) -> Sets:
        """The first sets; by default those of an update at step 0.

        Called when a weight is made, when it is assigned to before training (by an
        initializer, `set_weights`, the weights of a dense model), and when its planned
        sparsity changes.
        """
        return self.update(weights, tf.constant(0, tf.int64))

    def reselect(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        """The sets that follow from thetas as they are (`topkast_tf.refresh`).

        By default those of an update. A method whose update starts from the present sets
        selects by magnitude: nobody has asked for its next step.
        """
        return self.update(weights, step)

    def update_between_refreshes(self, weight: Selection, step: tf.Tensor) -> tf.Tensor:
        """The set codes of a weight at a step at which none are selected.

        Called only if the method `updates_between_refreshes`.

        Args:
          weight: the weight, with the threshold of the last selection.
          step: integer scalar.
        """
        raise NotImplementedError

    def counts(
        self, units: int, kept_forward: int, kept_backward: int, step: int
    ) -> tuple[int, int] | None:
        """How many units the sets A and B hold after a step, or None where that varies.

        What is read from a file is held against it.

        Args:
          units: how many there are.
          kept_forward: units of A by the counters.
          kept_backward: units of B by the counters.
          step: optimizer steps taken.
        """
        del units, step
        return None if self.updates_between_refreshes else (kept_forward, kept_backward)

    def calls(self, step: int, threshold: int) -> int:
        """How often the optimizer was called until a step, which updates may replace.

        Args:
          step: optimizer steps taken.
          threshold: what the last update has returned as such.
        """
        del threshold
        return step

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
