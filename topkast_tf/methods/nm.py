"""N:M sparsity: of every M inputs of an output, N are kept."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import tensorflow as tf

from topkast_tf.core.blocks import MatrixView
from topkast_tf.core.keys import has_nan, magnitude_keys
from topkast_tf.core.schedules import RefreshSchedule
from topkast_tf.core.sets import BACKWARD_ONLY
from topkast_tf.core.sparsities import validate_sparsities
from topkast_tf.methods.base import Method, Selection, Sets
from topkast_tf.methods.registry import register

MOST = 64
"""The largest M."""


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class NM(Method):
    """N:M sparsity with SR-STE (Zhou et al. 2021).

    Of every M consecutive inputs of an output the N largest of |theta| are in A; every
    entry is updated (B is everything), and those outside A decay::

        alpha = theta on A, 0 elsewhere
        update by  dL/dalpha + lambda * theta outside A

    N follows from the sparsity: ``N = (1 - sparsity) M``, of each weight. In a convolution
    consecutive inputs are channels at one window position, as hardware needs it. A weight
    whose inputs (channels) M does not divide is left dense.

    State: none but theta and the sets. Slots: of every entry. Ties go to the lower index.

    Attributes:
      sparsity: a multiple of 1 / M, in [0, 1): 0.5 is 2:4.
      m: M, from 2 to 64.
      decay: lambda, at least 0; 0 is the straight-through estimator.
      refresh_every: steps between two selections.
      total_steps: as for `topkast_scope`.

    Raises:
      ValueError: for a sparsity that is no multiple of 1 / M, or an argument out of range.

    >>> import keras
    >>> from topkast_tf import sparse_scope, sparse_weights
    >>> with sparse_scope("nm", sparsity=0.5, m=4):
    ...     model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    >>> sparse_weights(model)[0].forward_mask().reshape(2, 4, 3).sum(1).tolist()
    [[2, 2, 2], [2, 2, 2]]

    Source: `SparseConv` and `Sparse_NHWC` of the authors' code, lambda = 2e-4. Departs from
    it in that the decay is a term of the loss, ``lambda/2 sum theta^2`` outside A, whose
    gradient it is: Keras shows it in `loss`.
    """

    name: ClassVar[str] = "nm"
    distributions: ClassVar[tuple[str, ...] | None] = ("uniform",)
    dense_updates: ClassVar[bool] = True  # type: ignore[misc]

    sparsity: float
    m: int = 4
    decay: float = 2e-4
    refresh_every: int = 1
    total_steps: int | None = None

    def __post_init__(self) -> None:
        validate_sparsities(self.sparsity, 0.0)
        if type(self.m) is not int or not 2 <= self.m <= MOST:
            raise ValueError(
                f"`m` must be an integer from 2 to {MOST}. Received: m={self.m!r}"
            )
        self.check_plan(self.sparsity, 0.0)
        if not isinstance(self.decay, float | int) or not 0 <= self.decay < 1:
            raise ValueError(
                f"`decay` must be a number in [0, 1). Received: decay={self.decay!r}"
            )
        _ = self.schedule  # validates the steps

    @property
    def fwd(self) -> float:  # type: ignore[override]
        return self.sparsity

    @property
    def bwd(self) -> float:  # type: ignore[override]
        return 0.0

    @property
    def has_penalty(self) -> bool:  # type: ignore[override]
        return self.decay > 0

    @property
    def schedule(self) -> RefreshSchedule:
        return RefreshSchedule(self.refresh_every, total_steps=self.total_steps)

    def check_plan(self, fwd: float, bwd: float) -> None:
        n = (1 - fwd) * self.m
        if abs(n - round(n)) > 1e-4 or round(n) < 1:
            raise ValueError(
                f"Expected a sparsity that keeps whole weights of m={self.m}: a multiple "
                f"of 1/{self.m}. Received: {fwd}"
            )

    def why_dense(self, view: MatrixView) -> str | None:
        channels = view.rows
        for size in view.shape[: view.spatial_axes]:
            channels //= size
        if channels % self.m == 0:
            return None
        return f"its {channels} inputs are not a multiple of m={self.m}"

    def selection_operations(self, view: MatrixView) -> float:
        # Each entry is compared with the others of its group.
        return (self.m - 1) * math.prod(view.shape) * self.updates_a_step(view)

    def update(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        codes, finite = [], []
        for weight in weights:
            view = weight.view or MatrixView(tuple(weight.theta.shape))
            matrix = view.to_matrix(weight.theta)
            keys = tf.reshape(magnitude_keys(matrix), [-1, self.m, view.cols])
            groups = view.rows // self.m * view.cols
            n = (tf.cast(weight.kept_forward, tf.int32) + groups // 2) // groups
            mask = tf.reshape(_ranks(keys, self.m) < n, [view.rows, view.cols])
            code = BACKWARD_ONLY + tf.cast(mask, tf.uint8)
            codes.append(view.from_matrix(code))
            finite.append(~has_nan(tf.reshape(keys, [-1])))
        return Sets(codes, tf.reduce_all(tf.stack(finite)))

    def counts(
        self, units: int, kept_forward: int, kept_backward: int, step: int
    ) -> tuple[int, int] | None:
        groups = units // self.m
        return (kept_forward + groups // 2) // groups * groups, units

    def penalty(
        self,
        theta: tf.Tensor,
        sets: tf.Tensor,
        density: tf.Tensor,
        trained: Mapping[str, tf.Tensor],
    ) -> tf.Tensor | None:
        if not self.decay:
            return None
        outside = tf.where(tf.equal(sets, BACKWARD_ONLY), theta, tf.zeros_like(theta))
        return self.decay / 2 * tf.reduce_sum(tf.square(outside))


def _ranks(keys: tf.Tensor, m: int) -> tf.Tensor:
    """How many keys of its group (axis 1) come before each: larger, or equal and first."""
    before = tf.zeros_like(keys)
    place = tf.range(m)[None, :, None]
    for other in range(m):
        key = keys[:, other : other + 1]
        is_before = (key > keys) | (tf.equal(key, keys) & (other < place))
        before += tf.cast(is_before, tf.int32)
    return before
