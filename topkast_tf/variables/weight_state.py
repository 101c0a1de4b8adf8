"""The state of a sparse weight: its variables, its plan, and how it is restored."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from topkast_tf import compat
from topkast_tf.compat import raw_variable
from topkast_tf.core.blocks import Blocks, MatrixView
from topkast_tf.core.powerprop import powered, root
from topkast_tf.core.sparsities import kept
from topkast_tf.kernels import choice
from topkast_tf.methods.base import Method, Selection
from topkast_tf.methods.checks import checked
from topkast_tf.variables import packing, restoring, saved_state
from topkast_tf.variables.budget import Budget
from topkast_tf.variables.components import components
from topkast_tf.variables.counters import Counter
from topkast_tf.variables.replica import WeightReplica
from topkast_tf.variables.select_sets import NAN_MESSAGE, done, select_initial


class WeightState:
    """Theta, its sets and its counters, with the plan that they follow.

    What users ask of a weight is in its one subclass, `SparseWeight`.
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
        wants_native: Callable[[bool], bool] = lambda same_bits: False,
        storage: packing.Storage = packing.DENSE,
        power: float = 1.0,
    ):
        self.path = path
        self.shape = view.shape
        self.method = method
        self.budget = budget
        self._ensure_planned = ensure_planned
        self.wants_native = wants_native
        self._storage = storage
        self.power = power
        self._packed: packing.Packed | None = None
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
        self.trained = method.trained_variables(view)
        self.rule: Any = None
        self.kernels: choice.Choice | None = None
        self._without_kernels: tuple[str, str] | None = None
        self.regularizer: Any = None
        self.penalty_regularizer: Any = None
        self.assignments = 0
        self._is_pruned = False

    def __repr__(self) -> str:
        return f"<SparseWeight {self.path} {self.shape} fwd={self.fwd} bwd={self.bwd}>"

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

    # Its variables.

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

    def saved_values(self) -> tuple[np.ndarray, np.ndarray]:
        """Theta and the set codes that Keras would save now.

        Within a `keras.StatelessScope`, which another thread may be saving in, those are
        its values and not those of the variables.
        """
        return np.asarray(self._theta.numpy()), np.asarray(self._sets.numpy())

    @property
    def is_ready(self) -> bool:
        """Whether its variables exist and hold values (Keras may build symbolically)."""
        state = (self._theta, self._sets, self._counters)
        return all(raw_variable(v) is not None for v in state)

    def replica(self, index: int = 0) -> WeightReplica:
        """The copy on one device."""
        return components(self.variable)[index]._topkast

    def _numpy(self, read: Callable[[WeightReplica], tf.Variable]) -> np.ndarray:
        if not self.is_ready:
            raise ValueError(
                "Expected a model that is built. Call it on data, or `build` it, first. "
                f"Received: {self.path}, which has no values yet"
            )
        with tf.init_scope():  # eagerly, also where a graph is being traced
            return read(self.replica()).numpy()

    # The plan: how many units A and B keep.

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

    def plan(self, fwd: float, bwd: float, exempt: bool = False) -> None:
        """Sets the nominal sparsities; the sets follow at once if there are any yet."""
        if (fwd, bwd, exempt) == (self.fwd, self.bwd, self.exempt):
            return
        if not exempt:
            try:
                self.method.check_plan(fwd, bwd)
            except ValueError as error:
                raise ValueError(f"{self.path}: {error}") from None
        self._unpack()
        if exempt != self.exempt:  # which has no power
            self._map_theta(powered if exempt else root)
        self.fwd, self.bwd, self.exempt = fwd, bwd, exempt
        if self.is_ready:
            self._set_counters(self._nominal_counts)
            self.initialize()
        if not exempt:
            self.leave_to_files()
        elif self._storage.theta_dir is not None and self.is_ready:
            # It is trained as it is, in each step.
            with tf.init_scope():
                for index in range(len(components(self.variable))):
                    theta = self.replica(index).theta
                    theta.assign_directly(theta.numpy())

    @property
    def most_in_b(self) -> int:
        """The entries of the units that B keeps by the plan, at most.

        More than the weight has, if B keeps blocks at its edges, which are smaller.
        """
        each = -(-math.prod(self.shape) // self.units)
        if isinstance(self.blocks, Blocks):
            each = math.prod(self.blocks.block)
        return self.kept_backward * each

    @property
    def _nominal_counts(self) -> dict[int, int]:
        return {
            Counter.KEPT_FORWARD: self.kept_forward,
            Counter.KEPT_BACKWARD: self.kept_backward,
        }

    # Packed storage (`topkast_tf.variables.packing`).

    @property
    def packed(self) -> packing.Packed | None:
        """Its packed variables; None for dense storage, and before their first use."""
        return self._packed

    def pack(self) -> packing.Packed | None:
        """As `packed`, which is made now if it is due."""
        if not self._storage.is_packed or not self.is_ready:
            return self._packed
        self._ensure_planned()
        if self._packed is None and not self.exempt and not compat.is_stateless():
            size = min(math.prod(self.shape), self.most_in_b)
            self._packed = packing.make(self._theta, self.sets, size)
            self.leave_to_files()
        return self._packed

    @property
    def theta_dir(self) -> str | None:
        """The folder in whose files theta and the sets are, or None."""
        return None if self.exempt else self._storage.theta_dir

    def leave_to_files(self) -> None:
        """Theta and the sets move to files, if they belong there and have values."""
        if self.theta_dir is None or not self.is_ready or compat.is_stateless():
            return
        with tf.init_scope():
            for index in range(len(components(self.variable))):
                self.replica(index).leave_to_files()

    def _unpack(self) -> None:
        """Theta holds everything again, as the vector would have another length."""
        if self._packed is None:
            return
        with tf.init_scope():
            for index in range(len(components(self.variable))):
                replica = self.replica(index)
                replica.theta.assign_directly(replica.read_theta())
        self._packed = None

    def powered(self, theta: tf.Tensor) -> tf.Tensor:
        """The weight of theta, or of entries of it, as `topkast_tf.core.powerprop`."""
        return theta if self.exempt else powered(theta, self.power)

    def scored(self, theta: tf.Tensor) -> tf.Tensor:
        """What a method selects by: theta, which has the order of its powers.

        Not so the sums of magnitudes in blocks: of these the powers themselves.
        """
        return theta if self.blocks is None else self.powered(theta)

    def take_weights(self) -> None:
        """Theta holds a dense model's weights, or initial ones: it becomes their root."""
        if not self.exempt:
            self._map_theta(root)

    def _map_theta(self, of: Callable[[tf.Tensor, float], tf.Tensor]) -> None:
        if self.power == 1 or raw_variable(self._theta) is None:
            return
        with tf.init_scope():
            for theta in components(self.variable):
                made = getattr(theta, "_topkast", None)
                if made is None:
                    theta.assign(of(theta.read_value(), self.power))
                else:
                    made.store(of(made.read_theta(), self.power))

    def _set_counters(self, entries: Mapping[int, int]) -> None:
        with tf.init_scope():
            for counters in components(self.counters):
                values = counters.numpy()
                values[list(entries)] = list(entries.values())
                counters.assign(values)

    def initial_state(self, theta: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The sets and the counters of step 0, selected from a theta."""
        selection = Selection(
            theta=self.scored(theta),
            kept_forward=tf.constant(self.kept_forward),
            kept_backward=tf.constant(self.kept_backward),
            seed=tf.constant(self.seed, tf.int64),
            blocks=self.blocks,
            trained={
                name: tf.fill(made.shape, made.initial)
                for name, made in self.trained.items()
            },
            view=self.view,
        )
        first = checked(self.method, self.method.initial([selection]), [selection])
        tf.debugging.Assert(first.finite, [f"{NAN_MESSAGE} {self.path}."])
        counters = [tf.constant(0, tf.int64)] * len(Counter)
        counters[Counter.KEPT_FORWARD] = tf.constant(self.kept_forward, tf.int64)
        counters[Counter.KEPT_BACKWARD] = tf.constant(self.kept_backward, tf.int64)
        counters[Counter.SEED] = tf.constant(self.seed, tf.int64)
        if first.thresholds is not None:
            counters[Counter.THRESHOLD] = tf.cast(first.thresholds[0], tf.int64)
        return first.codes[0], tf.stack(counters)

    # Selection.

    def peers(self) -> list["WeightState"]:
        """The weights that share one budget with this one, itself among them."""
        if self.budget is None or self.exempt:
            return [self]
        return [member for member in self.budget.weights if not member.exempt]

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

    # Restoring, assignment from outside, freezing.

    def prepare(self) -> None:
        """Called before a forward pass reads it: the plan must be made by then."""
        self._ensure_planned()
        self._check_restored()
        if self._unverified:
            self._verify_budget()
        self.pack()

    def is_without_kernels(self, why: str, asked: str) -> None:
        """Says that only the masked product reads it, and what its scope asks for."""
        self._without_kernels = why, asked

    def note_masked(self) -> None:
        """Called before the masked product reads it; raises if that is not asked for."""
        if self._without_kernels is None or self.exempt:
            return
        why, asked = self._without_kernels
        if asked == choice.NATIVE and choice.why_elsewhere() is None:
            choice.refuse(self.path, why)
        self.kernels = choice.Choice(choice.MASKED, why)

    def _verify_budget(self) -> None:
        """Checks the sets of a common budget, once all of its weights are restored."""
        peers = self.peers()
        if any(peer._unverified for peer in peers):
            for peer in peers:
                peer._unverified = False
            restoring.check_budget(peers)

    def _check_restored(self) -> None:
        """What `tf.train.Checkpoint` restores without a word is put right, or refused.

        Only a look from Python notices: a call, the tracing of a function, a summary.
        """
        restores = self.replica().restores if self.is_ready else self._restores
        if restores == self._restores:
            return
        self._restores, (theta_before, sets_before) = restores, self._restores
        with tf.init_scope():
            if self._packed is not None:
                for index in range(len(components(self.variable))):
                    replica = self.replica(index)
                    replica.store(replica.theta.read_directly())
            if restores[1] - sets_before < restores[0] - theta_before:
                self.restart()  # the checkpoint of a dense model
                if not self.is_frozen:
                    self.initialize_budget()
            else:
                replica = self.replica()
                self.check_state(replica.counters.numpy(), replica.sets.numpy())

    def check_state(self, counters: np.ndarray, sets: np.ndarray) -> None:
        """Raises a ValueError unless saved state belongs to a weight like this one.

        Args:
          counters: the saved counters.
          sets: the saved set codes.
        """
        saved_state.check_shapes(self.path, self.shape, counters, sets)
        self._ensure_planned()
        restoring.check_weight(self, counters, sets)
        self._unverified = self.budget is not None

    def restart(self) -> None:
        """Back to step 0: theta was taken over from a model without sets.

        The sets follow at the next selection; the caller makes it once all are back.
        """
        entries = dict.fromkeys((Counter.STEP, Counter.PENDING, Counter.FAULTY), 0)
        self._is_pruned = False
        if not self.is_frozen:
            entries |= {Counter.THRESHOLD: 0, **self._nominal_counts}
        self._set_counters(entries)
        self.take_weights()
        with tf.init_scope():
            # Thresholds and averages of former steps.
            for name, extra in self.auxiliary.items():
                trained = self.trained.get(name)
                initial = trained.initial if trained else 0
                for copy in components(raw_variable(extra)):
                    copy.assign(tf.fill(copy.shape, tf.cast(initial, copy.dtype)))
        self._unverified = False

    def after_assignment(self, replica: WeightReplica) -> None:
        """Called after theta was assigned from outside, as by `set_weights`.

        Before the first step this is an initialisation, and the sets follow theta. Later
        it is somebody's business (an average swapped in, a checkpoint), and they stay.
        """
        self.assignments += 1
        self._is_pruned = False
        # Of all that share its budget: while a saved model is loaded, one after the other,
        # those that are restored already are not to be selected anew.
        peers = replica.peers()
        if self.method.prunes_before_training:
            peers = [replica]  # each is dense then, whatever the others are
        counters = [peer.counters.read_value() for peer in peers]
        started = [own[Counter.STEP] + own[Counter.FROZEN] for own in counters]
        tf.cond(
            tf.reduce_max(tf.stack(started)) < 1,
            lambda: done(select_initial(peers)),
            done,
        )

    @property
    def is_frozen(self) -> bool:
        """Whether its sets stay as they are (`topkast_tf.freeze`)."""
        return bool(self._numpy(lambda c: c.counters)[Counter.FROZEN])

    def freeze(self) -> None:
        """Its sets, and those of all that share its budget, stay as they are.

        Raises:
          ValueError: if the method computes alpha from more than theta and the sets.
        """
        if self.method.computes_alpha:
            raise ValueError(
                f"Expected a method whose sets can be kept. Received: {self.path}, with "
                f"the method {self.method.name!r}, which computes alpha itself"
            )
        self.prepare()
        for peer in self.peers():
            peer._set_counters({Counter.FROZEN: 1})
