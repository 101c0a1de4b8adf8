"""Sparse variables: the value that a read returns, the entries that an update changes.

A `tf.Variable` becomes sparse by changing its class to a subclass. It remains the same
object, so optimizers, savers and strategies continue to work with it, but

* in a forward pass it reads as alpha: theta on A, zero elsewhere. The gradient passes
  through on B and is zero on C;
* an assignment in a forward pass changes only A: the value was computed from alpha, as
  by `SpectralNormalization`, which divides a kernel by its norm. Outside A, theta is
  bitwise unchanged and competes at the next refresh with its own magnitude: nothing
  rescales it to the new A;
* an assignment by an optimizer changes only B: C is bitwise unchanged, despite momentum,
  decoupled weight decay, averaging or a constraint;
* everywhere else, including the build in a layer's first call, it reads as theta, and an
  assignment changes all of it.

A variable outside Keras layers also reads as alpha outside layer calls, because a forward
pass cannot be detected there. Assigning a value that is zero wherever alpha is would
destroy the hidden entries, and is an error. Within `dense_reads`, a variable is read and
assigned as theta.

Under a strategy each device's copy (replica) is such a variable, with its own copy of
the state; since theta and the state are the same on all, so are the sets.
"""

import tensorflow as tf

from topkast_tf import compat
from topkast_tf.core.mixing import mixed
from topkast_tf.kernels import training
from topkast_tf.methods.base import GRADIENT
from topkast_tf.variables import hooks, serving
from topkast_tf.variables.components import components
from topkast_tf.variables.refresh import count_steps
from topkast_tf.variables.replica import Weight, WeightReplica


class _CountsRestores:
    """Mixin for theta and sets: a checkpoint may hold only one of them."""

    _topkast_restores = 0

    def _restore_from_tensors(self, restored_tensors):
        self._topkast_restores += 1
        return super()._restore_from_tensors(restored_tensors)


class _SparseReads(_CountsRestores):
    """Mixin that makes a variable sparse (see `make_sparse`)."""

    _topkast: WeightReplica

    # TensorFlow's eager fast path reads a variable through this attribute and bypasses
    # every conversion. Without it, it converts as in a graph.
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
            return self._topkast.whole(theta)
        return self._topkast.alpha(theta)

    def read_value(self):
        # Savers and strategies also read this way and need theta; in a forward pass the
        # reader is a layer, such as LSTM and GRU of tf_keras.
        if hooks.in_forward_pass() and self._topkast.reads_alpha():
            return self.value()
        return self._topkast.whole(super().read_value())

    def read_value_no_copy(self):  # by a `tf.train.Checkpoint`
        return self._topkast.whole(super().read_value_no_copy())

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
        replica = self._topkast
        if hooks.in_swap():
            # The swap uses sums and differences, whose rounding must not reach C.
            value = replica.on_backward_set(value)
            return super().assign(value, use_locking, name, read_value)
        if not hooks.in_update():
            if hooks.in_forward_pass() and replica.reads_alpha():
                # A wrapper (spectral normalisation) has read alpha and writes it back.
                value = replica.on_forward_set(value)
                return self._stored(value, use_locking, name, read_value)
            if replica.reads_alpha():
                value = replica.refuse_alpha(value)
            result = self._stored(value, use_locking, name, read_value)
            replica.weight.after_assignment(replica)
            return result
        if self._steps_natively():
            return self._step_natively("assign", value, read_value)
        replica.mark_updated()
        value = replica.on_backward_set(value)
        return super().assign(value, use_locking, name, read_value)

    def _stored(self, value, use_locking, name, read_value):
        if self._topkast.entries is None:
            result = super().assign(value, use_locking, name, read_value)
            self._topkast.leave_to_files()
            return result
        self._topkast.store(value)
        return self if read_value else None

    def read_directly(self):
        """The variable's own value: with packed storage, stale on B."""
        return super().read_value()

    def assign_directly(self, value):
        """As `tf.Variable.assign`, bypassing everything that makes the variable sparse."""
        return super().assign(value, read_value=False)

    def assign_add(self, delta, use_locking=None, name=None, read_value=True):
        return self._step_by(delta, 1, use_locking, name, read_value)

    def assign_sub(self, delta, use_locking=None, name=None, read_value=True):
        return self._step_by(delta, -1, use_locking, name, read_value)

    def _step_by(self, delta, sign, use_locking, name, read_value):
        replica = self._topkast

        def proposed(theta):
            change = tf.cast(delta, theta.dtype)
            return theta + change if sign > 0 else theta - change

        if not hooks.in_update() and (
            replica.weight.within_keras or hooks.handed_over()
        ):
            # Not a step but arithmetic on theta, as when Keras swaps in an average.
            theta = proposed(replica.read_theta())
            return self.assign(theta, use_locking, name, read_value)
        if not hooks.in_update() and GRADIENT in replica.weight.method.inputs:
            raise ValueError(
                "Expected an update by a Keras optimizer, from which the method "
                f"{replica.weight.method.name!r} gets the gradient. Received: one by "
                f"`assign_sub` or `assign_add`, of {replica.weight.path}"
            )
        if self._steps_natively():
            kind = "add" if sign > 0 else "subtract"
            result = self._step_natively(kind, delta, read_value)
        else:
            theta = replica.read_theta()
            value = replica.on_backward_set(proposed(theta), theta)
            replica.mark_updated()
            result = super().assign(value, use_locking, name, read_value)
        if not hooks.in_update() and replica is replica.peers()[-1]:
            count_steps([replica.peers()])  # a step of a hand-written loop
        return result

    def _steps_natively(self):
        replica = self._topkast
        return not replica.weight.method.dense_updates and serving.serves(replica)

    def _step_natively(self, kind, by, read_value):
        replica = self._topkast
        by = tf.cast(by, self.dtype)
        if by.shape != self.shape:
            by = tf.broadcast_to(by, self.shape)
        operation = training.step(kind, self, replica.sets, replica.counters, by)
        return compat.updated(self, operation) if read_value else operation

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
            # A layer tracks its state. A SavedModel does not restore the children of a
            # variable: there, TensorFlow requires the owner to track the sets, too.
            return children
        return {
            **children,
            "topkast_sets": weight.sets,
            "topkast_clock": weight.counters,
        }

    def _lookup_dependency(self, name, *args, **kwargs):
        weight = self._topkast.weight
        own = {"topkast_sets": weight.sets, "topkast_clock": weight.counters}
        if name in own and not weight.within_keras:
            return own[name]
        return super()._lookup_dependency(name, *args, **kwargs)


def make_sparse(weight: Weight) -> None:
    """Makes the weight's variable sparse, in place."""
    hooks.install()
    for index, variable in enumerate(components(weight.variable)):
        if not isinstance(variable, _SparseReads):
            variable._topkast = WeightReplica(weight, index)
            variable.__class__ = mixed(_SparseReads, type(variable), "Sparse")
    for variable in components(weight.sets):
        if not isinstance(variable, _CountsRestores):
            variable.__class__ = mixed(_CountsRestores, type(variable), "Sparse")
