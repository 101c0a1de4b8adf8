"""A sparse weight: theta with its sets, and what one may ask of it."""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from topkast_tf.core.sets import BACKWARD_ONLY, FORWARD, RESERVOIR
from topkast_tf.core.sparsities import sparsity_that_keeps
from topkast_tf.kernels import training
from topkast_tf.methods.base import GRADIENT
from topkast_tf.variables import masks, restoring, saved_state, serving
from topkast_tf.variables.components import components, local_index
from topkast_tf.variables.counters import Counter
from topkast_tf.variables.replica import WeightReplica
from topkast_tf.variables.select_sets import NAN_MESSAGE, reselect
from topkast_tf.variables.weight_state import WeightState


class SparseWeight(WeightState):
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
      auxiliary: name -> variable, of those that its method or a rule of its layer needs.
      trained: name -> description, of those of them that the optimizer trains.
      place: its place in the order in which the weights of its scope are made; None for
        one that counts from its first use on, before that.
      rule: how its layer computes its product (`topkast_tf.layers.products`), or None.
      power: p of `topkast_tf.core.powerprop`; 1 is none.
      kernels: the kernels that were chosen for its layer's product, and why
        (`topkast_tf.layers.native`); None before its first use.
      regularizer: the layer's own, to which the method's penalty is added, or None.
      penalty_regularizer: the one through which Keras 3 asks for the penalty, or None.
      assignments: how often theta was assigned from outside, as by `set_weights`.
    """

    def density(self, replica: WeightReplica) -> tf.Tensor:
        """The achieved forward density D of a replica, a scalar.

        Under a common budget a weight may be left without any entry in A. It counts as
        one then, or the penalty, which is divided by D, would be infinite.
        """
        if self.blocks is None and self.budget is None:
            kept_forward = replica.counters.read_value()[Counter.KEPT_FORWARD]
            return tf.cast(kept_forward, tf.float32) / math.prod(self.shape)
        least = 1 / math.prod(self.shape)
        if replica.entries is not None:  # which have all of A
            forward = tf.cast(replica.members.read_value() == FORWARD, tf.float32)
            return tf.maximum(tf.reduce_sum(forward) / math.prod(self.shape), least)
        forward = tf.cast(replica.sets.read_value() == FORWARD, tf.float32)
        return tf.maximum(tf.reduce_mean(forward), least)

    def penalty(self) -> tf.Tensor:
        """What it adds to the loss, a scalar: float64 if theta is, otherwise float32."""
        self.prepare()
        replica = self.replica(local_index(self.variable))
        value = None
        coefficient = self.method.exploration_coefficient
        natively = coefficient and serving.serves(replica, same_bits=False)
        if self.exempt:
            theta = sets = None
        elif replica.entries is not None:
            theta, sets = replica.entries.read_value(), replica.members.read_value()
        else:
            theta, sets = replica.read_theta(), replica.sets.read_value()
        if not self.exempt and natively:
            value = training.exploration_loss(
                theta,
                sets,
                self.density(replica),
                coefficient,
            )
        elif not self.exempt:
            value = self.method.penalty(
                theta,
                sets,
                self.density(replica),
                replica.trained(),
            )
        if value is not None:
            return value
        is_double = replica.theta.dtype == tf.float64
        return tf.zeros([], tf.float64 if is_double else tf.float32)

    def dense(self) -> np.ndarray:
        """Theta: the dense parameter, as a NumPy array."""
        return self._numpy(lambda replica: replica.theta)

    def effective(self) -> np.ndarray:
        """Alpha: what the forward pass computes with, as a NumPy array."""
        if self.method.computes_alpha and not self.exempt:
            self.prepare()
            return self._numpy(lambda replica: replica.alpha(replica.read_theta()))
        weights = self.unmasked()
        if not self.method.sparse_forward:
            return weights
        return np.where(self.forward_mask(), weights, np.zeros((), weights.dtype))

    def unmasked(self) -> np.ndarray:
        """The values that alpha has on A, of all entries: theta, or its power."""
        return self._numpy(lambda replica: self.powered(replica.read_theta()))

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
        name = self.method.name
        if self.method.computes_alpha:
            raise ValueError(
                f"Expected a method that takes sets from outside. Received: {self.path}, "
                f"with the method {name!r}, which computes alpha itself"
            )
        codes = masks.codes_of(self.path, self.shape, forward, backward)
        if self.method.one_mask and np.any(codes == BACKWARD_ONLY):
            raise ValueError(
                f"Expected backward=None for {self.path}, as {name!r} has one mask. "
                "Received: a backward mask with entries outside the forward mask"
            )
        if self.method.dense_updates:
            if backward is not None and not np.all(codes):
                raise ValueError(
                    f"Expected backward=None for {self.path}, as {name!r} "
                    "updates every entry. Received: a mask that leaves some out"
                )
            codes = np.maximum(codes, BACKWARD_ONLY)
        sizes = saved_state.set_sizes(restoring.codes_of_units(self, codes))
        counters = self._numpy(lambda replica: replica.counters)
        before = [
            int(counters[i]) for i in (Counter.KEPT_FORWARD, Counter.KEPT_BACKWARD)
        ]
        if self.budget is not None and list(sizes) != before:
            raise ValueError(
                f"Expected masks that keep {before} entries of {self.path}, as its part "
                f"of a common budget. Received: masks that keep {list(sizes)}"
            )
        fwd, bwd = (sparsity_that_keeps(self.units, size) for size in sizes)
        if (fwd, bwd) != (self.fwd, self.bwd):
            self._unpack()
        self.fwd, self.bwd = fwd, bwd
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
        return bool(self.looks_at_gradient_at(counters))

    def looks_at_gradient_at(self, counters: Any) -> Any:
        """Whether a method that looks at the gradient does so in the next step.

        Args:
          counters: those of a replica, an array or a tensor.

        Returns:
          A scalar bool of the same kind.
        """
        step, moves = counters[Counter.STEP], counters[Counter.FROZEN] < 1
        if not self.method.replaces_step:  # the update follows the step
            return moves & self.schedule.due(step + 1)
        is_made = self.method.was_updated(step, counters[Counter.THRESHOLD])
        return moves & self.schedule.due(step) & ~is_made

    @property
    def is_pruned(self) -> bool:
        """Whether `topkast_tf.prune`, or the first batch, has selected its sets."""
        if not self._is_pruned:
            counters = self._numpy(lambda replica: replica.counters)
            return bool(counters[Counter.THRESHOLD] > 0 or counters[Counter.STEP] > 0)
        return True

    def take_pruned(self, mask: np.ndarray) -> None:
        """Takes A = B from `topkast_tf.prune`."""
        self.prepare()
        with tf.init_scope():
            for sets in components(self.sets):
                sets.assign(np.where(mask, FORWARD, RESERVOIR).astype(np.uint8))
        self._set_counters({Counter.THRESHOLD: self.step + 1})

    def check_pruned(self) -> None:
        """Raises a ValueError if it is about to be trained before it was pruned."""
        method = self.method
        if not method.prunes_before_training or method.prunes_first_batch:
            return
        if not self._is_pruned:
            self._is_pruned = self.is_pruned
        if not self._is_pruned and not self.exempt:
            raise ValueError(
                f"Expected `topkast_tf.prune(model, batch)` before training with the "
                f"method {method.name!r}, which selects the mask then (and `compile` after "
                "it, as this step has failed while it was traced). Received: a step of "
                f"{self.path}, which is still dense"
            )

    @property
    def calls(self) -> int:
        """How many calls of the optimizer it has seen: steps, and updates in their place.

        Counted from the schedule of its method; of frozen sets it is the steps. Updates
        of another scope of the model that replace a step are not counted.
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

    def raise_if_faulty(self) -> None:
        """Raises a ValueError if a refresh has met a NaN that could not be raised then."""

        def counters(replica):
            # Within a `keras.StatelessScope`, Keras reads the scope's value.
            value = self._counters.value
            return value if isinstance(value, tf.Tensor) else replica.counters

        if self._numpy(counters)[Counter.FAULTY]:
            raise ValueError(f"{NAN_MESSAGE} {self.path}.")
