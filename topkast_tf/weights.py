"""A sparse weight: theta with its sets, and what one may ask of it."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from topkast_tf import variables
from topkast_tf.blocks import MatrixView
from topkast_tf.distributions import kept
from topkast_tf.methods.base import Method, Selection
from topkast_tf.selection import FORWARD, RESERVOIR

if TYPE_CHECKING:
    from topkast_tf.planning import SparsityScope


class SparseWeight:
    """One sparsified weight of a model.

    The state beside theta is two variables: `sets`, one byte per entry (0 for C, 1 for
    B \\ A, 2 for A), and `clock`, a handful of integers.

    Attributes:
      path: the weight's path in the model, such as ``"dense/kernel"``.
      shape: its shape.
      view: its 2-D view.
      schedule: when its sets are selected.
      fwd: its nominal forward sparsity.
      bwd: its nominal backward sparsity.
      extras: name -> variable, of those that a rule of its layer needs.
      rule: how its layer computes its product (`topkast_tf.linear`), or None.
    """

    def __init__(
        self,
        *,
        path: str,
        view: MatrixView,
        scope: "SparsityScope",
        seed: int,
        within_keras: bool,
    ):
        self.path = path
        self.shape = view.shape
        self.scope = scope
        self.method: Method = scope.method
        self.view = view
        self.blocks = self.method.blocks(view)
        self.schedule = self.method.schedule_of(view)
        self.fwd, self.bwd = self.method.fwd, self.method.bwd
        self.exempt = False
        self._restores = (0, 0)
        self.within_keras = within_keras
        self.seed = seed
        self.local_name = path
        self._theta: Any = None
        self._sets: Any = None
        self._clock: Any = None
        self.extras: dict[str, Any] = {}
        self.rule: Any = None

    def __repr__(self) -> str:
        return f"<SparseWeight {self.path} {self.shape} fwd={self.fwd} bwd={self.bwd}>"

    # What the scope does with it.

    def attach(
        self,
        theta: Any = None,
        sets: Any = None,
        clock: Any = None,
        local_name: str | None = None,
    ) -> None:
        """Gives it variables, `tf.Variable` or Keras variables, as they are made."""
        self._theta = self._theta if theta is None else theta
        self._sets = self._sets if sets is None else sets
        self._clock = self._clock if clock is None else clock
        self.local_name = local_name or self.local_name

    def state_variables(self) -> dict[str, Any]:
        """The sets, the clock and what else belongs to it, by their names in a layer."""
        state = {"sets": self._sets, "clock": self._clock, **self.extras}
        return {f"{self.local_name}_{name}": made for name, made in state.items()}

    def check_clock(self, clock: np.ndarray) -> None:
        """Raises a ValueError unless a saved clock belongs to a weight like this one."""
        if clock.shape != (variables.CLOCK_SIZE,):
            raise ValueError(
                f"Expected a clock of {variables.CLOCK_SIZE} entries for {self.path}. "
                f"Received: one of shape {clock.shape}; the file is damaged"
            )
        self.prepare()
        kept_units = clock[[variables.KEPT_FORWARD, variables.KEPT_BACKWARD]].tolist()
        expected = [self.kept_forward, self.kept_backward]
        if self.method.needs_momentum:  # it moves units from weight to weight
            expected = kept_units
        if kept_units != expected:
            raise ValueError(
                f"Expected sets that keep {expected} of {self.units} units of "
                f"{self.path} (fwd={self.fwd}, bwd={self.bwd}). Build the model in a "
                "scope with the sparsities that it was saved with. Received: a file "
                f"whose sets keep {kept_units}"
            )

    def plan(self, fwd: float, bwd: float, exempt: bool = False) -> None:
        """Sets the nominal sparsities; the sets follow at once if there are any yet."""
        if (fwd, bwd, exempt) == (self.fwd, self.bwd, self.exempt):
            return
        self.fwd, self.bwd, self.exempt = fwd, bwd, exempt
        if not self.is_ready:
            return
        with tf.init_scope():
            for clock in variables.components(self.clock):
                values = clock.numpy()
                values[variables.KEPT_FORWARD] = self.kept_forward
                values[variables.KEPT_BACKWARD] = self.kept_backward
                clock.assign(values)
            self.refresh()

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
        """The sets and the clock of step 0, selected from a theta."""
        selection = Selection(
            theta=theta,
            kept_forward=tf.constant(self.kept_forward),
            kept_backward=tf.constant(self.kept_backward),
            seed=tf.constant(self.seed, tf.int64),
            blocks=self.blocks,
        )
        first = self.method.select([selection], tf.constant(0, tf.int64))
        tf.debugging.Assert(first.finite, [f"{variables.NAN_MESSAGE} {self.path}."])
        clock = [tf.constant(0, tf.int64)] * variables.CLOCK_SIZE
        clock[variables.KEPT_FORWARD] = tf.constant(self.kept_forward, tf.int64)
        clock[variables.KEPT_BACKWARD] = tf.constant(self.kept_backward, tf.int64)
        clock[variables.SEED] = tf.constant(self.seed, tf.int64)
        if first.thresholds is not None:
            clock[variables.THRESHOLD] = tf.cast(first.thresholds[0], tf.int64)
        return first.codes[0], tf.stack(clock)

    @property
    def is_ready(self) -> bool:
        """Whether its variables exist and hold values (Keras may build symbolically)."""
        state = (self._theta, self._sets, self._clock)
        return all(variables.raw_variable(v) is not None for v in state)

    # What a sparse variable asks of it.

    @property
    def variable(self) -> Any:
        """Theta as a `tf.Variable` (a distributed one under a strategy)."""
        return variables.raw_variable(self._theta)

    @property
    def sets(self) -> Any:
        """The set codes as a `tf.Variable`."""
        return variables.raw_variable(self._sets)

    @property
    def clock(self) -> Any:
        """Step and counts as a `tf.Variable`."""
        return variables.raw_variable(self._clock)

    def component(self, index: int = 0) -> variables.Component:
        """The copy on one device."""
        return variables.components(self.variable)[index]._topkast

    def peers(self) -> list["SparseWeight"]:
        """The weights that share one budget with this one, itself among them."""
        return self.scope.peers(self)

    def prepare(self) -> None:
        """Called before a forward pass reads it: the plan must be made by then."""
        self.scope.ensure_planned()
        self._check_restored()

    def _check_restored(self) -> None:
        """What `tf.train.Checkpoint` restores without a word is put right, or refused.

        Only a look from Python notices: a call, the tracing of a function, a summary.
        """
        restores = self.component().restores if self.is_ready else self._restores
        if restores == self._restores:
            return
        self._restores, (theta_before, sets_before) = restores, self._restores
        with tf.init_scope():
            if restores[1] - sets_before < restores[0] - theta_before:
                self.refresh()  # the checkpoint of a dense model: the sets follow theta
            else:
                self.check_clock(self.component().clock.numpy())

    def after_assignment(self, component: variables.Component) -> None:
        """Called after theta was assigned from outside, as by `set_weights`.

        Before the first step this is an initialisation, and the sets follow theta. Later
        it is somebody's business (an average swapped in, a checkpoint), and they stay.
        """
        # Of all that share its budget: while a saved model is loaded, one after the other,
        # those that are restored already are not to be selected anew.
        peers = component.peers()
        steps = [peer.clock.read_value()[variables.STEP] for peer in peers]
        tf.cond(
            tf.reduce_max(tf.stack(steps)) < 1,
            lambda: variables.done(variables.refresh(peers)),
            variables.done,
        )

    def density(self, component: variables.Component) -> tf.Tensor:
        """The achieved forward density D of a component, a scalar.

        Under a common budget a weight may be left without any entry in A. It counts as
        one then, or the penalty, which is divided by D, would be infinite.
        """
        if self.blocks is None and self.scope.budget is None:
            kept_forward = component.clock.read_value()[variables.KEPT_FORWARD]
            return tf.cast(kept_forward, tf.float32) / math.prod(self.shape)
        forward = tf.cast(component.sets.read_value() == FORWARD, tf.float32)
        return tf.maximum(tf.reduce_mean(forward), 1 / math.prod(self.shape))

    def penalty(self) -> tf.Tensor:
        """What it adds to the loss, a scalar."""
        self.prepare()
        component = self.component(variables.local_index(self.variable))
        value = None
        if not self.exempt:
            value = self.method.penalty(
                component.theta.read_value(),
                component.sets.read_value(),
                self.density(component),
            )
        return tf.zeros([]) if value is None else value

    # What a person asks of it.

    def dense(self) -> np.ndarray:
        """Theta: the dense parameter, as a NumPy array."""
        return self._numpy(lambda component: component.theta)

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
        return self._numpy(lambda component: component.sets)

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
        return int(self._numpy(lambda component: component.clock)[variables.STEP])

    def refresh(self) -> None:
        """Selects the sets anew from theta as it is."""
        with tf.init_scope():
            peers = self.peers()
            for index in range(len(variables.components(self.variable))):
                variables.refresh([peer.component(index) for peer in peers])

    def _numpy(self, read: Callable[[variables.Component], tf.Variable]) -> np.ndarray:
        if not self.is_ready:
            raise ValueError(
                "Expected a model that is built. Call it on data, or `build` it, first. "
                f"Received: {self.path}, which has no values yet"
            )
        with tf.init_scope():  # eagerly, also where a graph is being traced
            return read(self.component()).numpy()

    def raise_if_faulty(self) -> None:
        """Raises a ValueError if a refresh has met a NaN that could not be raised then."""

        def clock(component):
            # Within a `keras.StatelessScope`, Keras reads the scope's value.
            value = self._clock.value
            return value if isinstance(value, tf.Tensor) else component.clock

        if self._numpy(clock)[variables.FAULTY]:
            raise ValueError(f"{variables.NAN_MESSAGE} {self.path}.")
