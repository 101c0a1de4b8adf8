"""The custom getter: what a read of a sparse variable returns, what an update may touch.

A `tf.Variable` becomes sparse by taking on a subclass of its own type. It stays the
same variable, so optimizers, savers and strategies keep working on it, but

* in a forward pass it reads as alpha: theta on A, zero elsewhere. The gradient passes
  through on B and is zero on C;
* an assignment in a forward pass reaches A only: what is assigned there was computed
  from alpha, as by `SpectralNormalization`, which divides a kernel by its norm. Theta
  keeps its bits outside A, and competes at the next refresh with the magnitude that it
  has: nothing rescales it to the new A;
* any assignment by an optimizer reaches B only: C keeps its bits, whatever momentum,
  decoupled weight decay, averaging or a constraint would have done to it;
* everywhere else, also while the first call of a layer builds it, it reads as theta,
  and an assignment reaches all of it.

A variable outside Keras layers reads as alpha also outside of layers, as nobody can tell
which code is a forward pass. To assign a value that is zero wherever alpha is would
destroy what it hides, and is an error. Within `dense_reads`, a variable is read and
assigned as theta.

Under a strategy each device's copy (component) is such a variable, with its own copy of
the state; as theta and the state are the same on all, so are the sets.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from topkast_tf.core.selection import FORWARD, chosen, masked
from topkast_tf.methods.base import Selection, Sets
from topkast_tf.variables import hooks

if TYPE_CHECKING:
    from topkast_tf.variables.weight import SparseWeight

STEP, PENDING, KEPT_FORWARD, KEPT_BACKWARD, SEED, FAULTY, THRESHOLD, FROZEN = range(8)
"""The entries of a weight's `clock`, the int64 vector of what changes beside its sets:
optimizer steps taken; whether an update waits to be counted; units kept in A and in B;
the random seed; whether a refresh has met a NaN; the threshold of the last selection;
whether the sets stay as they are (`freeze`)."""
CLOCK_SIZE = 8

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


def on_backward(sets: tf.Tensor) -> tf.Tensor:
    """The mask of B: every code but that of C, which is 0, is True."""
    return tf.cast(sets, tf.bool)


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
    alpha = masked(theta, tf.equal(sets, FORWARD))

    def gradient(upstream):
        return masked(tf.convert_to_tensor(upstream), on_backward(sets)), None

    return alpha, gradient


@tf.custom_gradient
def straight_through_view(theta: tf.Tensor, sets: tf.Tensor):
    """Alpha: theta on A, zero elsewhere; its gradient reaches every entry.

    ``alpha_i = theta_i if i in A else 0``; ``d/dtheta_i = d/dalpha_i``: `sparse_view`
    where B is everything, as in SWAT and DNW.

    >>> straight_through_view(tf.constant([1.0, 2.0]), tf.constant([0, 2], tf.uint8))
    <tf.Tensor: shape=(2,), dtype=float32, numpy=array([0., 2.], dtype=float32)>
    """
    alpha = masked(theta, tf.equal(sets, FORWARD))
    # A lookup of rows, or a product with a sparse tensor, gives slices of a gradient.
    return alpha, lambda upstream: (tf.convert_to_tensor(upstream), None)


class Component:
    """One device's copy of a sparse weight: theta, and the state that belongs to it."""

    def __init__(self, weight: "SparseWeight", index: int):
        self.weight = weight
        self.index = index

    @property
    def theta(self) -> tf.Variable:
        return components(self.weight.variable)[self.index]

    def read_theta(self) -> tf.Tensor:
        """Theta's values, also in a forward pass."""
        with hooks.dense_reads():
            return self.theta.read_value()

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

    def on_backward_set(
        self, proposed: Any, theta: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The proposed value on B and the present one on C, to the bit."""
        theta = self.read_theta() if theta is None else theta
        proposed = tf.cast(proposed, theta.dtype)
        if self.weight.method.updates_all:
            return proposed
        if proposed.shape != theta.shape:
            proposed = tf.broadcast_to(proposed, theta.shape)
        return chosen(on_backward(self.sets.read_value()), proposed, theta)

    def on_forward_set(self, proposed: Any) -> tf.Tensor:
        """The proposed value on A and the present one elsewhere, to the bit."""
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
        if self.weight.method.updates_all or not self.weight.bwd:
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
            # not from the zero that was read; C, where nothing is added, to the bit.
            kept = tf.where(tf.equal(proposed, 0), theta, theta + proposed)
            return tf.where(is_alpha & tf.not_equal(sets, FORWARD), kept, proposed)

    def mark_updated(self) -> None:
        # Not the whole clock: every weight does it in every step.
        tf.raw_ops.ResourceScatterUpdate(
            resource=self.clock.handle,
            indices=tf.constant(PENDING),
            updates=tf.constant(1, tf.int64),
        )

    @property
    def restores(self) -> tuple[int, int]:
        """How often a `tf.train.Checkpoint` has restored theta, and the sets."""
        return self.theta._topkast_restores, self.sets._topkast_restores

    def peers(self) -> list["Component"]:
        """The components on the same device whose weights share this one's budget."""
        return [weight.component(self.index) for weight in self.weight.peers()]


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
    clocks = tf.stack([member.clock.read_value() for member in members])
    found = select(members, _brought(members, clocks, momenta), clocks[0, STEP])
    after = _with_found(clocks, [found], tf.constant(True, shape=[len(members)]))
    for member, clock in zip(members, tf.unstack(after), strict=True):
        member.clock.assign(clock)
    _raise_unless(found.finite, members)


def _brought(
    members: Sequence[Component],
    clocks: tf.Tensor,
    momenta: Sequence[tf.Tensor | None] | None = None,
) -> list[Selection]:
    """What components bring to a selection.

    Args:
      members: the components.
      clocks: theirs, one a row.
      momenta: as for `refresh`.
    """
    # By column, and not by row: a deep model has many rows.
    columns = [
        tf.unstack(tf.cast(clocks[:, entry], dtype))
        for entry, dtype in (
            (KEPT_FORWARD, tf.int32),
            (KEPT_BACKWARD, tf.int32),
            (SEED, tf.int64),
            (THRESHOLD, tf.int64),
        )
    ]
    return [
        Selection(
            theta=member.read_theta(),
            kept_forward=kept_forward,
            kept_backward=kept_backward,
            seed=seed,
            blocks=member.weight.blocks,
            threshold=threshold,
            sets=member.sets.read_value(),
            momentum=momentum,
            schedule=member.weight.schedule,
        )
        for member, momentum, kept_forward, kept_backward, seed, threshold in zip(
            members, momenta or [None] * len(members), *columns, strict=True
        )
    ]


def select(
    members: Sequence[Component],
    brought: Sequence[Selection],
    step: tf.Tensor,
    due: tf.Tensor | None = None,
) -> Sets:
    """Selects and writes the sets of components; their clocks are left to be written.

    Args:
      members: the components that share one budget.
      brought: what they bring.
      step: integer scalar, the step at which the sets take effect.
      due: boolean scalar, whether to write them; None for always.
    """
    found = members[0].weight.method.select(brought, step)
    meant = found.finite if due is None else found.finite & due
    for member, each, code in zip(members, brought, found.codes, strict=True):
        # The sets have been selected from theta before anything may raise, and are
        # written only if they mean something.
        member.sets.assign(chosen(meant, code, each.sets))
    return found


def _with_found(clocks: tf.Tensor, found: Sequence[Sets], due: tf.Tensor) -> tf.Tensor:
    """Clocks, one a row, with what selections have found where they were due."""
    columns = tf.unstack(clocks, axis=1)

    def replace(entry: int, values: Sequence[Any]) -> None:
        before = tf.unstack(columns[entry])
        after = [
            old if value is None else tf.cast(value, tf.int64)
            for old, value in zip(before, values, strict=True)
        ]
        columns[entry] = tf.where(due, tf.stack(after), columns[entry])

    def of_each(name: str) -> list[Any]:
        given = ((getattr(sets, name), len(sets.codes)) for sets in found)
        return [x for values, count in given for x in values or [None] * count]

    replace(FAULTY, [~sets.finite for sets in found for _ in sets.codes])
    for entry, name in ((THRESHOLD, "thresholds"), (KEPT_FORWARD, "kept_forward")):
        values = of_each(name)
        if any(value is not None for value in values):
            replace(entry, values)
    return tf.stack(columns, axis=1)


def _raise_unless(finite: tf.Tensor, members: Sequence[Component]) -> None:
    """Raises if sets were selected that mean nothing, as far as what runs can raise."""
    paths = ", ".join(member.weight.path for member in members)
    message = f"{NAN_MESSAGE} {paths}."
    if tf.executing_eagerly() and not finite:
        raise ValueError(message)
    # Not `tf.debugging.Assert`, which makes a `tf.cond` of its own.
    tf.raw_ops.Assert(condition=finite, data=[message], summarize=1)


def count_steps(
    groups: Sequence[Sequence[Component]],
    momenta: Sequence[Sequence[tf.Tensor] | None],
    complete: tf.Tensor | None = None,
) -> None:
    """Counts an optimizer step where thetas were updated, and refreshes what is due.

    Whether they were updated is known only in the graph: an optimizer that accumulates
    gradients, or scales the loss, updates in some of its calls. All weights of a method
    are handled together: a graph with one `tf.cond`, and not with one for each weight.

    Args:
      groups: of components, on one device, that share one budget each.
      momenta: of each group, as for `refresh`.
      complete: boolean scalar, False while an optimizer only accumulates gradients:
        constraints and averages, which Keras applies all the same, are no step. None
        is True.
    """
    by_method: dict[int, list[int]] = {}
    for i, group in enumerate(groups):
        by_method.setdefault(id(group[0].weight.method), []).append(i)
    for alike in by_method.values():
        _count_steps([groups[i] for i in alike], [momenta[i] for i in alike], complete)


def _count_steps(
    groups: Sequence[Sequence[Component]],
    momenta: Sequence[Sequence[tf.Tensor] | None],
    complete: tf.Tensor | None,
) -> None:
    method = groups[0][0].weight.method
    members = [member for group in groups for member in group]
    momenta = [
        momentum
        for group, each in zip(groups, momenta, strict=True)
        for momentum in each or [None] * len(group)
    ]
    group_of = [i for i, group in enumerate(groups) for _ in group]
    ends = list(itertools.accumulate(map(len, groups)))
    owned = list(map(slice, [0, *ends[:-1]], ends))
    before = tf.stack([member.clock.read_value() for member in members])
    own_steps = before[:, STEP]
    # A group takes its steps together, those of its first member.
    waiting = tf.math.unsorted_segment_max(before[:, PENDING], group_of, len(groups))
    pending = tf.gather(waiting, group_of) > 0
    if complete is not None:
        pending &= complete
    group_steps = tf.gather(own_steps, [owned[i].start for i in group_of])
    steps = tf.where(pending, group_steps + 1, own_steps)
    kept = before[:, PENDING + 1 :]
    counted = tf.concat([steps[:, None], tf.zeros_like(steps)[:, None], kept], axis=1)
    moves = pending & (before[:, FROZEN] < 1)
    due = moves & _due(members, steps)

    def select_due():
        each_step = tf.unstack(steps)
        if method.follows:
            selected = tf.math.unsorted_segment_max(
                tf.cast(due, tf.int32), group_of, len(groups)
            )
            _follow(members, counted, moves & ~(tf.gather(selected, group_of) > 0))
        brought = _brought(members, counted, momenta)
        found, finite = [], []
        for own in owned:
            any_due = tf.reduce_any(due[own])
            step = each_step[own.start]
            found.append(select(members[own], brought[own], step, any_due))
            finite.append(found[-1].finite | ~any_due)
        return _with_found(counted, found, due), tf.stack(finite)

    def select_none():
        if method.follows:
            _follow(members, counted, moves)
        return counted, tf.constant(True, shape=[len(groups)])

    after, finite = tf.cond(tf.reduce_any(due), select_due, select_none)
    for member, clock in zip(members, tf.unstack(after), strict=True):
        member.clock.assign(clock)
    for group, each in zip(groups, tf.unstack(finite), strict=True):
        _raise_unless(each, group)


def _due(members: Sequence[Component], steps: tf.Tensor) -> tf.Tensor:
    """Whether the sets of each component are selected at its step."""
    schedules = [member.weight.schedule for member in members]
    due = tf.zeros_like(steps, tf.bool)
    for schedule in dict.fromkeys(schedules):
        follows_it = tf.constant([each == schedule for each in schedules])
        due |= follows_it & schedule.due(steps)
    return due


def _follow(
    members: Sequence[Component], clocks: tf.Tensor, pending: tf.Tensor
) -> None:
    """What the method does with the sets of components between two refreshes."""
    brought = _brought(members, clocks)
    steps, counts = tf.unstack(clocks[:, STEP]), tf.unstack(pending)
    for i, member in enumerate(members):
        codes = member.weight.method.follow(brought[i], steps[i])
        member.sets.assign(chosen(counts[i], codes, brought[i].sets))


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

    def read_value(self):
        # Savers and strategies read so too, and mean theta; in a forward pass it is a
        # layer that does, such as LSTM and GRU of tf_keras.
        if hooks.in_forward_pass() and self._topkast.reads_alpha():
            return self.value()
        return super().read_value()

    def numpy(self):
        with hooks.dense_reads():
            return super().numpy()

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
        if hooks.in_swap():
            # By sums and differences, whose rounding is not to reach C.
            value = component.on_backward_set(value)
            return super().assign(value, use_locking, name, read_value)
        if not hooks.in_update():
            if hooks.in_forward_pass() and component.reads_alpha():
                # A wrapper (spectral normalisation) has read alpha and writes it back.
                value = component.on_forward_set(value)
                return super().assign(value, use_locking, name, read_value)
            if component.reads_alpha():
                value = component.refuse_alpha(value)
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
        theta = component.read_theta()
        delta = tf.cast(delta, theta.dtype)
        proposed = theta + delta if sign > 0 else theta - delta
        if not hooks.in_update() and (
            component.weight.within_keras or hooks.handed_over()
        ):
            # Not a step but arithmetic with theta, as when Keras swaps in an average.
            return self.assign(proposed, use_locking, name, read_value)
        value = component.on_backward_set(proposed, theta)
        component.mark_updated()
        result = super().assign(value, use_locking, name, read_value)
        if not hooks.in_update() and component is component.peers()[-1]:
            count_steps([component.peers()], [None])  # a step of a hand-written loop
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
