"""The base of methods that drop active entries and grow others, by updates."""

import dataclasses
import re
from collections.abc import Sequence
from typing import ClassVar

import tensorflow as tf

from topkast_tf.core import selection
from topkast_tf.core.keys import has_nan, magnitude_keys, random_keys
from topkast_tf.core.schedules import (
    DropFraction,
    UpdateSchedule,
    check_total_steps,
    resolved_end,
    within_training,
)
from topkast_tf.core.sets import FORWARD, masked
from topkast_tf.methods.base import (
    GRADIENT,
    ZERO,
    Products,
    Reset,
    Selection,
    Sets,
)
from topkast_tf.methods.fixed_sparsity import FixedSparsity, codes_of

NOISE, GROWN, VALUES = range(1, 4)
"""The uses of random numbers; each use has its own stream."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DropGrow(FixedSparsity):
    """Keeps the best active entries at an update, and grows as many as are missing.

    With A the active entries, and scores of which the method says what they are::

        kept  = the active entries with the largest drop scores
        grown = of the entries not kept, those with the largest growth keys
        A     = kept and grown;   theta = 0 and optimizer slots = 0 for new entries

    An entry that is dropped and grown again in one update is not new: it keeps its value
    and its slots. A dropped entry keeps its value in theta until it is grown again. The
    update runs after the optimizer's step.

    Attributes:
      update_every: in optimizer steps.
      update_from: the first step at which an update may occur.
      update_until: the last one: a step, a fraction of `total_steps` in (0, 1], or None
        for no end.
      total_steps: the length of training, in steps; needed for a fraction. If it is known,
        no update follows the last step, which would grow entries that are never trained.
      grow_init: values of new entries: ``"zeros"``; ``"random_normal_d"``, with theta's
        standard deviation / d; ``"random_uniform_d"``, up to theta's mean magnitude / d.
      noise: standard deviation of the noise added to the magnitudes to break ties.

    Others as in `FixedSparsity`.
    """

    resets: ClassVar[bool] = True  # type: ignore[misc]

    update_every: int = 100
    update_from: int = 0
    update_until: int | float | None = None
    total_steps: int | None = None
    grow_init: str = "zeros"
    noise: float = 1e-5

    _grow_inits: ClassVar[tuple[str, ...]] = (
        "zeros",
        "random_normal",
        "random_uniform",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        named = str(self.grow_init)
        kind, divisor = grow_kind(named), grow_divisor(named)
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
        check_total_steps(self.total_steps)
        UpdateSchedule(self.update_every, self.update_from)  # validates
        _ = self.last_update

    @property
    def last_update(self) -> int | None:
        """The last step at which an update may occur; None for no end."""
        return resolved_end(self.update_until, self.total_steps)

    def annealed(
        self, initial: float, anneal: str = "cosine", final: float = 0.0
    ) -> DropFraction:
        """A drop fraction over the updates, as in `DropFraction`."""
        return DropFraction(initial, anneal, self.update_from, self.last_update, final)

    @property
    def schedule(self) -> UpdateSchedule:  # type: ignore[override]
        # The update follows a step, so the earliest one follows step 1.
        first = self.update_from
        return UpdateSchedule(
            self.update_every,
            first if self.replaces_step else max(first, 1),
            within_training(self.last_update, self.total_steps),
        )

    @property
    def thresholds_an_update(self) -> int:
        return 2  # of what is dropped, and of what is grown

    def mean_products(self, fwd: float, bwd: float) -> Products:
        if GRADIENT not in self.inputs:
            return Products(fwd, fwd, bwd)
        if self.total_steps is None:
            share = 1 / self.update_every
        else:
            share = self.schedule.count_before(self.total_steps) / self.total_steps
        return Products(fwd, fwd, bwd * (1 - share))

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
        active = active_of(weight)
        kept, missing = self.kept(weight, active, step)
        return self.regrown(weight, active, kept, missing, step)

    def regrown(
        self,
        weight: Selection,
        active: tf.Tensor,
        kept: tf.Tensor,
        missing: tf.Tensor,
        step: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, Reset]:
        """The codes with as many grown entries as are missing, and what is reset."""
        grow_keys = self.grow_keys(weight, step)
        [grown] = selection.largest([ranked(~kept, grow_keys)], missing)
        shape = tf.shape(weight.theta)
        reset = Reset(
            tf.reshape(grown & ~active, shape),
            self.new_values(weight, step),
            self.new_slots(weight),
        )
        return codes_of(kept | grown, weight), self.is_finite(weight), reset

    def kept(
        self, weight: Selection, active: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The mask of kept entries, and the number of entries to grow.

        Args:
          weight: the weight.
          active: boolean, flat: A.
          step: integer scalar.
        """
        raise NotImplementedError

    def drop_scores(
        self, weight: Selection, active: tf.Tensor, step: tf.Tensor
    ) -> tf.Tensor:
        """|theta| on A with noise, 0 elsewhere: float32, flat."""
        theta = tf.reshape(tf.cast(weight.theta, tf.float32), [-1])
        scores = tf.abs(masked(theta, active))
        if not self.noise:
            return scores
        noise = tf.random.stateless_normal(
            tf.shape(scores), stream(weight, step, NOISE), 0.0, self.noise, alg="philox"
        )
        # NaN stays NaN, which is detected and reported.
        return tf.nn.relu(scores + noise)

    def grow_keys(self, weight: Selection, step: tf.Tensor) -> tf.Tensor:
        """Flat keys of all entries; the largest among those not kept are grown."""
        size = weight.theta.shape.num_elements()
        return random_keys(size, stream(weight, step, GROWN))

    def is_finite(self, weight: Selection) -> tf.Tensor:
        """Whether neither theta nor an input of the method is NaN."""
        given = (weight.theta, weight.gradient, weight.momentum)
        finite = [~has_nan(magnitude_keys(x)) for x in given if x is not None]
        return tf.reduce_all(tf.stack(finite))

    def new_values(self, weight: Selection, step: tf.Tensor) -> tf.Tensor | int:
        """The values of new entries: `Reset.theta`."""
        theta = tf.cast(weight.theta, tf.float32)
        kind, divisor = grow_kind(self.grow_init), grow_divisor(self.grow_init)
        seed = stream(weight, step, VALUES)
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
        return ZERO

    def new_slots(self, weight: Selection) -> tf.Tensor | int | None:
        """The slots of new entries: `Reset.slots`."""
        return ZERO


def active_of(weight: Selection) -> tf.Tensor:
    """A as a flat boolean mask."""
    return tf.equal(tf.reshape(weight.sets, [-1]), FORWARD)


def ranked(among: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Keys in which all other entries rank below these, including those with key 0."""
    return tf.where(among, tf.minimum(keys, 2**31 - 2) + 1, 0)


def share_of(count: tf.Tensor, fraction: tf.Tensor) -> tf.Tensor:
    """A fraction of a count, rounded down, in float32."""
    return tf.cast(tf.cast(count, tf.float32) * fraction, tf.int32)


def stream(weight: Selection, step: tf.Tensor, use: int) -> tf.Tensor:
    """The seed of one use of random numbers, of a weight at a step."""
    # Steps take fewer than 40 of the 64 bits; the use goes above them.
    return tf.stack([weight.seed, tf.cast(step, tf.int64) + use * 2**40])


def gradient_of(weight: Selection) -> tf.Tensor:
    """The dense gradient, for a method that requests it."""
    return tf.convert_to_tensor(weight.gradient)


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
