"""One device's copy of a sparse weight, and the variables that each device holds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import tensorflow as tf

from topkast_tf.compat import raw_variable
from topkast_tf.core.blocks import Blocks
from topkast_tf.core.schedules import RefreshSchedule
from topkast_tf.core.sets import FORWARD, chosen
from topkast_tf.methods.base import GRADIENT, Method
from topkast_tf.variables import hooks
from topkast_tf.variables.components import components, local_component
from topkast_tf.variables.counters import Counter
from topkast_tf.variables.views import on_backward, sparse_view, straight_through_view


class Weight(Protocol):
    """What a replica asks of its weight (`topkast_tf.variables.weight.SparseWeight`)."""

    path: str
    bwd: float
    method: Method
    blocks: Blocks | None
    schedule: RefreshSchedule
    exempt: bool
    within_keras: bool
    auxiliary: Mapping[str, Any]

    @property
    def variable(self) -> Any: ...

    @property
    def sets(self) -> Any: ...

    @property
    def counters(self) -> Any: ...

    def prepare(self) -> None: ...

    def peers(self) -> Sequence["Weight"]: ...

    def replica(self, index: int = 0) -> "WeightReplica": ...

    def after_assignment(self, replica: "WeightReplica") -> None: ...


class WeightReplica:
    """One device's copy of a sparse weight: theta, and the state that belongs to it."""

    def __init__(self, weight: Weight, index: int):
        self.weight = weight
        self.index = index
        # A regularizer that has a part in the loss of the step that is being computed.
        self.decayed_by: Callable[[tf.Tensor], tf.Tensor] | None = None

    @property
    def theta(self) -> tf.Variable:
        return components(self.weight.variable)[self.index]

    def read_theta(self) -> tf.Tensor:
        """Theta's values, also in a forward pass."""
        with hooks.dense_reads():
            return self.theta.read_value()

    def write_theta(self, value: tf.Tensor) -> None:
        """Assigns to theta, whatever its sets are; the sets stay."""
        self.theta.assign_directly(value)

    @property
    def sets(self) -> tf.Variable:
        return components(self.weight.sets)[self.index]

    @property
    def counters(self) -> tf.Variable:
        return components(self.weight.counters)[self.index]

    def auxiliary_variable(self, name: str) -> tf.Variable:
        """One of the variables that belong to the weight by a rule of its layer."""
        return components(raw_variable(self.weight.auxiliary[name]))[self.index]

    def reads_alpha(self) -> bool:
        """Whether a read at this moment is part of a forward pass."""
        if hooks.in_update() or hooks.dense_reads_requested():
            return False
        if not self.weight.method.sparse_forward:
            return False
        return hooks.in_forward_pass() or not self.weight.within_keras

    def alpha(self, theta: tf.Tensor) -> tf.Tensor:
        self.weight.prepare()
        sets = self.sets.read_value()
        method = self.weight.method
        if method.dense_updates or GRADIENT in method.inputs:
            # A method that looks at the gradient outside B takes it there from the
            # optimizer's call; what reaches the optimizer is masked then (`steps`).
            return straight_through_view(theta, sets)
        return sparse_view(theta, sets)

    def on_backward_set(
        self, proposed: Any, theta: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The proposed value on B and the present one on C, bit for bit."""
        theta = self.read_theta() if theta is None else theta
        proposed = tf.cast(proposed, theta.dtype)
        if self.weight.method.dense_updates:
            return proposed
        if proposed.shape != theta.shape:
            proposed = tf.broadcast_to(proposed, theta.shape)
        return chosen(on_backward(self.sets.read_value()), proposed, theta)

    def on_forward_set(self, proposed: Any) -> tf.Tensor:
        """The proposed value on A and the present one elsewhere, bit for bit."""
        theta = self.read_theta()
        on = tf.equal(self.sets.read_value(), FORWARD)
        proposed = tf.broadcast_to(tf.cast(proposed, theta.dtype), tf.shape(theta))
        return chosen(on, proposed, theta)

    def refuse_alpha(self, proposed: Any) -> tf.Tensor:
        """The proposed value, unless it has been computed from alpha: then an error.

        Outside Keras a read is always alpha and an assignment always means theta. What
        was computed from alpha, such as ``w.assign(0.9 * w)``, is zero on all of C; to
        assign it would destroy the reservoir.
        """
        theta = self.read_theta()
        proposed = tf.cast(tf.convert_to_tensor(proposed), theta.dtype)
        sets = self.sets.read_value()
        outside = ~on_backward(sets)
        if self.weight.method.dense_updates or not self.weight.bwd:
            outside = tf.not_equal(sets, FORWARD)

        def any_on(mask, value):
            return tf.reduce_any(mask & tf.not_equal(value, 0))

        is_alpha = (
            tf.reduce_any(tf.not_equal(proposed, 0))
            & ~any_on(outside, proposed)
            & any_on(outside, theta)
        )
        message = (
            "Expected a value for theta. Received: one that is zero wherever alpha is, "
            f"for {self.weight.path}. Step by `assign_sub` or `assign_add`, or read the "
            "variable within `topkast_tf.dense_reads()` to compute with theta"
        )
        if tf.executing_eagerly():
            if is_alpha:
                raise ValueError(message)
            return proposed
        with tf.control_dependencies([tf.debugging.Assert(~is_alpha, [message])]):
            # XLA drops the error. There, theta outside A goes on from what it is, and
            # not from the zero that was read; C, where nothing is added, bit for bit.
            kept = tf.where(tf.equal(proposed, 0), theta, theta + proposed)
            return tf.where(is_alpha & tf.not_equal(sets, FORWARD), kept, proposed)

    def mark_updated(self) -> None:
        # Not the whole counters: every weight does it in every step.
        tf.raw_ops.ResourceScatterUpdate(
            resource=self.counters.handle,
            indices=tf.constant(int(Counter.PENDING)),
            updates=tf.constant(1, tf.int64),
        )

    @property
    def restores(self) -> tuple[int, int]:
        """How often a `tf.train.Checkpoint` has restored theta, and the sets."""
        return self.theta._topkast_restores, self.sets._topkast_restores

    def peers(self) -> list["WeightReplica"]:
        """The components on the same device whose weights share this one's budget."""
        return [weight.replica(self.index) for weight in self.weight.peers()]


def local_replica(variable: Any) -> WeightReplica | None:
    """The replica of a variable that belongs to the current one, if it is sparse."""
    return getattr(local_component(variable), "_topkast", None)
