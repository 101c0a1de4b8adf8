"""SRigL: RigL with one fan-in for all outputs of a weight, and ablation of outputs."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import tensorflow as tf

from topkast_tf.core import selection
from topkast_tf.core.blocks import MatrixView
from topkast_tf.core.keys import has_nan, magnitude_keys, random_keys
from topkast_tf.core.schedules import DropFraction
from topkast_tf.methods.base import GRADIENT, Reset, Selection, Sets
from topkast_tf.methods.drop_grow import (
    DropGrow,
    active_of,
    gradient_of,
    ranked,
    share_of,
    stream,
)
from topkast_tf.methods.fixed_sparsity import codes_of
from topkast_tf.methods.registry import register

_FIRST = 4
"""The use of random numbers of the first sets."""


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class SRigL(DropGrow):
    """Structured RigL (Lasby et al. 2024): a constant fan-in.

    In the 2-D view of a weight (inputs x outputs) each output has the same number of
    entries in A, its fan-in F, or none. At an update, with k the planned number of entries,
    C' the outputs that have any, and f_t the drop fraction::

        salient  = the k - floor(f_t k) largest |theta| on A, and the floor(f_t k)
                   largest |dL/dalpha| elsewhere
        ablated  = outputs with fewer than gamma F salient entries, but not all
        F        = floor(k / C'), at least 1, at most the inputs; of the others
        kept     = of each output, the F - floor(f_t F) largest |theta| on A
        grown    = of each output, as many as are missing, the largest |dL/dalpha|

    What ablated outputs had goes to the others; they stay without entries. Their biases,
    and what reads them, stay. The source never ablates the last weight: `exempt="last"`
    leaves it dense, and ``ablation=0`` ablates nothing. An update follows a step and needs
    its dense gradient.

    State: none but theta and the sets. New entries: theta and slots zero.

    Attributes:
      drop_fraction: f, in (0, 1).
      anneal: its schedule (`DropFraction`).
      ablation: gamma, in [0, 1].
      first_mask: ``"random"``, the only one: with a constant fan-in.

    Others as in `DropGrow`.

    Raises:
      ValueError: for an argument out of range.

    >>> import keras
    >>> from topkast_tf import sparse_scope, sparse_weights
    >>> with sparse_scope("srigl", sparsity=0.75, total_steps=10_000):
    ...     model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    >>> sparse_weights(model)[0].forward_mask().sum(0).tolist()
    [2, 2, 2]

    Source: `rigl_constant_fan.py` of the authors' code and its configuration: f = 0.3 along
    a cosine until 0.75, gamma = 0.3. Departs from it in the first sets, which are random
    for each output, in ties, which go to the lower index, and in outputs that are never
    revived.
    """

    name: ClassVar[str] = "srigl"
    inputs: ClassVar[tuple[str, ...]] = (GRADIENT,)  # type: ignore[misc]
    varying_counts: ClassVar[bool] = True  # type: ignore[misc]

    drop_fraction: float = 0.3
    anneal: str = "cosine"
    ablation: float = 0.3
    update_until: int | float | None = 0.75
    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first_mask != "random":
            raise ValueError(
                "Expected first_mask='random', which has a constant fan-in. Received: "
                f"first_mask={self.first_mask!r}"
            )
        share = self.ablation
        if not isinstance(share, float | int) or not 0 <= share <= 1:
            raise ValueError(f"`ablation` must be in [0, 1]. Received: {share!r}")
        _ = self._fraction

    @property
    def _fraction(self) -> DropFraction:
        return self.annealed(self.drop_fraction, self.anneal)

    def initial(self, weights: Sequence[Selection]) -> Sets:
        codes = []
        for weight in weights:
            view = _view_of(weight)
            seed = stream(weight, tf.constant(0, tf.int64), _FIRST)
            keys = tf.reshape(random_keys(view.rows * view.cols, seed), [view.rows, -1])
            fan_in = _fan_in(weight, view, tf.constant(view.cols))
            codes.append(self._codes(_largest_of_each(keys, fan_in), weight, view))
        return Sets(codes, tf.constant(True))

    def reselect(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        codes = []
        for weight in weights:
            view = _view_of(weight)
            keys = _matrix(magnitude_keys(weight.theta), weight, view)
            fan_in = _fan_in(weight, view, tf.constant(view.cols))
            codes.append(self._codes(_largest_of_each(keys, fan_in), weight, view))
        finite = [~has_nan(magnitude_keys(weight.theta)) for weight in weights]
        return Sets(codes, tf.reduce_all(tf.stack(finite)))

    def counts(
        self, units: int, kept_forward: int, kept_backward: int, step: int
    ) -> tuple[int, int] | None:
        return None

    def _update_one(
        self, weight: Selection, step: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, Reset]:
        view, fraction = _view_of(weight), self._fraction.at(step)
        active = active_of(weight)
        theta = magnitude_keys(self.drop_scores(weight, active, step))
        gradient = magnitude_keys(gradient_of(weight))
        inside = _matrix(active, weight, view)
        alive = self._alive(weight, active, theta, gradient, inside, fraction)
        fan_in = _fan_in(weight, view, tf.reduce_sum(tf.cast(alive, tf.int32)))
        by_theta = _matrix(ranked(active, theta), weight, view)
        kept = _largest_of_each(by_theta, fan_in - share_of(fan_in, fraction))
        kept &= inside & alive
        missing = tf.where(alive, fan_in - _of_each(kept), 0)
        by_gradient = _matrix(ranked(tf.ones_like(active), gradient), weight, view)
        grown = _largest_of_each(tf.where(kept, 0, by_gradient), missing) & ~kept
        mask = kept | grown
        codes = self._codes(mask, weight, view)
        reset = Reset(
            view.from_matrix(mask & ~inside),
            self.new_values(weight, step),
            self.new_slots(weight),
        )
        return codes, self.is_finite(weight), reset

    def _alive(
        self,
        weight: Selection,
        active: tf.Tensor,
        theta: tf.Tensor,
        gradient: tf.Tensor,
        inside: tf.Tensor,
        fraction: tf.Tensor,
    ) -> tf.Tensor:
        """Which outputs have entries after the update: boolean ``[outputs]``."""
        alive = _of_each(inside) > 0
        if not self.ablation:
            return alive
        moved = share_of(weight.kept_forward, fraction)
        held = tf.reduce_sum(tf.cast(active, tf.int32))
        few = tf.maximum(held - moved, 0)
        [by_theta] = selection.largest([ranked(active, theta)], few)
        outside = tf.size(active) - held
        by_gradient = selection.largest(
            [ranked(~active, gradient)], tf.minimum(moved, outside)
        )[0]
        salient = _of_each(_matrix(by_theta | by_gradient, weight, _view_of(weight)))
        fan_in = tf.reduce_max(_of_each(inside))
        least = self.ablation * tf.cast(fan_in, tf.float32)
        left = alive & (tf.cast(salient, tf.float32) >= least)
        # The most salient one stays, should all of them be below.
        best = tf.argmax(tf.where(alive, salient, -1))
        alone = tf.one_hot(best, tf.size(salient), True, False)
        return tf.where(tf.reduce_any(left), left, alone)

    @staticmethod
    def _codes(mask: tf.Tensor, weight: Selection, view: MatrixView) -> tf.Tensor:
        return codes_of(tf.reshape(view.from_matrix(mask), [-1]), weight)


def _view_of(weight: Selection) -> MatrixView:
    return weight.view or MatrixView(tuple(weight.theta.shape))


def _matrix(flat: tf.Tensor, weight: Selection, view: MatrixView) -> tf.Tensor:
    """Flat values of a weight as its matrix, inputs x outputs."""
    return view.to_matrix(tf.reshape(flat, weight.theta.shape))


def _fan_in(weight: Selection, view: MatrixView, outputs: tf.Tensor) -> tf.Tensor:
    """F, the entries that each of so many outputs has of the planned ones."""
    kept = tf.cast(weight.kept_forward, tf.int32)
    fan_in = kept // tf.maximum(tf.cast(outputs, tf.int32), 1)
    return tf.clip_by_value(fan_in, 1, view.rows)


def _of_each(mask: tf.Tensor) -> tf.Tensor:
    """How many entries each output has: int32 ``[outputs]``."""
    return tf.reduce_sum(tf.cast(mask, tf.int32), 0)


def _largest_of_each(keys: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """The mask of so many largest keys of each column; ties go to the lower index."""
    order = tf.argsort(keys, axis=0, direction="DESCENDING", stable=True)
    ranks = tf.argsort(order, axis=0, stable=True)
    return ranks < count
