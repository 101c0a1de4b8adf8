"""The interface of a sparse-training method.

A method is a composition: score x selection x distribution x schedule. It defines the
initial sets A and B (`initial`), how and when they change (`update`, `schedule`), the
inputs that this needs (`inputs`), and a term of the loss (`penalty`). It is stateless: it
receives arrays, and the caller stores what it returns.
"""

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import tensorflow as tf

from topkast_tf.core.blocks import Blocks, MatrixView
from topkast_tf.core.kth_largest import HISTOGRAMS
from topkast_tf.core.schedules import RefreshSchedule, updates_a_step

GRADIENT = "gradient"
"""Input: the dense gradient of the loss with respect to alpha, for the whole step."""
MOMENTUM = "momentum"
"""Input: the optimizer's momentum, or an average of gradients if it has none."""
INPUTS = (GRADIENT, MOMENTUM)
"""The inputs that a method may request in addition to theta and the sets."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """The inputs of a selection for one weight.

    Attributes:
      theta: the dense parameter.
      kept_forward: int scalar, the number of units (entries or blocks) in A.
      kept_backward: int scalar, the number of units in B.
      seed: int scalar, the weight's own random seed.
      blocks: the division into units of several entries, or None for single entries.
      threshold: int scalar, the last threshold that the method returned; 0 initially.
      sets: the current set codes; None when the weight is created.
      gradient: if the method requests it, ``dL/dalpha`` in theta's shape, summed over
        replicas and averaged over accumulated batches, including entries outside B.
      momentum: if the method requests it, the weight's momentum in theta's shape.
        Both inputs are None when sets are selected outside a step (`initial`,
        `reselect`).
      schedule: the weight's update schedule, see `Method.schedule_of`.
      trained: values of the method's trained variables by name, see
        `Method.trained_variables`.
      view: the weight's 2-D view.
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
    trained: Mapping[str, tf.Tensor] = dataclasses.field(default_factory=dict)
    view: MatrixView | None = None


class TrainedVariable(NamedTuple):
    """A variable next to theta that the optimizer trains, such as a threshold.

    Attributes:
      shape: its shape.
      initial: its initial value.
      trainable: False for one that only updates set, such as a temperature.
      dtype: its type; by default the one of the layer's variables.
    """

    shape: tuple[int, ...]
    initial: float
    trainable: bool = True
    dtype: str | None = None


ZERO = 0
"""The value zero of all entries that a `Reset` names, without a tensor of zeros."""


class Reset(NamedTuple):
    """Entries of a weight that are reinitialized, such as grown ones.

    Attributes:
      entries: boolean, in the weight's shape.
      theta: their new value in theta, in the weight's shape; or `ZERO`.
      slots: their new value in each optimizer slot of the weight's shape (momentum,
        second moments, ...), in the weight's shape; or `ZERO`; None leaves the slots as
        they are.
    """

    entries: tf.Tensor
    theta: tf.Tensor | int
    slots: tf.Tensor | int | None


class Products(NamedTuple):
    """Sparsities of the three products of a weight, averaged over the steps of training.

    Attributes:
      forward: of the forward product.
      input_gradient: of the gradient with respect to the layer's input.
      weight_gradient: of the gradient with respect to theta.
    """

    forward: float
    input_gradient: float
    weight_gradient: float


class Sets(NamedTuple):
    """A method's selection for the weights that share one budget.

    Attributes:
      codes: the set codes of each weight (uint8, in the weight's shape).
      finite: boolean scalar, whether no score was NaN. If False, the codes are
        meaningless.
      thresholds: an integer scalar per weight for `Selection.threshold`, or None.
      kept_forward: an integer scalar per weight, if the method changes the number of
        units in A; or None.
      resets: a `Reset` per weight, or None.
      trained: per weight new values of trained variables, by name; or None.
    """

    codes: Sequence[tf.Tensor]
    finite: tf.Tensor
    thresholds: Sequence[tf.Tensor] | None = None
    kept_forward: Sequence[tf.Tensor] | None = None
    resets: Sequence[Reset] | None = None
    trained: Sequence[Mapping[str, tf.Tensor]] | None = None


DECAY, RESET = "decay", "reset"
SLOTS = (DECAY, RESET)
"""What becomes of an optimizer's slots outside B: ``"decay"``, they see a gradient of zero,
and an entry that enters B starts from what is left; ``"reset"``, they are zero."""


class Network(Protocol):
    """A network as a function of the alphas of its sparse weights, for `Method.prune`."""

    def loss(self, alphas: Sequence[tf.Tensor], temperature: float = 1.0) -> tf.Tensor:
        """The loss of the given batch, without penalties and regularizers.

        Args:
          alphas: one for each sparse weight.
          temperature: what the outputs are divided by.
        """

    def flow(self, alphas: Sequence[tf.Tensor]) -> tf.Tensor:
        """The sum of the outputs for an input of ones, as for inference.

        All other trainable variables are taken by magnitude.
        """


class Method(abc.ABC):
    """A rule that selects the sets A and B.

    Attributes:
      own_distributions: names of distributions that only this method has.
      distributions: names of the distributions that it supports; None for all.
      fwd: nominal forward sparsity.
      bwd: nominal backward sparsity.
      budget: ``"layer"``: each weight has its own, unless the distribution is global;
        ``"global"``: the method moves units between weights.
      inputs: which of `INPUTS` an update uses; passed only at the steps of its
        schedule.
      replaces_step: whether an update replaces the optimizer's step: it runs before
        that step, uses the gradient of the current weights, and no parameter changes in
        that call. Otherwise it runs after the step at which it is due.
      resets: whether an update reinitializes entries (`Sets.resets`).
      dense_updates: whether every entry is updated, so that no update is masked.
      dense_slots: whether the optimizer's slots follow the gradient of every entry, in
        each step, although updates are masked.
      one_mask: whether B is always A; a distribution then has one sparsity for each weight.
      varying_counts: whether the number of kept units may differ from the plan during
        training: gradients are then not packed for the sum over replicas, and planned
        figures are nominal.
      sparse_forward: whether a forward pass reads alpha; otherwise it reads theta, and
        only the backward pass uses the sets.
      computes_alpha: whether the method computes alpha itself, as a differentiable
        function (`alpha`). It needs dense updates: the gradient of theta is that of the
        function.
      updates_between_refreshes: whether the sets also change between selections.
      requires_product_rule: whether a weight is sparsified only in layers whose product
        a product rule can compute (`topkast_tf.layers.product_rule`).
      finds_sparsity: whether training finds the sparsity of each weight, so that a
        distribution cannot give it.
      has_penalty: whether a weight may add to the loss (`penalty`).
      prunes_before_training: whether a call of `topkast_tf.prune` selects the sets.
      prunes_first_batch: whether the first step does it, if there was no such call.
      slots: one of `SLOTS`: what becomes of the optimizer's slots outside B.
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
    dense_slots: bool = False
    one_mask: bool = False
    varying_counts: bool = False
    sparse_forward: bool = True
    computes_alpha: bool = False
    updates_between_refreshes: bool = False
    requires_product_rule: bool = False
    finds_sparsity: bool = False
    has_penalty: bool = False
    prunes_before_training: bool = False
    prunes_first_batch: bool = False
    slots: str = DECAY

    @property
    def has_dense_gradient(self) -> bool:
        """Whether the gradient of theta reaches every entry, also outside B."""
        return self.dense_updates or self.dense_slots or GRADIENT in self.inputs

    @property
    def nests_by_magnitude(self) -> bool:
        """Whether an update's A and B are the largest entries by magnitude.

        Then, and with `RefreshSchedule`, a native operation may select them.
        """
        return False

    @property
    def exploration_coefficient(self) -> float:
        """c, if the penalty is the exploration loss in its l2 form; otherwise 0."""
        return 0.0

    @property
    @abc.abstractmethod
    def schedule(self) -> RefreshSchedule:
        """The update schedule: ``due(step)`` says whether the sets are updated."""

    def schedule_of(self, view: MatrixView) -> RefreshSchedule:
        """The update schedule of one weight, for methods in which weights differ.

        Weights that share a budget are passed to `update` together at each step at
        which any of them is due.

        Args:
          view: the weight's 2-D view.
        """
        del view
        return self.schedule

    @abc.abstractmethod
    def update(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        """The next sets of weights that share one budget.

        Args:
          weights: one weight, or all weights that share a budget.
          step: integer scalar, the step at which the sets take effect.
        """

    def initial(self, weights: Sequence[Selection]) -> Sets:
        """The initial sets; by default those of an update at step 0.

        Called when a weight is created, when it is assigned before training (by an
        initializer, `set_weights`, the weights of a dense model), and when its planned
        sparsity changes.
        """
        return self.update(weights, tf.constant(0, tf.int64))

    def reselect(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        """The sets selected from the current theta (`topkast_tf.refresh`).

        By default those of an update. A method whose update starts from the current sets
        selects by magnitude instead: a refresh is not its next update.
        """
        return self.update(weights, step)

    @property
    def has_constant_products(self) -> bool:
        """Whether the products of any step cost what those of the present sets do."""
        return type(self).mean_products is Method.mean_products

    def mean_products(self, fwd: float, bwd: float) -> Products:
        """The sparsities of a weight's products, averaged over training.

        For methods whose sets grow or shrink by a schedule, or that use the dense gradient
        in some steps. By the schedule alone: counted training FLOPs and the choice of
        kernels depend on it.

        Args:
          fwd: the planned forward sparsity of the weight.
          bwd: its planned backward sparsity.

        Source: the accounting of Evci et al. 2020, appendix H, averaged over the steps.
        """
        return Products(fwd, fwd, 0.0 if self.has_dense_gradient else bwd)

    @property
    def thresholds_an_update(self) -> int:
        """How many exact thresholds an update finds among the entries of a weight."""
        return 1 if self.one_mask or self.bwd in (0.0, self.fwd) else 2

    def updates_a_step(self, view: MatrixView) -> float:
        """How many updates a weight has a step, averaged over training."""
        return updates_a_step(
            self.schedule_of(view), getattr(self, "total_steps", None)
        )

    def selection_operations(self, view: MatrixView) -> float:
        """Operations a step, averaged over training, by which a weight's sets are found.

        Integer operations: each exact threshold takes `HISTOGRAMS` of the entries, and a
        comparison of each.

        Args:
          view: the weight's 2-D view.
        """
        operations = (HISTOGRAMS + 1) * self.thresholds_an_update
        return operations * math.prod(view.shape) * self.updates_a_step(view)

    def prune(
        self,
        network: Network,
        weights: Sequence[Selection],
        budgets: Sequence[Sequence[int]],
    ) -> list[tf.Tensor]:
        """The masks A = B of all weights, before training.

        Called only if `prunes_before_training` is true.

        Args:
          network: the network.
          weights: its weights of this method.
          budgets: places in `weights` of those that share a budget.

        Returns:
          A boolean tensor for each weight, in its shape.
        """
        raise NotImplementedError

    def update_between_refreshes(self, weight: Selection, step: tf.Tensor) -> tf.Tensor:
        """The set codes of a weight at a step without a selection.

        Called only if `updates_between_refreshes` is true.

        Args:
          weight: the weight, with the threshold of the last selection.
          step: integer scalar.
        """
        raise NotImplementedError

    def counts(
        self, units: int, kept_forward: int, kept_backward: int, step: int
    ) -> tuple[int, int] | None:
        """The numbers of units in A and B after a step, or None if they vary.

        Sets read from a file are checked against them.

        Args:
          units: the number of units.
          kept_forward: units of A according to the counters.
          kept_backward: units of B according to the counters.
          step: optimizer steps taken.
        """
        del units, step
        return None if self.updates_between_refreshes else (kept_forward, kept_backward)

    @staticmethod
    def was_updated(step: Any, threshold: Any) -> Any:
        """Whether the update that replaces a step was made before this step.

        A method with `replaces_step` returns ``step + 1`` as the threshold of an update;
        the step itself follows in the next call.

        Args:
          step: optimizer steps taken, an integer or a tensor.
          threshold: the threshold that the last update returned.
        """
        return threshold == step + 1

    def calls(self, step: int, threshold: int) -> int:
        """The number of optimizer calls up to a step, including replaced ones.

        Args:
          step: optimizer steps taken.
          threshold: the threshold that the last update returned.
        """
        del threshold
        return step

    def trained_variables(self, view: MatrixView) -> Mapping[str, TrainedVariable]:
        """The variables next to a weight that the optimizer or an update sets, by name.

        Args:
          view: the weight's 2-D view.
        """
        del view
        return {}

    def alpha(
        self, theta: tf.Tensor, sets: tf.Tensor, trained: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        """The forward value of a weight, differentiable in theta and the trained ones.

        Called only if `computes_alpha` is true, and not for an exempt weight. Its zeros
        must be those outside A: `update` selects A from the same inputs, after each step.

        Args:
          theta: the dense parameter.
          sets: its set codes.
          trained: values of the trained variables.
        """
        raise NotImplementedError

    def penalty(
        self,
        theta: tf.Tensor,
        sets: tf.Tensor,
        density: tf.Tensor,
        trained: Mapping[str, tf.Tensor],
    ) -> tf.Tensor | None:
        """A weight's term of the loss, or None.

        Args:
          theta: the dense parameter.
          sets: its set codes.
          density: scalar, its forward density D.
          trained: values of the trained variables.
        """
        del theta, sets, density, trained
        return None

    def why_dense(self, view: MatrixView) -> str | None:
        """Why the method cannot sparsify a weight of this shape; None if it can.

        The weight is then left dense, and listed with the reason.
        """
        del view
        return None

    def check_plan(self, fwd: float, bwd: float) -> None:
        """Raises a ValueError for planned sparsities that the method cannot have.

        Args:
          fwd: the planned forward sparsity of a weight.
          bwd: its planned backward sparsity.
        """
        del fwd, bwd

    def blocks(self, view: MatrixView) -> Blocks | None:
        """The division of a kernel into units of selection; None for single entries."""
        del view
        return None

    def check(self, blocks: Sequence[Blocks | None]) -> None:
        """Raises a ValueError if the method does not fit the weights of a scope.

        Args:
          blocks: the division of each sparsified weight.
        """
        del blocks

    def get_config(self) -> dict:
        """The constructor arguments that recreate this method."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]
