"""One device's copy of a sparse weight, and its per-device variables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import tensorflow as tf

from topkast_tf.compat import raw_variable
from topkast_tf.core import packing
from topkast_tf.core.blocks import Blocks
from topkast_tf.core.powerprop import root
from topkast_tf.core.schedules import RefreshSchedule
from topkast_tf.core.sets import FORWARD, chosen
from topkast_tf.kernels import training
from topkast_tf.methods.base import Method, TrainedVariable
from topkast_tf.variables import hooks, serving
from topkast_tf.variables.components import components, local_component
from topkast_tf.variables.counters import Counter
from topkast_tf.variables.views import on_backward, sparse_view, straight_through_view


class Weight(Protocol):
    """A replica's interface to its weight (`topkast_tf.variables.weight.SparseWeight`)."""

    path: str
    bwd: float
    method: Method
    blocks: Blocks | None
    schedule: RefreshSchedule
    exempt: bool
    power: float
    within_keras: bool
    auxiliary: Mapping[str, Any]
    trained: Mapping[str, TrainedVariable]

    @property
    def variable(self) -> Any: ...

    @property
    def sets(self) -> Any: ...

    @property
    def counters(self) -> Any: ...

    @property
    def packed(self) -> Any: ...

    def wants_native(self, same_bits: bool) -> bool: ...

    def powered(self, theta: tf.Tensor) -> tf.Tensor: ...

    def scored(self, theta: tf.Tensor) -> tf.Tensor: ...

    def prepare(self) -> None: ...

    def peers(self) -> Sequence["Weight"]: ...

    def replica(self, index: int = 0) -> "WeightReplica": ...

    def after_assignment(self, replica: "WeightReplica") -> None: ...


class WeightReplica:
    """One device's copy of a sparse weight: theta and its state."""

    def __init__(self, weight: Weight, index: int):
        self.weight = weight
        self.index = index
        # A regularizer of alpha that contributes to the loss of the current step.
        self.decayed_by: Callable[[tf.Tensor], tf.Tensor] | None = None
        # Under which native kernels keep its plans.
        self.plans_key: int | None = None

    @property
    def theta(self) -> tf.Variable:
        return components(self.weight.variable)[self.index]

    def read_theta(self) -> tf.Tensor:
        """Theta's values, even in a forward pass."""
        with hooks.dense_reads():
            return self.theta.read_value()

    def write_theta(self, value: tf.Tensor) -> None:
        """Assigns to all of theta; the sets do not change."""
        self.store(value)

    @property
    def entries(self) -> Any:
        """The entries of B, if storage is packed; otherwise None."""
        made = self.weight.packed
        return None if made is None else local(made.entries, self.index)

    @property
    def members(self) -> tf.Variable:
        """The set codes of `entries`."""
        return local(self.weight.packed.members, self.index)

    def whole(self, theta: tf.Tensor) -> tf.Tensor:
        """Theta, given its variable's value: with packed storage, B is elsewhere."""
        entries = self.entries
        if entries is None:
            return theta
        sets = self.sets.read_value()
        return packing.merged(theta, entries.read_value(), sets)

    def store(self, value: tf.Tensor) -> None:
        """Theta's value, to where it is stored."""
        self.theta.assign_directly(value)
        if self.entries is None:
            return
        sets, size = self.sets.read_value(), self.weight.packed.size
        value = tf.cast(tf.convert_to_tensor(value), self.theta.dtype)
        self.entries.assign_directly(packing.packed(value, sets, size))
        self.members.assign(packing.packed(sets, sets, size))
        self.leave_to_files()

    def leave_to_files(self) -> None:
        """Theta and the sets move to files, if the storage has them there.

        What XLA compiles cannot move them: they stay in memory until something else does.
        """
        folder = self.weight.theta_dir
        if folder is not None and not serving.is_elsewhere():
            training.map_variables([self.theta, self.sets], folder)

    @property
    def sets(self) -> tf.Variable:
        return components(self.weight.sets)[self.index]

    @property
    def counters(self) -> tf.Variable:
        return components(self.weight.counters)[self.index]

    def auxiliary_variable(self, name: str) -> tf.Variable:
        """An auxiliary variable of the weight, by name."""
        return components(raw_variable(self.weight.auxiliary[name]))[self.index]

    def trained(self) -> dict[str, tf.Tensor]:
        """The values of the method's trained variables, by name."""
        return {
            name: self.auxiliary_variable(name).read_value()
            for name in self.weight.trained
        }

    def reads_alpha(self) -> bool:
        """Whether a read returns alpha at this moment."""
        if hooks.in_update() or hooks.dense_reads_requested():
            return False
        if not self.weight.method.sparse_forward:
            return False
        return hooks.in_forward_pass() or not self.weight.within_keras

    def alpha(self, theta: tf.Tensor) -> tf.Tensor:
        self.weight.prepare()
        self.weight.note_masked()
        sets = self.sets.read_value()
        if self.entries is not None:
            entries = self.weight.powered(self.entries.read_value())
            return packing.packed_view(entries, sets)
        theta = self.weight.powered(theta)
        method = self.weight.method
        if method.computes_alpha and not self.weight.exempt:
            return method.alpha(theta, sets, self.trained())
        if method.has_dense_gradient:
            # A method that uses the gradient outside B takes it from the optimizer's
            # call, where the optimizer's own input is then masked (`steps`).
            return straight_through_view(theta, sets)
        return sparse_view(theta, sets, serving.serves(self))

    def on_backward_set(
        self, proposed: Any, theta: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The proposed value on B and the current one, bitwise, on C."""
        theta = self.read_theta() if theta is None else theta
        proposed = tf.cast(proposed, theta.dtype)
        if self.weight.method.dense_updates:
            return proposed
        if proposed.shape != theta.shape:
            proposed = tf.broadcast_to(proposed, theta.shape)
        return chosen(on_backward(self.sets.read_value()), proposed, theta)

    def on_forward_set(self, proposed: Any) -> tf.Tensor:
        """The proposed value on A and the current one, bitwise, elsewhere."""
        theta = self.read_theta()
        on = tf.equal(self.sets.read_value(), FORWARD)
        proposed = tf.broadcast_to(tf.cast(proposed, theta.dtype), tf.shape(theta))
        if not self.weight.exempt:  # it was computed from alpha
            proposed = root(proposed, self.weight.power)
        return chosen(on, proposed, theta)

    def refuse_alpha(self, proposed: Any) -> tf.Tensor:
        """The proposed value; an error if it was computed from alpha.

        Outside Keras a read always returns alpha and an assignment always sets theta. A
        value computed from alpha, such as ``w.assign(0.9 * w)``, is zero on all of C;
        assigning it would destroy the reservoir.
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
            f"for {self.weight.path}. Update by `assign_sub` or `assign_add`, or read the "
            "variable within `topkast_tf.dense_reads()` to compute with theta"
        )
        if tf.executing_eagerly():
            if is_alpha:
                raise ValueError(message)
            return proposed
        with tf.control_dependencies([tf.debugging.Assert(~is_alpha, [message])]):
            # XLA drops the error. There, theta outside A continues from its own value,
            # not from the zero that was read; C, where nothing is added, bitwise.
            kept = tf.where(tf.equal(proposed, 0), theta, theta + proposed)
            return tf.where(is_alpha & tf.not_equal(sets, FORWARD), kept, proposed)

    def mark_updated(self) -> None:
        # Not the whole vector: every weight does this in every step.
        tf.raw_ops.ResourceScatterUpdate(
            resource=self.counters.handle,
            indices=tf.constant(int(Counter.PENDING)),
            updates=tf.constant(1, tf.int64),
        )

    @property
    def restores(self) -> tuple[int, int]:
        """How often a `tf.train.Checkpoint` has restored theta, and how often the sets."""
        return self.theta._topkast_restores, self.sets._topkast_restores

    def peers(self) -> list["WeightReplica"]:
        """The replicas on the same device whose weights share this one's budget."""
        return [weight.replica(self.index) for weight in self.weight.peers()]


def local(variable: Any, index: int) -> tf.Variable:
    """The component of a variable, of Keras or TensorFlow, of a replica."""
    copies = components(raw_variable(variable))
    return copies[index % len(copies)]


def local_replica(variable: Any) -> WeightReplica | None:
    """The `WeightReplica` of a variable on the current replica; None if it is dense."""
    return getattr(local_component(variable), "_topkast", None)
