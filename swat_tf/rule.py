"""SWAT's products in Keras layers: saved activations and their thresholds."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import tensorflow as tf

from swat_tf import packing, relu, topk
from swat_tf.bilinear import sparse_product
from swat_tf.method import SWAT, TopKSchedule
from swat_tf.recipe import OPERANDS, Recipe, validate_period_of, validate_sparsity
from topkast_tf.core.kth_largest import HISTOGRAMS
from topkast_tf.core.sets import FORWARD
from topkast_tf.layers.product_rule import AuxiliaryVariable, ProductRule, register_rule
from topkast_tf.layers.products import Product
from topkast_tf.variables.components import local_index
from topkast_tf.variables.counters import Counter
from topkast_tf.variables.hooks import dense_reads
from topkast_tf.variables.replica import WeightReplica

if TYPE_CHECKING:
    from topkast_tf.variables.weight import SparseWeight

STATE = "activations"
"""Name of an auxiliary variable, int64: (threshold key, entries kept, entries)."""


@register_rule
@dataclasses.dataclass(frozen=True)
class SparseBackward(ProductRule):
    """A layer's product with sparse operands in its backward pass, as in SWAT.

    Attributes: see `swat_tf.swat_scope`.
    """

    name: ClassVar[str] = "swat"

    sparsity: float
    activations: float | None = None
    topk_period: int = 1
    topk_period_of: str = "all"
    forward: tuple[str, ...] = ("weights",)
    backward: tuple[str, ...] = OPERANDS
    activations_per: str = "batch"
    errors: float = 0.0
    errors_per: str = "batch"
    storage: str = "dense"

    def __post_init__(self) -> None:
        recipe = self.recipe  # validates
        object.__setattr__(self, "forward", recipe.forward)
        object.__setattr__(self, "backward", recipe.backward)
        validate_sparsity("sparsity", self.sparsity)
        validate_period_of(self.topk_period_of)
        if self.activations is not None:
            validate_sparsity("activations", self.activations)

    @property
    def recipe(self) -> Recipe:
        """The sparse operands of each pass."""
        return Recipe(
            self.forward,
            self.backward,
            self.activations_per,
            self.errors,
            self.errors_per,
            self.storage,
        )

    def _period(self, weight: "SparseWeight") -> int:
        """The number of steps for which a layer's threshold for activations is used."""
        is_window = bool(weight.view.spatial_axes)
        periodic = self.topk_period_of == "all" or is_window
        return self.topk_period if periodic and self.activations_per == "batch" else 1

    @property
    def supports_jit(self) -> bool:  # type: ignore[override]
        return self.storage == "dense"

    @property
    def replaces_activations(self) -> bool:  # type: ignore[override]
        return self.storage == "packed"

    def check(self, weight: "SparseWeight") -> None:
        both = "weights" in self.forward and "weights" in self.backward
        if not isinstance(weight.method, SWAT) and not both:
            raise ValueError(
                "Expected weights that are sparse in both passes, as the scope of "
                f"{weight.method.name!r} makes them. Received: forward={self.forward}, "
                f"backward={self.backward} of `swat_scope`"
            )

    def auxiliary_variables(
        self, weight: "SparseWeight"
    ) -> Mapping[str, AuxiliaryVariable]:
        if "activations" not in self.forward + self.backward:
            return {}
        return {STATE: AuxiliaryVariable((3,), "int64")}

    def product_sparsities(self, weight: "SparseWeight") -> tuple[float, float, float]:
        sparse_w, sparse_a = weight.forward_sparsity, self.realised(weight)
        masked = weight.backward_sparsity
        densities = {"weights": 1 - sparse_w, "activations": 1 - sparse_a}

        def left(*operands: str) -> float:
            return math.prod(densities[operand] for operand in operands)

        error = 1 - self.errors
        return (
            1 - left(*self.forward),
            1 - error * left(*({"weights"} & set(self.backward))),
            1 - error * (1 - masked) * left(*({"activations"} & set(self.backward))),
        )

    def selection_operations(
        self, weight: "SparseWeight", inputs: int, outputs: int
    ) -> float:
        found = 0.0
        if "activations" in (*self.forward, *self.backward):
            # Compared in each step, with a new threshold or with the last one.
            found += inputs * (1 + HISTOGRAMS / self._period(weight))
        if self.errors:
            found += outputs * (1 + HISTOGRAMS)
        return found

    def saved_sparsity(self, weight: "SparseWeight") -> float | None:
        return self.sparsity_of(weight) if "activations" in self.backward else None

    def gradient_density(self, weight: "SparseWeight") -> float | None:
        if "weights" not in self.forward or "weights" not in self.backward:
            return None
        sparse = "activations" in self.backward
        return 1 - self.sparsity_of(weight) if sparse else 1.0

    def realised(self, weight: "SparseWeight") -> float:
        """The sparsity of the activations in the last step; nominal before the first."""
        if STATE in weight.auxiliary:
            _, kept, size = weight.replica().auxiliary_variable(STATE).numpy()
            if size:
                return float(1 - kept / size)
        return 0.0 if weight.exempt else self.sparsity_of(weight)

    def get_config(self) -> dict:
        return dataclasses.asdict(self)

    def activation(self, function: Callable) -> Callable:
        return relu.saving_a_mask(function) if self.storage == "packed" else function

    def __call__(
        self, product: Product, inputs: tf.Tensor, kernel: Any, weight: "SparseWeight"
    ) -> tf.Tensor:
        replica = weight.replica(local_index(weight.variable))
        alpha = tf.convert_to_tensor(kernel)
        inputs = tf.cast(inputs, alpha.dtype)
        packed = self.storage == "packed"
        changes: dict[str, Any] = {}

        saved = self._saved_weight(alpha, replica)
        if saved is not None:
            changes["saved_weight"] = saved

        masks: dict[str, tf.Tensor] = {}

        def mask_of(activation):
            masks["mask"] = mask = self._mask(activation, replica, masks)
            masks["size"] = tf.size(mask, tf.int64)
            return mask

        if "activations" in self.forward:
            changes["forward_activation"] = lambda a: topk.apply_mask(mask_of(a), a)
        if "activations" in self.backward:

            def save(activation):
                mask = masks.get("mask")
                mask = mask_of(activation) if mask is None else mask
                if packed:
                    kept = packing.pack(activation, mask)
                    # Not counted from the mask, which is to be freed here.
                    masks["kept"] = tf.size(kept.values, tf.int64)
                    return kept
                return topk.apply_mask(mask, activation)

            changes["saved_activation"] = save
        if self.errors:
            changes["error"] = lambda dy: topk.apply_mask(
                topk.mask_of(dy, self.errors, self.errors_per), dy
            )
        if self.auxiliary_variables(weight):
            # Without a gradient, nothing is stored.
            changes["after_gradient"] = lambda: self._remember(replica, masks)
        return sparse_product(product, inputs, alpha, **changes)

    def _saved_weight(
        self, alpha: tf.Tensor, replica: WeightReplica
    ) -> Callable[[tf.Tensor], Any] | None:
        """The weight in the input gradient, if it differs from that of the forward pass."""
        sparse = "weights" in self.backward
        forward = replica.weight.method.sparse_forward
        if sparse and not forward:
            on = tf.equal(replica.sets.read_value(), FORWARD)
            if self.storage == "packed":
                return lambda w: packing.pack(w, on)
            return lambda w: topk.apply_mask(on, w)
        if forward and not sparse:
            with dense_reads():
                weights = replica.weight.powered(replica.read_theta())
            return lambda _: tf.cast(weights, alpha.dtype)
        if sparse and self.storage == "packed":
            return lambda w: packing.pack(w, tf.not_equal(w, tf.zeros([], w.dtype)))
        return None

    def _kept(self, inputs: tf.Tensor, replica: WeightReplica) -> Any:
        """The number of kept activations."""
        size = topk.size_of(inputs)
        weight = replica.weight
        if self.activations is None and weight.method.budget == "global":
            # The sparsity of the weights changes: the activations follow it.
            kept = replica.counters.read_value()[Counter.KEPT_FORWARD]
            asked = -(-tf.cast(size, tf.int64) * kept // weight.units)
            return tf.cast(asked, tf.int32)
        return topk.kept_of(size, self.sparsity_of(weight))

    def sparsity_of(self, weight: "SparseWeight") -> float:
        """The nominal sparsity of the activations of a weight's layer."""
        if self.activations is not None:
            return self.activations
        return weight.fwd if isinstance(weight.method, SWAT) else self.sparsity

    def _mask(
        self,
        inputs: tf.Tensor,
        replica: WeightReplica,
        found: dict[str, tf.Tensor],
    ) -> tf.Tensor:
        if self.activations_per == "sample":
            return topk.largest_per_sample(inputs, self.sparsity_of(replica.weight))
        spare = self.storage == "packed"
        period = self._period(replica.weight)
        if period == 1:
            return topk.largest(inputs, self._kept(inputs, replica), spare)
        step = replica.counters.read_value()[Counter.STEP]
        due = TopKSchedule(period).due(step)
        found["key"] = tf.cond(
            due,
            lambda: self._threshold(inputs, replica, spare),
            lambda: replica.auxiliary_variable(STATE).read_value()[0],
        )
        return topk.at_or_above(inputs, found["key"])

    def _threshold(
        self, inputs: tf.Tensor, replica: WeightReplica, spare: bool
    ) -> tf.Tensor:
        """The key that activations must reach until the next threshold."""
        kept, size = self._kept(inputs, replica), topk.size_of(inputs)
        found = topk.threshold(inputs, kept, spare)
        # 0 if all are kept: other batches of a dense layer are dense, too.
        return tf.where(kept < size, found, tf.zeros([], tf.int64))

    def _remember(self, replica: WeightReplica, found: dict[str, tf.Tensor]) -> None:
        key = found.get("key", tf.constant(0, tf.int64))
        kept = found.get("kept")
        if kept is None:
            kept = tf.cast(tf.reduce_sum(tf.cast(found["mask"], tf.int32)), tf.int64)
        replica.auxiliary_variable(STATE).assign(tf.stack([key, kept, found["size"]]))
