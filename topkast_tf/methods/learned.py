"""The bases of methods whose sparsity, or whose thresholds, the optimizer trains."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import tensorflow as tf

from topkast_tf.core.blocks import MatrixView
from topkast_tf.core.keys import has_nan, magnitude_keys
from topkast_tf.core.schedules import RefreshSchedule
from topkast_tf.core.sets import BACKWARD_ONLY, FORWARD
from topkast_tf.core.sparsities import validate_sparsities
from topkast_tf.methods.base import Method, Selection, Sets, TrainedVariable

THRESHOLD = "threshold"
"""Name of the trained variable."""
MEAN_DENSITY = "mean_density"
"""Name of a variable: the forward density, averaged over all steps so far."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindsSparsity(Method):
    """Alpha is a function of theta and of variables that are trained with it.

    Every entry is updated (B is everything). The sparsity is what training makes it.
    Products are computed with masks.

    Attributes:
      sparsity: the forward sparsity that is expected, in [0, 1): for plans alone.
    """

    distributions: ClassVar[tuple[str, ...] | None] = ("uniform",)
    computes_alpha: ClassVar[bool] = True  # type: ignore[misc]
    dense_updates: ClassVar[bool] = True  # type: ignore[misc]
    varying_counts: ClassVar[bool] = True  # type: ignore[misc]
    finds_sparsity: ClassVar[bool] = True  # type: ignore[misc]

    sparsity: float = 0.0

    def __post_init__(self) -> None:
        validate_sparsities(self.sparsity, 0.0)

    @property
    def fwd(self) -> float:  # type: ignore[override]
        return self.sparsity

    @property
    def bwd(self) -> float:  # type: ignore[override]
        return 0.0

    @property
    def schedule(self) -> RefreshSchedule:
        return RefreshSchedule(1)

    def selection_operations(self, view: MatrixView) -> float:
        return math.prod(
            view.shape
        )  # compared with a threshold or with zero, in each step

    def counts(
        self, units: int, kept_forward: int, kept_backward: int, step: int
    ) -> tuple[int, int] | None:
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learned(FindsSparsity):
    """``A = {i: |theta_i| > t}`` after each step, with a trained threshold t.

    No schedule says how dense a run was, so each weight keeps the mean of its density over
    the steps, for counted FLOPs.

    Attributes:
      sparsity: as in `FindsSparsity`.
    """

    def threshold(self, trained: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """t, in a shape that broadcasts to theta's."""
        raise NotImplementedError

    def thresholds(self, view: MatrixView) -> Mapping[str, TrainedVariable]:
        """The trained variables that t follows from."""
        raise NotImplementedError

    def trained_variables(self, view: MatrixView) -> Mapping[str, TrainedVariable]:
        mean = TrainedVariable((), 1.0, trainable=False, dtype="float32")
        return {**self.thresholds(view), MEAN_DENSITY: mean}

    def selected(self, weights: Sequence[Selection]) -> Sets:
        """The sets of the current thetas and thresholds."""
        codes, finite = [], []
        for weight in weights:
            theta = tf.convert_to_tensor(weight.theta)
            threshold = tf.cast(self.threshold(weight.trained), theta.dtype)
            inside = tf.abs(theta) > threshold
            codes.append(BACKWARD_ONLY + tf.cast(inside, tf.uint8))
            finite.append(~has_nan(magnitude_keys(theta)))
            finite.append(~has_nan(magnitude_keys(threshold)))
        return Sets(codes, tf.reduce_all(tf.stack(finite)))

    def initial(self, weights: Sequence[Selection]) -> Sets:
        return self.selected(weights)

    def reselect(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        return self.selected(weights)

    def update(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        found = self.selected(weights)
        trained = []
        for i, weight in enumerate(weights):
            # The current sets are those of the step that ends: of steps 0, ..., t - 1.
            inside = tf.cast(tf.equal(weight.sets, FORWARD), tf.float32)
            mean = weight.trained[MEAN_DENSITY]
            mean += (tf.reduce_mean(inside) - mean) / tf.cast(step, tf.float32)
            of_selection = found.trained[i] if found.trained else {}
            trained.append({**of_selection, MEAN_DENSITY: mean})
        return found._replace(trained=trained)
