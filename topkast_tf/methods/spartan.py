"""Spartan: a soft mask of the largest weights, that sharpens, with its gradient."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from topkast_tf.core import selection
from topkast_tf.core.blocks import MatrixView
from topkast_tf.core.schedules import UpdateSchedule
from topkast_tf.core.sets import FORWARD
from topkast_tf.core.soft_top_k import HALVINGS, soft_top_k, softly_masked
from topkast_tf.core.sparsities import is_number, validate_sparsities
from topkast_tf.methods.base import Method, Products, Selection, Sets, TrainedVariable
from topkast_tf.methods.registry import register

MASK, SHARPNESS = "mask", "sharpness"
"""Names of the variables next to a weight: m and beta."""


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Spartan(Method):
    """Spartan (Tai et al. 2022). Dense-to-sparse.

    With k(t) falling linearly from n to the planned number until the warm-up W ends, and
    beta(t) going linearly from b_0 to b until step F, where the mask is frozen::

        m = soft mask of |theta|: m_i = sigmoid(beta |theta_i| - c), sum m = k
        A = the k largest of |theta|
        alpha = theta m on A, 0 elsewhere
        dL/dtheta_i = g_i m_i + beta sign(theta_i) m_i (1 - m_i) (g_i theta_i - mean)
        mean = sum m (1 - m) g theta / sum m (1 - m),   g = dL/dalpha
        m <- m on A, 0 elsewhere; dL/dtheta = g m      from F on: m and A are fixed

    The gradient is that of theta m for every entry, also outside A (dual averaging),
    through both factors. With ``distribution="global"`` (the authors') k, c and A are of
    all weights together, and the mean is that of each weight.

    State: m and beta: one more weight. Slots: of every entry. The densest moment of a run
    is its beginning, with no zeros. The soft mask takes 40 passes over the weights in each
    step until F. At the end alpha is theta m, and not theta, on A: `strip` has alpha.

    Attributes:
      sparsity: in [0, 1).
      total_steps: the length of training, in steps.
      warm_up: W, as a fraction of it, in (0, 1), at least 1 step.
      frozen_from: F, likewise; W if that is later.
      initial_sharpness: b_0, above 0.
      sharpness: b, above 0. It multiplies |theta| as it is, so that with small
        weights masks are far from hard.

    Raises:
      ValueError: for a sparsity or another argument out of range.

    >>> import keras
    >>> from topkast_tf import sparse_scope
    >>> with sparse_scope("spartan", sparsity=0.9, distribution="global",
    ...                   total_steps=10_000):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])

    Source: `sparsifier.py` and `modules/linear.py` of the authors' code: W = 0.2, F = 0.8,
    beta from 1 to 20. Departs from it in that the sum of m is exact, by bisection, where
    Sinkhorn's iteration ends at a change of 1 % or after 100 passes; in the mean of a
    global mask, which is that of all weights there; in counts of whole weights, with ties
    to the lower index; in that the sparsity is of the sparse weights, not of all
    parameters; and in having neither costs by FLOPs nor blocks.
    """

    name: ClassVar[str] = "spartan"
    computes_alpha: ClassVar[bool] = True  # type: ignore[misc]
    dense_updates: ClassVar[bool] = True  # type: ignore[misc]
    varying_counts: ClassVar[bool] = True  # type: ignore[misc]

    sparsity: float
    total_steps: int | None = None
    warm_up: float = 0.2
    frozen_from: float = 0.8
    initial_sharpness: float = 1.0
    sharpness: float = 20.0

    def __post_init__(self) -> None:
        validate_sparsities(self.sparsity, 0.0)
        steps = self.total_steps
        if type(steps) is not int or steps < 2:
            raise ValueError(
                "Expected `total_steps`, the number of optimizer steps of the training, of "
                f"at least 2. Received: total_steps={steps!r}"
            )
        for argument, most, range_ in (
            ("warm_up", 1, "a fraction of the training, in (0, 1)"),
            ("frozen_from", 1, "a fraction of the training, in (0, 1)"),
            ("initial_sharpness", float("inf"), "a finite number above 0"),
            ("sharpness", float("inf"), "a finite number above 0"),
        ):
            value = getattr(self, argument)
            if not is_number(value) or not 0 < value < most:
                raise ValueError(
                    f"`{argument}` must be {range_}. Received: {argument}={value!r}"
                )

    @property
    def fwd(self) -> float:  # type: ignore[override]
        return self.sparsity

    @property
    def bwd(self) -> float:  # type: ignore[override]
        return 0.0

    @property
    def warm_up_steps(self) -> int:
        """W, in steps."""
        return max(1, round(self.warm_up * (self.total_steps or 0)))

    @property
    def freezes_at(self) -> int:
        """F, the first step with a fixed mask."""
        return max(
            self.warm_up_steps, round(self.frozen_from * (self.total_steps or 0))
        )

    @property
    def schedule(self) -> UpdateSchedule:  # type: ignore[override]
        return UpdateSchedule(every=1, first=1, last=self.freezes_at)

    def kept(self, units: Any, final: Any, step: Any) -> Any:
        """k, the number of entries in A at a step, rounded up. Integers or tensors.

        >>> method = Spartan(sparsity=0.9, total_steps=20)
        >>> [method.kept(10, 1, step) for step in range(6)]
        [10, 8, 6, 4, 1, 1]
        """
        warm_up = self.warm_up_steps
        left = (units - final) * (warm_up - step)
        share = -(-left // warm_up)
        if isinstance(step, tf.Tensor):
            return final + tf.maximum(share, 0)
        return final + max(share, 0)

    def trained_variables(self, view: MatrixView) -> Mapping[str, TrainedVariable]:
        sharpness = float(self.initial_sharpness)
        return {
            MASK: TrainedVariable(tuple(view.shape), 1.0, trainable=False),
            SHARPNESS: TrainedVariable((), sharpness, trainable=False),
        }

    def reselect(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        """As an update, until the mask is frozen."""
        found = self.update(weights, step)
        is_frozen = tf.cast(step, tf.int64) >= self.freezes_at
        codes, trained = [], []
        for i, weight in enumerate(weights):
            new = (found.trained or [])[i]
            codes.append(tf.where(is_frozen, weight.sets, found.codes[i]))
            trained.append(
                {
                    name: tf.where(is_frozen, weight.trained[name], new[name])
                    for name in new
                }
            )
        return found._replace(codes=codes, trained=trained)

    def update(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        step = tf.cast(step, tf.int64)
        thetas = [tf.convert_to_tensor(weight.theta) for weight in weights]
        units = sum(theta.shape.num_elements() for theta in thetas)
        final = tf.add_n([tf.cast(weight.kept_forward, tf.int64) for weight in weights])
        count = tf.cast(self.kept(units, final, step), tf.int32)
        codes, finite = selection.nested_sets_by_magnitude(
            thetas, count, tf.constant(units)
        )
        is_frozen = step >= self.freezes_at
        share = tf.cast(step, tf.float32) / self.freezes_at
        growth = self.sharpness - self.initial_sharpness
        sharpness = self.initial_sharpness + tf.minimum(share, 1.0) * growth
        masks = soft_top_k([tf.abs(theta) for theta in thetas], count, sharpness)
        trained = []
        for weight, mask, code in zip(weights, masks, codes, strict=True):
            before = weight.trained
            inside = tf.cast(tf.equal(code, FORWARD), mask.dtype)
            mask = tf.where(is_frozen, mask * inside, mask)
            # Of a fixed mask theta has no gradient through it.
            new = tf.where(is_frozen, 0.0, sharpness)
            trained.append(
                {
                    MASK: tf.cast(mask, before[MASK].dtype),
                    SHARPNESS: tf.cast(new, before[SHARPNESS].dtype),
                }
            )
        return Sets(codes, finite, trained=trained)

    def alpha(
        self, theta: tf.Tensor, sets: tf.Tensor, trained: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        inside = tf.cast(tf.equal(sets, FORWARD), theta.dtype)
        mask = tf.cast(trained[MASK], theta.dtype)
        sharpness = tf.cast(trained[SHARPNESS], theta.dtype)
        return softly_masked(theta, mask, inside, sharpness)

    def counts(
        self, units: int, kept_forward: int, kept_backward: int, step: int
    ) -> tuple[int, int] | None:
        return self.kept(units, kept_forward, step), units

    def selection_operations(self, view: MatrixView) -> float:
        # A sigmoid and a sum in each bisection, beside the threshold of A.
        soft = 2 * HALVINGS * math.prod(view.shape) * self.updates_a_step(view)
        return super().selection_operations(view) + soft

    def mean_products(self, fwd: float, bwd: float) -> Products:
        steps, warm_up = self.total_steps or 1, self.warm_up_steps
        # Of steps 0, ..., W - 1, 1 - t / W of the way is left.
        mean = fwd * (1 - (warm_up + 1) / 2 / steps)
        return Products(mean, mean, fwd * (1 - self.freezes_at / steps))
