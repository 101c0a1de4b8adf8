"""The TensorFlow 1 entry point: a custom getter for `tf.compat.v1.variable_scope`."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from topkast_tf.core.blocks import MatrixView
from topkast_tf.core.kernel_rule import why_not_kernel
from topkast_tf.core.sets import FORWARD, RESERVOIR
from topkast_tf.core.sparsities import kept
from topkast_tf.methods import Method, Selection, TopKAST
from topkast_tf.variables.placement import seed_of

_v1 = tf.compat.v1


def topkast_getter(
    fwd: float,
    bwd: float,
    *,
    refresh_every: int = 1,
    exploration: float = 1e-4,
    exploration_norm: str = "l2",
    backward: str = "topk",
    stop_exploring_at: int | None = None,
    block: tuple[int, int] | None = None,
    block_reduce: str = "sum",
    total_steps: int | None = None,
    seed: int = 0,
) -> Callable:
    r"""A custom getter that makes `tf.compat.v1.get_variable` return alpha.

    ``alpha = theta on A, 0 elsewhere``, sparsified before any computation, as in
    `topkast_tf.topkast_scope`. Matrices and convolution kernels are sparsified; other
    variables are returned unchanged. The exploration loss is added to the collection
    of regularisation losses (`tf.compat.v1.losses.get_regularization_loss`).

    It works in graphs, with any optimizer of `tf.compat.v1.train`. These write to
    variables through fused kernels, so the variable's constraint, which they all apply
    after the update, restores C bitwise. In TensorFlow 2 style use `topkast_scope`.

    Args: as for `topkast_scope`.

    Returns:
      The getter, for ``tf.compat.v1.variable_scope(name, custom_getter=...)``.

    Raises:
      ValueError: for an argument out of range; when called, if TensorFlow executes
        eagerly.

    >>> import tensorflow as tf
    >>> with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    ...     getter = topkast_getter(fwd=0.75, bwd=0.5)
    ...     with tf.compat.v1.variable_scope("layer", custom_getter=getter):
    ...         kernel = tf.compat.v1.get_variable("kernel", [4, 4])
    ...     session.run(tf.compat.v1.global_variables_initializer())
    ...     int((session.run(kernel) != 0).sum())
    4

    Source: the authors' rebuttal: "this can be implemented with a custom getter in
    TensorFlow, such that the weight matrix is sparsified before any computation".
    """
    method = TopKAST(
        fwd=fwd,
        bwd=bwd,
        refresh_every=refresh_every,
        total_steps=total_steps,
        exploration=exploration,
        exploration_norm=exploration_norm,
        backward=backward,
        stop_exploring_at=stop_exploring_at,
        block=block,
        block_reduce=block_reduce,
    )
    made: dict[tuple[tf.Graph, str], tf.Tensor] = {}

    def custom_getter(getter, name, *args, **kwargs):
        if tf.executing_eagerly():
            raise ValueError(
                "Expected a TensorFlow 1 graph; in eager execution use `topkast_scope`. "
                f"Received: a request for {name!r} while executing eagerly"
            )
        key = (tf.compat.v1.get_default_graph(), name)
        if key not in made:
            weight = _GraphWeight(method, name, seed)
            kwargs["use_resource"] = True
            variable = getter(
                name, *args, **{**kwargs, "constraint": weight.constraint(kwargs)}
            )
            if not _is_kernel(variable):
                return variable
            made[key] = weight.alpha(variable, getter)
        return made[key]

    return custom_getter


def _is_kernel(variable: Any) -> bool:
    if not hasattr(variable, "trainable"):
        raise ValueError(
            "Expected an unpartitioned variable. "
            f"Received: {variable!r}, made with a partitioner"
        )
    is_weight = variable.trainable and variable.dtype.is_floating
    is_matrix = is_weight and variable.shape.rank > 1
    return is_matrix and why_not_kernel(variable.op.name, variable.shape) is None


class _GraphWeight:
    """A sparse weight in a TensorFlow 1 graph."""

    def __init__(self, method: Method, name: str, seed: int):
        self.method = method
        self.name = name
        self.seed = seed_of(name, seed)
        self.theta: tf.Tensor | None = None  # before the update

    def alpha(self, variable: Any, getter: Callable) -> tf.Tensor:
        """Creates the sets, and returns alpha for the forward pass."""
        shape = tuple(variable.shape)
        self.blocks = self.method.blocks(MatrixView(shape))
        self.units = self.blocks.count if self.blocks else variable.shape.num_elements()
        first = self._select(variable.initial_value, tf.constant(0, tf.int64))
        self.sets = getter(
            f"{self.name}_sets",
            initializer=first,
            trainable=False,
            use_resource=True,
        )
        self.step = getter(
            f"{self.name}_step",
            shape=[],
            dtype=tf.int64,
            initializer=_v1.zeros_initializer(),
            trainable=False,
            use_resource=True,
        )
        self.theta, self.codes = variable.read_value(), self.sets.read_value()
        density = tf.reduce_mean(tf.cast(tf.equal(self.codes, FORWARD), tf.float32))
        penalty = self.method.penalty(self.theta, self.codes, density, {})
        if penalty is not None:
            _v1.add_to_collection(_v1.GraphKeys.REGULARIZATION_LOSSES, penalty)
        return self._view(self.theta, self.codes)

    @staticmethod
    @tf.custom_gradient
    def _view(theta, codes):
        zero = tf.zeros([], theta.dtype)

        def gradient(upstream):
            # The update must wait for this read of theta, even if the gradient does not
            # use its value: the constraint restores it.
            with tf.control_dependencies([theta]):
                return tf.where(tf.not_equal(codes, RESERVOIR), upstream, zero), None

        return tf.where(tf.equal(codes, FORWARD), theta, zero), gradient

    def _select(self, theta: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        weight = Selection(
            theta=theta,
            kept_forward=tf.constant(kept(self.units, self.method.fwd)),
            kept_backward=tf.constant(kept(self.units, self.method.bwd)),
            seed=tf.constant(self.seed, tf.int64),
            blocks=self.blocks,
        )
        [codes], finite, *_ = self.method.update([weight], step)
        message = f"Expected finite weights. Received: NaN in {self.name}."
        with tf.control_dependencies([tf.debugging.Assert(finite, [message])]):
            return tf.ensure_shape(tf.identity(codes), theta.shape)

    def constraint(self, kwargs: dict) -> Callable:
        """The variable's constraint: applies its own, restores C, counts the step."""
        own = kwargs.get("constraint")

        def constrain(variable):
            updated = variable if own is None else own(variable)
            if self.theta is None:  # not a kernel
                return updated
            theta = tf.where(tf.not_equal(self.codes, RESERVOIR), updated, self.theta)
            with tf.control_dependencies([theta]):
                step = self.step.assign_add(1, read_value=True)
            step = tf.convert_to_tensor(step)
            due = self.method.schedule.due(step)
            codes = tf.cond(due, lambda: self._select(theta, step), lambda: self.codes)
            with tf.control_dependencies([self.sets.assign(codes, read_value=False)]):
                return tf.identity(theta)

        return constrain
