"""AC/DC: phases of compressed and of dense training in turns."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import tensorflow as tf

from topkast_tf.core import selection
from topkast_tf.core.sets import FORWARD
from topkast_tf.methods.base import ZERO, Products, Reset, Selection, Sets
from topkast_tf.methods.one_mask import OneMask
from topkast_tf.methods.registry import register


@dataclasses.dataclass(frozen=True)
class Phases:
    """Dense until W; then compressed and dense phases of P steps in turns; then an end.

    ``compressed(t) = t >= F or (W <= t < D and floor((t - W) / P) is even)``.

    Attributes:
      warm_up: W, the first compressed step, at least 1.
      phase: P, steps of a phase, at least 1.
      last_dense: D, the begin of the last dense phase, at least W.
      last_compressed: F, the begin of the last compressed phase, above D.

    >>> phases = Phases(warm_up=10, phase=5, last_dense=75, last_compressed=85)
    >>> [t for t in range(100) if phases.due(t)]
    [10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 85]
    >>> [phases.compresses(t) for t in (9, 10, 15, 74, 75, 85)]
    [False, True, False, True, False, True]
    """

    warm_up: int
    phase: int
    last_dense: int
    last_compressed: int

    def __post_init__(self) -> None:
        if not 1 <= self.phase or not 1 <= self.warm_up <= self.last_dense:
            raise ValueError(
                "Expected a warm-up and phases of at least 1 step, that begin before the "
                f"last dense one. Received: {self}"
            )
        if not 0 <= self.last_dense < self.last_compressed:
            raise ValueError(
                "Expected the last compressed phase after the last dense one. "
                f"Received: {self}"
            )

    @property
    def every(self) -> int:
        """Steps between two changes of the sets."""
        return self.phase

    def due(self, step: Any) -> Any:
        """Whether a phase begins at this step."""
        # Inequalities only: in a TensorFlow 1 graph `==` compares objects.
        in_turns = (step >= self.warm_up) & (step < self.last_dense)
        begins = in_turns & ((step - self.warm_up) % self.phase < 1)
        for begin in (self.last_dense, self.last_compressed):
            begins |= (step >= begin) & (step <= begin)
        return begins

    def compresses(self, step: Any) -> Any:
        """Whether this step is of a compressed phase."""
        in_turns = (step >= self.warm_up) & (step < self.last_dense)
        is_even = (step - self.warm_up) // self.phase % 2 < 1
        return (step >= self.last_compressed) | (in_turns & is_even)

    def compressed_steps(self, steps: int) -> int:
        """How many of the steps 0, ..., steps - 1 are of compressed phases.

        >>> Phases(10, 5, 75, 85).compressed_steps(100)
        50
        """
        end = min(steps, self.last_dense)
        full, rest = divmod(max(0, end - self.warm_up), 2 * self.phase)
        in_turns = full * self.phase + min(rest, self.phase)
        return in_turns + max(0, steps - self.last_compressed)


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class ACDC(OneMask):
    """Alternating compressed and decompressed training (Peste et al. 2021).

    In a compressed phase A = B holds the largest of |theta| at its begin; the other entries
    are set to zero there, and not updated. In a dense phase A = B is everything::

        A_t = top_s(|theta|) at the begin of the phase    in a compressed phase
              all entries                                 in a dense phase
        theta = 0 outside A                               at the begin of a compressed phase

    Training begins dense and ends compressed. Slots outside A see a gradient of zero, and
    go on when a dense phase begins. The authors' masks are global
    (``distribution="global"``), with first and last layer; "uniform" is theirs, too.

    State: none but theta and the sets. The densest moment of a run is a dense phase.

    Attributes:
      sparsity: s, in [0, 1).
      total_steps: the length of training, in steps.
      warm_up: the fraction of it before the first compressed phase, in (0, 1).
      phase: the fraction that a phase takes, in (0, 1).
      last_dense_from: where the last dense phase begins, a fraction.
      last_compressed_from: where the last compressed phase begins, a fraction.

    Raises:
      ValueError: for a sparsity or fractions out of range or order, or phases that are
        shorter than a step.

    >>> import keras
    >>> from topkast_tf import sparse_scope
    >>> with sparse_scope("acdc", sparsity=0.9, distribution="global",
    ...                   total_steps=10_000):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])

    Source: configurations of the authors' code for ImageNet: of 100 epochs 10 are a
    warm-up, phases take 5, the last dense one is 75 to 85. Momentum is kept there, too
    (`reset_momentum_after_recycling` is false).
    """

    name: ClassVar[str] = "acdc"
    varying_counts: ClassVar[bool] = True  # type: ignore[misc]
    resets: ClassVar[bool] = True  # type: ignore[misc]

    total_steps: int | None = None
    warm_up: float = 0.1
    phase: float = 0.05
    last_dense_from: float = 0.75
    last_compressed_from: float = 0.85

    def __post_init__(self) -> None:
        super().__post_init__()
        steps = self.total_steps
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
            raise ValueError(
                "Expected `total_steps`, the number of optimizer steps of the training, of "
                f"which phases are fractions. Received: total_steps={steps!r}"
            )
        for argument in ("warm_up", "phase", "last_dense_from", "last_compressed_from"):
            share = getattr(self, argument)
            if not isinstance(share, float | int) or not 0 <= share < 1:
                raise ValueError(
                    f"`{argument}` must be a fraction of the training, in [0, 1). "
                    f"Received: {argument}={share!r}"
                )
        _ = self.schedule  # validates the order

    @property
    def schedule(self) -> Phases:  # type: ignore[override]
        steps = self.total_steps or 0
        return Phases(
            round(self.warm_up * steps),
            round(self.phase * steps),
            round(self.last_dense_from * steps),
            round(self.last_compressed_from * steps),
        )

    def update(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        thetas = [weight.theta for weight in weights]
        kept = tf.add_n([tf.cast(weight.kept_forward, tf.int32) for weight in weights])
        found, finite = selection.nested_sets_by_magnitude(thetas, kept, kept)
        compresses = self.schedule.compresses(step)
        codes = [tf.where(compresses, code, FORWARD) for code in found]
        resets = [Reset(tf.not_equal(code, FORWARD), ZERO, None) for code in codes]
        return Sets(codes, finite, resets=resets)

    def initial(self, weights: Sequence[Selection]) -> Sets:
        return super().initial(weights)._replace(resets=None)

    def counts(
        self, units: int, kept_forward: int, kept_backward: int, step: int
    ) -> tuple[int, int] | None:
        kept = kept_forward if self.schedule.compresses(step) else units
        return kept, kept

    def mean_products(self, fwd: float, bwd: float) -> Products:
        steps = self.total_steps or 1
        mean = fwd * self.schedule.compressed_steps(steps) / steps
        return Products(mean, mean, mean)
