"""A sparse weight: theta with its sets, and what one may ask of it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from topkast_tf.compat import raw_variable
from topkast_tf.core.blocks import MatrixView
from topkast_tf.core.sets import BACKWARD_ONLY, FORWARD, RESERVOIR
from topkast_tf.core.sparsities import kept, sparsity_that_keeps
from topkast_tf.methods.base import GRADIENT, Method, Selection
from topkast_tf.variables import masks, saved_state
from topkast_tf.variables.components import components, local_index
from topkast_tf.variables.counters import Counter
from topkast_tf.variables.refresh import NAN_MESSAGE, done, reselect, select_initial
from topkast_tf.variables.replica import WeightReplica


class Budget:
    """Weights that are selected from together, as under the global distribution."""

    def __init__(self):
        self.weights: list[SparseWeight] = []


class SparseWeight:
    """One sparsified weight of a model.

    The state beside theta is two variables: `sets`, one byte per entry (0 for C, 1 for
    B \\ A, 2 for A), and `counters`, a handful of integers.

    Attributes:
      path: the weight's path in the model, such as ``"dense/kernel"``.
      method: how its sets are selected.
      budget: the weights that it shares one budget with, or None.
      shape: its shape.
      view: its 2-D view.
      schedule: when its sets are selected.
      fwd: its nominal forward sparsity.
      bwd: its nominal backward sparsity.
      auxiliary: name -> variable, of those that a rule of its layer needs.
      place: its place in the order in which the weights of its scope are made; None for
        one that counts from its first use on, before that.
      rule: how its layer computes its product (`topkast_tf.layers.products`), or None.
      regularizer: the layer's own, to which the method's penalty is added, or None.
      penalty_regularizer: the one through which Keras 3 asks for the penalty, or None.
      assignments: how often theta was assigned from outside, as by `set_weights`.
    """

    def __init__(
        self,
        *,
        path: str,
        view: MatrixView,
        method: Method,
        seed: int,
        within_keras: bool,
        budget: Budget | None = None,
        ensure_planned: Callable[[], None] = lambda: None,
    ):
        self.path = path
        self.shape = view.shape
        self.method = method
        self.budget = budget
        self._ensure_planned = ensure_planned
        self.view = view
        self.blocks = self.method.blocks(view)
        self.schedule = self.method.schedule_of(view)
        self.fwd, self.bwd = self.method.fwd, self.method.bwd
        self.exempt = False
        self._restores = (0, 0)
        self._unverified = False
        self.within_keras = within_keras
        self.seed = seed
        self.place: int | None = None
        self.local_name = path
        self._theta: Any = None
        self._sets: Any = None
        self._counters: Any = None
        self.auxiliary: dict[str, Any] = {}
        self.rule: Any = None
        self.regularizer: Any = None
        self.penalty_regularizer: Any = None
        self.assignments = 0

    def __repr__(self) -> str:
        return f"<SparseWeight {self.path} {self.shape} fwd={self.fwd} bwd={self.bwd}>"

    # What the scope does with it.

    def attach(
        self,
        theta: Any = None,
        sets: Any = None,
        counters: Any = None,
        local_name: str | None = None,
    ) -> None:
        """Gives it variables, `tf.Variable` or Keras variables, as they are made."""
        self._theta = self._theta if theta is None else theta
        self._sets = self._sets if sets is None else sets
        self._counters = self._counters if counters is None else counters
        self.local_name = local_name or self.local_name

    def state_variables(self) -> dict[str, Any]:
        """The sets, the counters and what else belongs to it, by their names in a layer."""
        state = {"sets": self._sets, "clock": self._counters, **self.auxiliary}
        return {f"{self.local_name}_{name}": made for name, made in state.items()}

    def check_state(self, counters: np.ndarray, sets: np.ndarray) -> None:
        """Raises a ValueError unless saved state belongs to a weight like this one.

        Args:
          counters: the saved counters.
          sets: the saved set codes.
        """
        saved_state.check_shapes(self.path, self.shape, counters, sets)
        self._ensure_planned()
        kept_units = counters[[Counter.KEPT_FORWARD, Counter.KEPT_BACKWARD]].tolist()
        # A budget that follows the momentum moves units from weight to weight.
        planned = [self.kept_forward, self.kept_backward]
        saved_state.check_counts(
            self.path,
            self.units,
            (self.fwd, self.bwd),
            kept_units,
            kept_units if self.method.budget == "global" else planned,
        )
        saved_state.check_codes(self.path, sets)
        found = saved_state.set_sizes(self._codes_of_units(sets))
        expected = self.method.counts(
            self.units, *kept_units, int(counters[Counter.STEP])
        )
        if self.budget is not None and self.method.budget == "layer":
            expected = None  # of all its weights together: `_verify_budget`
        if self.exempt:
            expected = (self.units, self.units)
        if counters[Counter.FROZEN] and expected is not None:
            # Since a step that the counters do not know; B may have been larger then.
            backward = kept_units[1]
            expected = expected[0], backward if found[1] == backward else expected[1]
        saved_state.check_sizes(self.path, found, expected)
        self._unverified = self.budget is not None

    def _codes_of_units(self, sets: np.ndarray) -> np.ndarray:
        unit_of = saved_state.unit_of_entries(self.blocks, self.units)
        return saved_state.codes_of_units(self.path, sets, unit_of)

    def _verify_budget(self) -> None:
        """Checks the sets of a common budget, once all of its weights are restored."""
        peers = self.peers()
        if not any(peer._unverified for peer in peers):
            return
        for peer in peers:
            peer._unverified = False
        if self.method.budget == "global":
            return  # each has a count of its own
        with tf.init_scope():
            counters = [peer.replica().counters.numpy() for peer in peers]
            codes = [
                peer._codes_of_units(peer.replica().sets.numpy()) for peer in peers
            ]
        expected = self.method.counts(
            sum(peer.units for peer in peers),
            *map(int, sum(counters)[[Counter.KEPT_FORWARD, Counter.KEPT_BACKWARD]]),
            int(counters[0][Counter.STEP]),
        )
        sizes = zip(*map(saved_state.set_sizes, codes), strict=True)
        forward, backward = map(sum, sizes)
        saved_state.check_total_sizes(
            [peer.path for peer in peers], (forward, backward), expected
        )

    def plan(self, fwd: float, bwd: float, exempt: bool = False) -> None:
        """Sets the nominal sparsities; the sets follow at once if there are any yet."""
        if (fwd, bwd, exempt) == (self.fwd, self.bwd, self.exempt):
            return
        self.fwd, self.bwd, self.exempt = fwd, bwd, exempt
        if self.is_ready:
            self._set_counters(self._nominal_counts)
            self.initialize()

    @property
    def _nominal_counts(self) -> dict[int, int]:
        return {
            Counter.KEPT_FORWARD: self.kept_forward,
            Counter.KEPT_BACKWARD: self.kept_backward,
        }

    def _set_counters(self, entries: Mapping[int, int]) -> None:
        with tf.init_scope():
            for counters in components(self.counters):
                values = counters.numpy()
                values[list(entries)] = list(entries.values())
                counters.assign(values)

    def restart(self) -> None:
        """Back to step 0: theta was taken over from a model without sets.

        The sets follow at the next selection; the caller makes it once all are back.
        """
        entries = dict.fromkeys((Counter.STEP, Counter.PENDING, Counter.FAULTY), 0)
        if not self.is_frozen:
            entries |= {Counter.THRESHOLD: 0, **self._nominal_counts}
        self._set_counters(entries)
        with tf.init_scope():
            # Thresholds and averages of former steps.
            for extra in self.auxiliary.values():
                for copy in components(raw_variable(extra)):
                    copy.assign(tf.zeros_like(copy))
        self._unverified = False

    @property
    def is_frozen(self) -> bool:
        """Whether its sets stay as they are (`topkast_tf.freeze`)."""
        return bool(self._numpy(lambda c: c.counters)[Counter.FROZEN])

    def freeze(self) -> None:
        """Its sets, and those of all that share its budget, stay as they are."""
        self.prepare()
        for peer in self.peers():
            peer._set_counters({Counter.FROZEN: 1})

    @property
    def units(self) -> int:
        """How many entries, or blocks, are selected among."""
        return self.blocks.count if self.blocks else math.prod(self.shape)

    @property
    def kept_forward(self) -> int:
        """How many units A keeps."""
        return kept(self.units, self.fwd)

    @property
    def kept_backward(self) -> int:
        """How many units B keeps."""
        return kept(self.units, self.bwd)

    def initial_state(self, theta: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The sets and the counters of step 0, selected from a theta."""
        selection = Selection(
            theta=theta,
            kept_forward=tf.constant(self.kept_forward),
            kept_backward=tf.constant(self.kept_backward),
            seed=tf.constant(self.seed, tf.int64),
            blocks=self.blocks,
        )
        first = self.method.initial([selection])
        tf.debugging.Assert(first.finite, [f"{NAN_MESSAGE} {self.path}."])
        counters = [tf.constant(0, tf.int64)] * len(Counter)
        counters[Counter.KEPT_FORWARD] = tf.constant(self.kept_forward, tf.int64)
        counters[Counter.KEPT_BACKWARD] = tf.constant(self.kept_backward, tf.int64)
        counters[Counter.SEED] = tf.constant(self.seed, tf.int64)
        if first.thresholds is not None:
            counters[Counter.THRESHOLD] = tf.cast(first.thresholds[0], tf.int64)
        return first.codes[0], tf.stack(counters)

    @property
    def is_ready(self) -> bool:
        """Whether its variables exist and hold values (Keras may build symbolically)."""
        state = (self._theta, self._sets, self._counters)
        return all(raw_variable(v) is not None for v in state)

    # What a sparse variable asks of it.

    @property
    def variable(self) -> Any:
        """Theta as a `tf.Variable` (a distributed one under a strategy)."""
        return raw_variable(self._theta)

    @property
    def sets(self) -> Any:
        """The set codes as a `tf.Variable`."""
        return raw_variable(self._sets)

    @property
    def counters(self) -> Any:
        """Step and counts as a `tf.Variable`."""
        return raw_variable(self._counters)

    def replica(self, index: int = 0) -> WeightReplica:
        """The copy on one device."""
        return components(self.variable)[index]._topkast

    def peers(self) -> list["SparseWeight"]:
        """The weights that share one budget with this one, itself among them."""
        if self.budget is None or self.exempt:
            return [self]
        return [member for member in self.budget.weights if not member.exempt]

    def prepare(self) -> None:
        """Called before a forward pass reads it: the plan must be made by then."""
        self._ensure_planned()
        self._check_restored()
        if self._unverified:
            self._verify_budget()

    def _check_restored(self) -> None:
        """What `tf.train.Checkpoint` restores without a word is put right, or refused.

        Only a look from Python notices: a call, the tracing of a function, a summary.
        """
        restores = self.replica().restores if self.is_ready else self._restores
        if restores == self._restores:
            return
        self._restores, (theta_before, sets_before) = restores, self._restores
        with tf.init_scope():
            if restores[1] - sets_before < restores[0] - theta_before:
                self.restart()  # the checkpoint of a dense model
                if not self.is_frozen:
                    self.initialize_budget()
            else:
                replica = self.replica()
                self.check_state(replica.counters.numpy(), replica.sets.numpy())

    def after_assignment(self, replica: WeightReplica) -> None:
        """Called after theta was assigned from outside, as by `set_weights`.

        Before the first step this is an initialisation, and the sets follow theta. Later
        it is somebody's business (an average swapped in, a checkpoint), and they stay.
        """
        self.assignments += 1
        # Of all that share its budget: while a saved model is loaded, one after the other,
        # those that are restored already are not to be selected anew.
        peers = replica.peers()
        counters = [peer.counters.read_value() for peer in peers]
        started = [
            counters[Counter.STEP] + counters[Counter.FROZEN] for counters in counters
        ]
        tf.cond(
            tf.reduce_max(tf.stack(started)) < 1,
            lambda: done(select_initial(peers)),
            done,
        )

    def density(self, replica: WeightReplica) -> tf.Tensor:
        """The achieved forward density D of a replica, a scalar.

        Under a common budget a weight may be left without any entry in A. It counts as
        one then, or the penalty, which is divided by D, would be infinite.
        """
        if self.blocks is None and self.budget is None:
            kept_forward = replica.counters.read_value()[Counter.KEPT_FORWARD]
            return tf.cast(kept_forward, tf.float32) / math.prod(self.shape)
        forward = tf.cast(replica.sets.read_value() == FORWARD, tf.float32)
        return tf.maximum(tf.reduce_mean(forward), 1 / math.prod(self.shape))

    def penalty(self) -> tf.Tensor:
        """What it adds to the loss, a scalar: float64 if theta is, otherwise float32."""
        self.prepare()
        replica = self.replica(local_index(self.variable))
        value = None
        if not self.exempt:
            value = self.method.penalty(
                replica.read_theta(),
                replica.sets.read_value(),
                self.density(replica),
            )
        if value is not None:
            return value
        is_double = replica.theta.dtype == tf.float64
        return tf.zeros([], tf.float64 if is_double else tf.float32)

    # What a person asks of it.

    def dense(self) -> np.ndarray:
        """Theta: the dense parameter, as a NumPy array."""
        return self._numpy(lambda replica: replica.theta)

    def effective(self) -> np.ndarray:
        """Alpha: what the forward pass computes with, as a NumPy array."""
        theta = self.dense()
        if not self.method.sparse_forward:
            return theta
        return np.where(self.forward_mask(), theta, np.zeros((), theta.dtype))

    def forward_mask(self) -> np.ndarray:
        """A, as a boolean NumPy array of the weight's shape."""
        return self.codes() == FORWARD

    def backward_mask(self) -> np.ndarray:
        """B, as a boolean NumPy array of the weight's shape."""
        return self.codes() != RESERVOIR

    def codes(self) -> np.ndarray:
        """The set codes: 0 for C, 1 for B \\ A, 2 for A (uint8)."""
        self.prepare()
        self.raise_if_faulty()
        return self._numpy(lambda replica: replica.sets)

    def set_masks(self, forward: Any, backward: Any = None) -> None:
        """Takes sets from outside: a lottery ticket, or what another library has found.

        ``A = forward, B = backward``; theta stays as it is. The planned sparsities become
        those of the masks. The method goes on from there, and selects anew when it next
        does: `topkast_tf.freeze` keeps the masks.

        Args:
          forward: A, a boolean array (or zeros and ones) of the weight's shape.
          backward: B, which holds A; None for A itself, or for everything where the
            method updates all entries.

        Raises:
          ValueError: for another shape, other values, a B that lacks an entry of A, a mask
            without any entry, a divided block, or, under a common budget, other numbers
            of entries than the weight keeps.

        >>> import keras, numpy as np
        >>> from topkast_tf import freeze, sparse_scope, sparse_weights
        >>> with sparse_scope("static", sparsity=0.5):
        ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        >>> [kernel] = sparse_weights(model)
        >>> kernel.set_masks([[1, 0], [1, 1]])
        >>> kernel.forward_mask().tolist(), kernel.forward_sparsity
        ([[True, False], [True, True]], 0.25)
        """
        self.prepare()
        codes = masks.codes_of(self.path, self.shape, forward, backward)
        if self.method.dense_updates:
            if backward is not None and not np.all(codes):
                raise ValueError(
                    f"Expected backward=None for {self.path}, as {self.method.name!r} "
                    "updates every entry. Received: a mask that leaves some out"
                )
            codes = np.maximum(codes, BACKWARD_ONLY)
        sizes = saved_state.set_sizes(self._codes_of_units(codes))
        counters = self._numpy(lambda replica: replica.counters)
        before = [
            int(counters[i]) for i in (Counter.KEPT_FORWARD, Counter.KEPT_BACKWARD)
        ]
        if self.budget is not None and list(sizes) != before:
            raise ValueError(
                f"Expected masks that keep {before} entries of {self.path}, as its part "
                f"of a common budget. Received: masks that keep {list(sizes)}"
            )
        self.fwd, self.bwd = (sparsity_that_keeps(self.units, size) for size in sizes)
        self._set_counters(self._nominal_counts)
        with tf.init_scope():
            for sets in components(self.sets):
                sets.assign(codes)

    @property
    def forward_sparsity(self) -> float:
        """The achieved forward sparsity."""
        return 1.0 - float(self.forward_mask().mean())

    @property
    def backward_sparsity(self) -> float:
        """The achieved backward sparsity."""
        return 1.0 - float(self.backward_mask().mean())

    @property
    def step(self) -> int:
        """How many optimizer steps it has taken."""
        self.prepare()
        return int(self._numpy(lambda replica: replica.counters)[Counter.STEP])

    @property
    def looks_at_gradient(self) -> bool:
        """Whether its method looks at the gradient outside B in the next step."""
        if GRADIENT not in self.method.inputs or self.exempt:
            return False
        counters = self._numpy(lambda replica: replica.counters)
        if counters[Counter.FROZEN]:
            return False
        step = int(counters[Counter.STEP])
        if not self.method.replaces_step:  # the update follows the step
            return bool(self.schedule.due(step + 1))
        is_new = counters[Counter.THRESHOLD] != step + 1
        return bool(is_new and self.schedule.due(step))

    @property
    def calls(self) -> int:
        """How many calls of the optimizer it has seen: steps, and updates in their place.

        Counted from the schedule of its method; of frozen sets it is the steps.
        """
        self.prepare()
        counters = self._numpy(lambda replica: replica.counters)
        step = int(counters[Counter.STEP])
        if counters[Counter.FROZEN]:
            return step
        return self.method.calls(step, int(counters[Counter.THRESHOLD]))

    def refresh(self) -> None:
        """Selects the sets anew from theta as it is, where a person asks for it."""
        self._select_by(reselect)

    def initialize(self) -> None:
        """Selects the first sets, from theta as it is."""
        self._select_by(select_initial)

    def initialize_budget(self) -> None:
        """Selects the first sets of all that share its budget.

        Where a method has dealt them units, all go back to their own share, or they would
        keep more together than the budget.
        """
        if self.method.budget == "global":
            for peer in self.peers():
                if peer.is_ready:
                    peer._set_counters(peer._nominal_counts)
        self.initialize()

    def _select_by(self, select: Callable[[list[WeightReplica]], None]) -> None:
        with tf.init_scope():
            peers = self.peers()
            for index in range(len(components(self.variable))):
                select([peer.replica(index) for peer in peers])

    def _numpy(self, read: Callable[[WeightReplica], tf.Variable]) -> np.ndarray:
        if not self.is_ready:
            raise ValueError(
                "Expected a model that is built. Call it on data, or `build` it, first. "
                f"Received: {self.path}, which has no values yet"
            )
        with tf.init_scope():  # eagerly, also where a graph is being traced
            return read(self.replica()).numpy()

    def raise_if_faulty(self) -> None:
        """Raises a ValueError if a refresh has met a NaN that could not be raised then."""

        def counters(replica):
            # Within a `keras.StatelessScope`, Keras reads the scope's value.
            value = self._counters.value
            return value if isinstance(value, tf.Tensor) else replica.counters

        if self._numpy(counters)[Counter.FAULTY]:
            raise ValueError(f"{NAN_MESSAGE} {self.path}.")
