"""RigL: SET with growth where the gradient is largest."""

import dataclasses
import math
from typing import ClassVar

import tensorflow as tf

from topkast_tf.core.keys import magnitude_keys
from topkast_tf.methods.base import GRADIENT, Selection
from topkast_tf.methods.drop_grow import gradient_of, grow_divisor, grow_kind
from topkast_tf.methods.registry import register
from topkast_tf.methods.set import SET


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class RigL(SET):
    """Rigging the Lottery (Evci et al. 2020): `SET` with growth by gradient.

    ``grown = the n largest of |dL/dalpha| among the entries not kept``, with the dense
    gradient of the current network on one batch. An update replaces the optimizer's
    step: the batch of that call changes no parameter (`update_replaces_step`).

    Attributes:
      update_until: the last update: a step, or a fraction of `total_steps`; in the source
        about 0.75.
      anneal: by default ``"cosine"``.
      grow_init: also ``"grad_scale_d"``, the gradient / d, and ``"grad_sign_d"``, its
        sign / d.
      slot_scale: the optimizer slots of new entries are set to this times the gradient.
      update_replaces_step: if false, the optimizer's step is taken as well, before the
        update, which uses the gradient from before that step.

    Others as in `SET`.

    >>> import keras
    >>> from topkast_tf import sparse_scope
    >>> with sparse_scope("rigl", sparsity=0.9, distribution="erk", total_steps=32_000):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])

    Source: `SparseRigLOptimizerBase` of google-research/rigl; the defaults of
    `update_until` and `anneal` are those of the paper (ICML 2020). Departs from the code
    as `SET` does.
    """

    name: ClassVar[str] = "rigl"
    inputs: ClassVar[tuple[str, ...]] = (GRADIENT,)  # type: ignore[misc]

    update_until: int | float | None = 0.75
    anneal: str = "cosine"
    slot_scale: float = 0.0
    update_replaces_step: bool = True

    _grow_inits: ClassVar[tuple[str, ...]] = (
        *SET._grow_inits,
        "grad_scale",
        "grad_sign",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.slot_scale, float | int) or not math.isfinite(
            self.slot_scale
        ):
            raise ValueError(
                "`slot_scale` must be a finite number. "
                f"Received: slot_scale={self.slot_scale!r}"
            )
        if not isinstance(self.update_replaces_step, bool):
            raise ValueError(
                "`update_replaces_step` must be True or False. "
                f"Received: update_replaces_step={self.update_replaces_step!r}"
            )

    @property
    def replaces_step(self) -> bool:  # type: ignore[override]
        return self.update_replaces_step

    def grow_keys(self, weight: Selection, step: tf.Tensor) -> tf.Tensor:
        return magnitude_keys(gradient_of(weight))

    def new_values(self, weight: Selection, step: tf.Tensor) -> tf.Tensor | int:
        kind, divisor = grow_kind(self.grow_init), grow_divisor(self.grow_init)
        if kind == "grad_scale":
            return gradient_of(weight) / divisor
        if kind == "grad_sign":
            return tf.sign(gradient_of(weight)) / divisor
        return super().new_values(weight, step)

    def new_slots(self, weight: Selection) -> tf.Tensor | int | None:
        if not self.slot_scale:
            return super().new_slots(weight)
        return gradient_of(weight) * self.slot_scale
