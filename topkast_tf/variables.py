"""The custom getter: what a read of a sparse variable returns, what an update may touch.

A `tf.Variable` becomes sparse by taking on a subclass of its own type. It stays the
same variable, so optimizers, savers and strategies keep working on it, but

* in a forward pass it reads as alpha: theta on A, zero elsewhere. The gradient passes
  through on B and is zero on C;
* any assignment by an optimizer reaches B only: C keeps its bits, whatever momentum,
  decoupled weight decay or averaging would have done to it;
* everywhere else it reads as theta.

Under a strategy each device's copy (component) is such a variable, with its own copy of
the state; as theta and the state are the same on all, so are the sets.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from topkast_tf import hooks
from topkast_tf.methods.base import Selection
from topkast_tf.selection import FORWARD, RESERVOIR

if TYPE_CHECKING:
    from topkast_tf.weights import SparseWeight

STEP, PENDING, KEPT_FORWARD, KEPT_BACKWARD, SEED, FAULTY, THRESHOLD = range(7)
"""The entries of a weight's `clock`, the int64 vector of what changes beside its sets:
optimizer steps taken; whether an update waits to be counted; units kept in A and in B;
the random seed; whether a refresh has met a NaN; the threshold of the last selection."""
CLOCK_SIZE = 7

NAN_MESSAGE = (
    "Expected finite weights when the sparse sets are selected, but the weight holds "
    "NaN. Lower the learning rate or clip the gradients, and resume from a checkpoint "
    "from before. Received: NaN in"
)


def components(variable: Any) -> tuple[tf.Variable, ...]:
    """The per-device variables of a variable (the variable itself without a strategy)."""
    if isinstance(variable, tf.distribute.DistributedValues):
        return tuple(variable.values)
    return (variable,)


@tf.custom_gradient
def sparse_view(theta: tf.Tensor, sets: tf.Tensor):
    """Alpha: theta on A, zero elsewhere; its gradient is masked by B.

    ``alpha_i = theta_i if i in A else 0``; ``d/dtheta_i = d/dalpha_i if i in B else 0``.

    Args:
      theta: floating tensor.
      sets: uint8 set codes in theta's shape.

    Returns:
      A tensor like theta.

    >>> sparse_view(tf.constant([1.0, 2.0]), tf.constant([0, 2], tf.uint8)).numpy()
    array([0., 2.], dtype=float32)

    Source: Top-KAST, section 2.
    """
    # `where` and not a product: a NaN or infinity outside the set stays out.
    alpha = tf.where(tf.equal(sets, FORWARD), theta, tf.zeros([], theta.dtype))

    def gradient(upstream):
        upstream = tf.convert_to_tensor(upstream)
        return tf.where(
            tf.not_equal(sets, RESERVOIR), upstream, tf.zeros([], upstream.dtype)
        ), None

    return alpha, gradient


@tf.custom_gradient
def straight_through_view(theta: tf.Tensor, sets: tf.Tensor):
    """Alpha: theta on A, zero elsewhere; its gradient reaches every entry.

    ``alpha_i = theta_i if i in A else 0``; ``d/dtheta_i = d/dalpha_i``: `sparse_view`
    where B is everything, as in SWAT and DNW.

    >>> straight_through_view(tf.constant([1.0, 2.0]), tf.constant([0, 2], tf.uint8))
    <tf.Tensor: shape=(2,), dtype=float32, numpy=array([0., 2.], dtype=float32)>
    """
    alpha = tf.where(tf.equal(sets, FORWARD), theta, tf.zeros([], theta.dtype))
    return alpha, lambda upstream: (upstream, None)


class Component:
    """One device's copy of a sparse weight: theta, and the state that belongs to it."""

    def __init__(self, weight: "SparseWeight", index: int):
        self.weight = weight
        self.index = index

    @property
    def theta(self) -> tf.Variable:
        return components(self.weight.variable)[self.index]

    @property
    def sets(self) -> tf.Variable:
        return components(self.weight.sets)[self.index]

    @property
    def clock(self) -> tf.Variable:
        return components(self.weight.clock)[self.index]

    def extra(self, name: str) -> tf.Variable:
        """One of the variables that belong to the weight by a rule of its layer."""
        return components(raw_variable(self.weight.extras[name]))[self.index]

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
        if self.weight.method.updates_all:
            return straight_through_view(theta, sets)
        return sparse_view(theta, sets)

    def on_backward_set(self, proposed: Any) -> tf.Tensor:
        """The proposed value on B and the present one on C, to the bit."""
        theta = self.theta.read_value()
        proposed = tf.cast(proposed, theta.dtype)
        if self.weight.method.updates_all:
            return proposed
        return tf.where(
            tf.not_equal(self.sets.read_value(), RESERVOIR), proposed, theta
        )

    def mark_updated(self) -> None:
        _set_entries(self.clock, {PENDING: 1})

    @property
    def restores(self) -> tuple[int, int]:
        """How often a `tf.train.Checkpoint` has restored theta, and the sets."""
        return self.theta._topkast_restores, self.sets._topkast_restores

    def peers(self) -> list["Component"]:
        """The components on the same device whose weights share this one's budget."""
        return [weight.component(self.index) for weight in self.weight.peers()]

    def selection(self, momentum: tf.Tensor | None = None) -> Selection:
        clock = self.clock.read_value()
        return Selection(
            theta=self.theta.read_value(),
            kept_forward=clock[KEPT_FORWARD],
            kept_backward=clock[KEPT_BACKWARD],
            seed=clock[SEED],
            blocks=self.weight.blocks,
            threshold=clock[THRESHOLD],
            sets=self.sets.read_value(),
            momentum=momentum,
            schedule=self.weight.schedule,
        )


def refresh(
    members: Sequence[Component], momenta: Sequence[tf.Tensor] | None = None
) -> None:
    """Selects the sets of the components anew, from their thetas as they are.

    A NaN leaves the sets as they are and is an error: at once, or, where compiled code
    cannot raise (XLA), when the weight is next looked at from Python.

    Args:
      members: the components that share one budget.
      momenta: theirs, in theta's shape, where the method asks for them and training
        has begun.
    """
    step = members[0].clock.read_value()[STEP]
    method = members[0].weight.method
    brought = [
        member.selection(momentum)
        for member, momentum in zip(
            members, momenta or [None] * len(members), strict=True
        )
    ]
    codes, finite, thresholds, kept_forward = method.select(brought, step)
    paths = ", ".join(member.weight.path for member in members)
    for i, (member, code) in enumerate(zip(members, codes, strict=True)):
        entries = {FAULTY: tf.where(finite, 0, 1)}
        if thresholds is not None:
            entries[THRESHOLD] = thresholds[i]
        if kept_forward is not None:
            entries[KEPT_FORWARD] = kept_forward[i]
        _set_entries(member.clock, entries)
        # The sets have been selected from theta before anything may raise, and are
        # written only if they mean something.
        member.sets.assign(tf.where(finite, code, member.sets.read_value()))
    message = f"{NAN_MESSAGE} {paths}."
    if tf.executing_eagerly() and not finite:
        raise ValueError(message)
    tf.debugging.Assert(finite, [message], summarize=1)


def follow(members: Sequence[Component]) -> None:
    """What the method does with the sets of components between two refreshes."""
    step = members[0].clock.read_value()[STEP]
    for member in members:
        codes = member.weight.method.follow(member.selection(), step)
        member.sets.assign(codes)


def count_step(
    members: Sequence[Component], momenta: Sequence[tf.Tensor] | None = None
) -> None:
    """Counts an optimizer step if a theta was updated, and refreshes if it is due.

    Whether it was updated is known only in the graph: an optimizer that accumulates
    gradients, or scales the loss, updates in some of its calls.

    Args:
      members: the components that share one budget.
      momenta: as for `refresh`.
    """
    clocks = [member.clock.read_value() for member in members]

    def advance():
        step = clocks[0][STEP] + 1
        for member in members:
            _set_entries(member.clock, {STEP: step, PENDING: 0})
        method = members[0].weight.method
        schedules = {member.weight.schedule for member in members}
        due = [schedule.due(step) for schedule in schedules]
        return tf.cond(
            tf.reduce_any(due),
            lambda: done(refresh(members, momenta)),
            lambda: done(follow(members) if method.follows else None),
        )

    pending = tf.reduce_any([clock[PENDING] > 0 for clock in clocks])
    tf.cond(pending, advance, done)


def local_component(variable: Any) -> Component | None:
    """The component of a variable that belongs to the current replica, if it is sparse."""
    raw = raw_variable(variable)
    return getattr(components(raw)[local_index(raw)], "_topkast", None)


def local_index(variable: Any) -> int:
    """Which component of a variable belongs to the current replica."""
    count, replica = len(components(variable)), tf.distribute.get_replica_context()
    if count == 1 or replica is None:
        return 0
    # A replica's number is a constant, also where it is handed out as a tensor.
    return int(tf.get_static_value(replica.replica_id_in_sync_group)) % count


def raw_variable(variable: Any) -> Any:
    """The `tf.Variable` of a Keras variable; a `tf.Variable` is returned as it is.

    `keras.Variable.value` is the `tf.Variable` too, but inside a mixed-precision scope it
    is a cast copy, hence the private name.
    """
    for wrapped in ("_value", "_variable"):  # Keras 3; tf_keras in mixed precision
        # By `vars`: a distributed variable passes on every attribute it does not have.
        variable = (
            vars(variable).get(wrapped, variable) if variable is not None else None
        )
    return variable


def _set_entries(clock: tf.Variable, entries: Mapping[int, Any]) -> None:
    present = tf.unstack(clock.read_value())
    for entry, value in entries.items():
        present[entry] = tf.cast(value, tf.int64)
    clock.assign(tf.stack(present))


def done(*_: Any) -> tf.Tensor:
    """What a branch of `tf.cond` returns that was run for its effects."""
    return tf.constant(True)


class _CountsRestores:
    """Mixed into the types of theta and sets: a checkpoint may hold one of them only."""

    _topkast_restores = 0

    def _restore_from_tensors(self, restored_tensors):
        self._topkast_restores += 1
        return super()._restore_from_tensors(restored_tensors)


class _SparseReads(_CountsRestores):
    """Mixed into the type of a variable to make it sparse (see `make_sparse`)."""

    _topkast: Component

    # TensorFlow's eager fast path reads a variable through this attribute, past every
    # conversion. Without it, it converts as the graph does.
    @property
    def _handle(self):
        return None

    @_handle.setter
    def _handle(self, handle):
        self.__dict__["_handle"] = handle

    @property
    def handle(self):
        return self.__dict__["_handle"]

    def __tf_tracing_type__(self, context):
        raise TypeError(
            "Expected a sparse variable to be captured by a `tf.function`, not to be "
            "passed to it as an argument, where it would be read dense. "
            f"Received: {self._topkast.weight.path}"
        )

    def value(self):
        theta = super().value()
        if not self._topkast.reads_alpha():
            return theta
        return self._topkast.alpha(theta)

    def sparse_read(self, indices, name=None):
        if not self._topkast.reads_alpha():
            return super().sparse_read(indices, name)
        return tf.gather(self.value(), indices, name=name)

    def gather_nd(self, indices, name=None):
        if not self._topkast.reads_alpha():
            return super().gather_nd(indices, name)
        return tf.gather_nd(self.value(), indices, name=name)

    def assign(self, value, use_locking=None, name=None, read_value=True):
        component = self._topkast
        if not hooks.in_update():
            result = super().assign(value, use_locking, name, read_value)
            component.weight.after_assignment(component)
            return result
        component.mark_updated()
        value = component.on_backward_set(value)
        return super().assign(value, use_locking, name, read_value)

    def assign_add(self, delta, use_locking=None, name=None, read_value=True):
        return self._step_by(delta, 1, use_locking, name, read_value)

    def assign_sub(self, delta, use_locking=None, name=None, read_value=True):
        return self._step_by(delta, -1, use_locking, name, read_value)

    def _step_by(self, delta, sign, use_locking, name, read_value):
        component = self._topkast
        theta = self.read_value()
        delta = tf.cast(delta, theta.dtype)
        proposed = theta + delta if sign > 0 else theta - delta
        if not hooks.in_update() and (
            component.weight.within_keras or hooks.handed_over()
        ):
            # Not a step but arithmetic with theta, as when Keras swaps in an average.
            return self.assign(proposed, use_locking, name, read_value)
        value = component.on_backward_set(proposed)
        component.mark_updated()
        result = super().assign(value, use_locking, name, read_value)
        if not hooks.in_update() and component is component.peers()[-1]:
            count_step(component.peers())  # a step of a hand-written loop
        return result

    def _scatter_is_dense(self, *args, **kwargs):
        raise NotImplementedError(
            "Expected a dense update of a sparse variable, as its gradient is dense. "
            f"Received: a scatter update of {self._topkast.weight.path}"
        )

    scatter_add = scatter_sub = scatter_update = scatter_min = _scatter_is_dense
    scatter_max = scatter_mul = scatter_div = batch_scatter_update = _scatter_is_dense
    scatter_nd_add = scatter_nd_sub = scatter_nd_update = _scatter_is_dense

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        children = super()._trackable_children(save_type, **kwargs)
        weight = self._topkast.weight
        if weight.within_keras or save_type != "checkpoint":
            # A layer tracks its state. And a SavedModel does not restore what hangs on
            # a variable: there, TensorFlow asks the owner to hold the sets, too.
            return children
        return {**children, "topkast_sets": weight.sets, "topkast_clock": weight.clock}

    def _lookup_dependency(self, name, *args, **kwargs):
        weight = self._topkast.weight
        own = {"topkast_sets": weight.sets, "topkast_clock": weight.clock}
        if name in own and not weight.within_keras:
            return own[name]
        return super()._lookup_dependency(name, *args, **kwargs)


@functools.cache
def _mixed(mixin: type, base: type) -> type:
    return type(base)(f"Sparse{base.__name__}", (mixin, base), {})


def make_sparse(weight: "SparseWeight") -> None:
    """Makes the weight's variable sparse, in place."""
    hooks.install()
    for index, variable in enumerate(components(weight.variable)):
        if not isinstance(variable, _SparseReads):
            variable._topkast = Component(weight, index)
            variable.__class__ = _mixed(_SparseReads, type(variable))
    for variable in components(weight.sets):
        if not isinstance(variable, _CountsRestores):
            variable.__class__ = _mixed(_CountsRestores, type(variable))
