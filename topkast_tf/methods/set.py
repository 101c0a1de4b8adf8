"""SET: drops the smallest active entries and grows the same number at random."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from topkast_tf.core import selection
from topkast_tf.core.keys import magnitude_keys
from topkast_tf.core.schedules import DropFraction
from topkast_tf.methods.base import Selection
from topkast_tf.methods.drop_grow import DropGrow, ranked, share_of
from topkast_tf.methods.registry import register

DROPS = ("magnitude", "signs")


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class SET(DropGrow):
    """Sparse evolutionary training (Mocanu et al. 2018).

    At an update, with A the k active entries and f_t the drop fraction::

        n     = floor(k f_t)
        kept  = the k - n largest of |theta| on A (plus noise)
        grown = n of the entries not kept, sampled uniformly
        A     = kept and grown;   theta = 0 and optimizer slots = 0 for new entries

    An entry that is dropped and grown again in one update is not new: it keeps its value
    and its slots. A dropped entry keeps its value in theta until it is grown again. The
    update runs after the optimizer's step.

    Attributes:
      drop_fraction: f, in (0, 1).
      anneal: the schedule of f_t (`DropFraction`): ``"constant"``, ``"cosine"``
        or ``"exponential_k"``.
      final_drop_fraction: where the cosine ends, in [0, f].
      drop: ``"magnitude"``, as above; ``"signs"``: the fraction f_t (rounded down) of
        the positive and of the negative entries that is nearest to zero, as in the paper;
        entries of value 0 count as negative.

    Others as in `DropGrow`.

    >>> import keras
    >>> from topkast_tf import sparse_scope
    >>> with sparse_scope("set", sparsity=0.9, update_every=100, update_until=25_000):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])

    Source: `SparseSETOptimizerBase` of google-research/rigl, whose defaults these are,
    but for the end: its experiments stop updates after about three quarters of training,
    and here they go on unless `update_until` says so. The paper (Nature Communications
    2018) updates after each epoch. Departs from the code also in the random numbers, in
    that a score made negative by noise counts as zero, and in that an inactive entry is
    never kept. In the code, one may take the place of an active entry of value 0, and
    becomes active with its old value.
    """

    name: ClassVar[str] = "set"

    drop_fraction: float = 0.3
    anneal: str = "constant"
    final_drop_fraction: float = 0.0
    drop: str = "magnitude"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drop not in DROPS:
            raise ValueError(
                f"`drop` must be one of {list(DROPS)}. Received: drop={self.drop!r}"
            )
        _ = self._fraction

    @property
    def _fraction(self) -> DropFraction:
        return self.annealed(self.drop_fraction, self.anneal, self.final_drop_fraction)

    def kept(
        self, weight: Selection, active: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        keys = magnitude_keys(self.drop_scores(weight, active, step))
        fraction = self._fraction.at(step)
        if self.drop == "magnitude":
            dropped = share_of(weight.kept_forward, fraction)
            left = weight.kept_forward - dropped
            [kept] = selection.largest([ranked(active, keys)], left)
            return kept, dropped
        positive = tf.reshape(weight.theta, [-1]) > 0
        kept, dropped = [], []
        for of_sign in (active & positive, active & ~positive):
            count = tf.reduce_sum(tf.cast(of_sign, tf.int32))
            dropped.append(share_of(count, fraction))
            kept += selection.largest([ranked(of_sign, keys)], count - dropped[-1])
        return kept[0] | kept[1], tf.add_n(dropped)
