"""SET: drops the smallest active entries and grows the same number at random."""

import dataclasses
import re
from collections.abc import Sequence
from typing import ClassVar

import tensorflow as tf

from topkast_tf.core import selection
from topkast_tf.core.keys import has_nan, magnitude_keys, random_keys
from topkast_tf.core.schedules import DropFraction, UpdateSchedule, resolved_end
from topkast_tf.core.sets import FORWARD, masked
from topkast_tf.methods.base import Reset, Selection, Sets
from topkast_tf.methods.fixed_sparsity import FixedSparsity, codes_of
from topkast_tf.methods.registry import register

DROPS = ("magnitude", "signs")
_NOISE, _GROWN, _VALUES = range(1, 4)
"""The uses of random numbers; each use has its own stream."""


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class SET(FixedSparsity):
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
      update_every: in optimizer steps.
      update_from: the first step at which an update may occur.
      update_until: the last one: a step, a fraction of `total_steps` in (0, 1), or None
        for no end.
      total_steps: the length of training, in steps; needed for a fraction.
      anneal: the schedule of f_t (`DropFraction`): ``"constant"``, ``"cosine"``
        or ``"exponential_k"``.
      drop: ``"magnitude"``, as above; ``"signs"``: the fraction f_t (rounded down) of
        the positive and of the negative entries that is nearest to zero, as in the paper;
        entries of value 0 count as negative.
      grow_init: values of new entries: ``"zeros"``; ``"random_normal_d"``, with theta's
        standard deviation / d; ``"random_uniform_d"``, up to theta's mean magnitude / d.
      noise: standard deviation of the noise added to the magnitudes to break ties.

    Others as in `FixedSparsity`.

    >>> import keras
    >>> from topkast_tf import sparse_scope
    >>> with sparse_scope("set", sparsity=0.9, update_every=100, update_until=25_000):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])

    Source: `SparseSETOptimizerBase` of google-research/rigl, whose defaults these are;
    the paper (Nature Communications 2018) updates after each epoch. Departs from the code
    in the random numbers, in that a score made negative by noise counts as zero, and in
    that an inactive entry is never kept. In the code, one may take the place of an active
    entry of value 0, and becomes active with its old value.
    """

    name: ClassVar[str] = "set"
    resets: ClassVar[bool] = True  # type: ignore[misc]

    drop_fraction: float = 0.3
    update_every: int = 100
    update_from: int = 0
    update_until: int | float | None = None
    total_steps: int | None = None
    anneal: str = "constant"
    drop: str = "magnitude"
    grow_init: str = "zeros"
    noise: float = 1e-5

    _grow_inits: ClassVar[tuple[str, ...]] = (
        "zeros",
        "random_normal",
        "random_uniform",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drop not in DROPS:
            raise ValueError(
                f"`drop` must be one of {list(DROPS)}. Received: drop={self.drop!r}"
            )
        kind, divisor = grow_kind(self.grow_init), grow_divisor(self.grow_init)
        zeros_divided = kind == "zeros" != self.grow_init
        if kind not in self._grow_inits or zeros_divided or divisor == 0:
            raise ValueError(
                f"`grow_init` must be one of {list(self._grow_inits)}, all but zeros "
                f"also with a divisor, as in 'random_normal_10'. "
                f"Received: grow_init={self.grow_init!r}"
            )
        if not isinstance(self.noise, float | int) or not 0 <= self.noise < 1:
            raise ValueError(
                f"`noise` must be a number in [0, 1). Received: noise={self.noise!r}"
            )
        if self.total_steps is not None and not self.total_steps > 0:
            raise ValueError(
                "`total_steps` must be a positive number of steps. "
                f"Received: total_steps={self.total_steps!r}"
            )
        UpdateSchedule(self.update_every, self.update_from)  # validates
        _ = self._fraction

    @property
    def _end(self) -> int | None:
        return resolved_end(self.update_until, self.total_steps)

    @property
    def schedule(self) -> UpdateSchedule:  # type: ignore[override]
        # The update follows a step, so the earliest one follows step 1.
        first = self.update_from
        return UpdateSchedule(
            self.update_every, first if self.replaces_step else max(first, 1), self._end
        )

    @property
    def _fraction(self) -> DropFraction:
        return DropFraction(
            self.drop_fraction, self.anneal, self.update_from, self._end
        )

    def update(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        found = [self._update_one(weight, step) for weight in weights]
        codes, finite, resets = zip(*found, strict=True)
        thresholds = [step + 1] * len(weights) if self.replaces_step else None
        finite = tf.reduce_all(tf.stack(finite))
        return Sets(list(codes), finite, thresholds, resets=list(resets))

    def calls(self, step: int, threshold: int) -> int:
        if not self.replaces_step:
            return step
        return (
            step + self.schedule.count_before(step) + self.was_updated(step, threshold)
        )

    def _update_one(
        self, weight: Selection, step: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, Reset]:
        active = tf.equal(tf.reshape(weight.sets, [-1]), FORWARD)
        drop_scores = self._drop_scores(weight, active, step)
        kept, dropped = self._kept(weight, active, drop_scores, step)
        grow_keys = self._grow_keys(weight, step)
        [grown] = selection.largest([_ranked(~kept, grow_keys)], dropped)
        shape = tf.shape(weight.theta)
        reset = Reset(
            tf.reshape(grown & ~active, shape),
            tf.cast(self._new_values(weight, step), weight.theta.dtype),
            self._new_slots(weight),
        )
        return codes_of(kept | grown, weight), self._is_finite(weight), reset

    def _drop_scores(
        self, weight: Selection, active: tf.Tensor, step: tf.Tensor
    ) -> tf.Tensor:
        theta = tf.reshape(tf.cast(weight.theta, tf.float32), [-1])
        scores = tf.abs(masked(theta, active))
        if not self.noise:
            return scores
        noise = tf.random.stateless_normal(
            tf.shape(scores), _seed(weight, step, _NOISE), 0.0, self.noise, alg="philox"
        )
        # NaN stays NaN, which is detected and reported.
        return tf.where(scores + noise < 0, tf.zeros_like(scores), scores + noise)

    def _kept(
        self,
        weight: Selection,
        active: tf.Tensor,
        scores: tf.Tensor,
        step: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The mask of kept entries, and the number of dropped ones."""
        fraction = self._fraction.at(step)
        keys = magnitude_keys(scores)
        if self.drop == "magnitude":
            dropped = _share(weight.kept_forward, fraction)
            left = weight.kept_forward - dropped
            [kept] = selection.largest([_ranked(active, keys)], left)
            return kept, dropped
        positive = tf.reshape(weight.theta, [-1]) > 0
        kept, dropped = tf.zeros_like(active), tf.constant(0)
        for of_sign in (active & positive, active & ~positive):
            count = tf.reduce_sum(tf.cast(of_sign, tf.int32))
            gone = _share(count, fraction)
            kept |= selection.largest([_ranked(of_sign, keys)], count - gone)[0]
            dropped += gone
        return kept, dropped

    def _grow_keys(self, weight: Selection, step: tf.Tensor) -> tf.Tensor:
        """Flat keys of all entries; the largest among those not kept are grown."""
        size = weight.theta.shape.num_elements()
        return random_keys(size, _seed(weight, step, _GROWN))

    def _is_finite(self, weight: Selection) -> tf.Tensor:
        return ~has_nan(magnitude_keys(weight.theta))

    def _new_values(self, weight: Selection, step: tf.Tensor) -> tf.Tensor:
        theta = tf.cast(weight.theta, tf.float32)
        kind, divisor = grow_kind(self.grow_init), grow_divisor(self.grow_init)
        seed = _seed(weight, step, _VALUES)
        if kind == "random_normal":
            deviation = tf.math.reduce_std(theta) / divisor
            return deviation * tf.random.stateless_normal(
                tf.shape(theta), seed, alg="philox"
            )
        if kind == "random_uniform":
            most = tf.reduce_mean(tf.abs(theta)) / divisor
            return most * tf.random.stateless_uniform(
                tf.shape(theta), seed, -1.0, 1.0, alg="philox"
            )
        return tf.zeros_like(theta)

    def _new_slots(self, weight: Selection) -> tf.Tensor:
        return tf.zeros_like(weight.theta)


def _ranked(among: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Keys in which all other entries rank below these, including those with key 0."""
    return tf.where(among, tf.minimum(keys, 2**31 - 2) + 1, 0)


def _share(count: tf.Tensor, fraction: tf.Tensor) -> tf.Tensor:
    """A fraction of a count, rounded down, in float32."""
    return tf.cast(tf.cast(count, tf.float32) * fraction, tf.int32)


def _seed(weight: Selection, step: tf.Tensor, use: int) -> tf.Tensor:
    # Steps take fewer than 40 of the 64 bits; the use goes above them.
    return tf.stack([weight.seed, tf.cast(step, tf.int64) + use * 2**40])


def grow_kind(grow_init: str) -> str:
    """The kind: the name without the divisor.

    >>> grow_kind("random_normal_10"), grow_kind("grad_sign")
    ('random_normal', 'grad_sign')
    """
    return re.sub(r"_\d+(\.\d+)?$", "", grow_init)


def grow_divisor(grow_init: str) -> float:
    """The divisor at the end, or 1.

    >>> grow_divisor("random_normal_10"), grow_divisor("zeros")
    (10.0, 1.0)
    """
    found = re.search(r"_(\d+(?:\.\d+)?)$", grow_init)
    return float(found[1]) if found else 1.0
