"""DSG: outputs that are selected for each input, by a search in fewer dimensions."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import tensorflow as tf

from swat_tf import topk
from swat_tf.largest_outputs import largest_outputs, validate_threshold
from swat_tf.method import SWAT
from swat_tf.projection import estimated_product, random_signs, reduced_dimension
from swat_tf.recipe import check_dense, validate_sparsity
from topkast_tf.core.blocks import MatrixView
from topkast_tf.core.kth_largest import HISTOGRAMS
from topkast_tf.core.sparsities import is_number
from topkast_tf.kernels import choice
from topkast_tf.layers.counting import is_counting
from topkast_tf.layers.product_rule import ProductRule, activated_rule, register_rule
from topkast_tf.layers.products import Convolution, MatrixProduct, Product
from topkast_tf.scope import ReusableScope, open_scope, register_scope
from topkast_tf.variables.components import local_index
from topkast_tf.variables.counters import Counter
from topkast_tf.variables.placement import Placement
from topkast_tf.variables.scope_state import SparsityScope

if TYPE_CHECKING:
    from topkast_tf.variables.weight import SparseWeight

_EPSILON = 0.5


@register_rule
@dataclasses.dataclass(frozen=True)
class DynamicSparseGraph(ProductRule):
    """A layer's product with the largest outputs of each example alone, as in DSG.

    Attributes: see `swat_tf.dsg_scope`.
    """

    name: ClassVar[str] = "dsg"
    selects_outputs: ClassVar[bool] = True  # type: ignore[misc]

    sparsity: float
    epsilon: float | None = None
    dimension: int | None = None
    threshold: str = "first"

    def __post_init__(self) -> None:
        validate_sparsity("sparsity", self.sparsity)
        validate_threshold(self.threshold)
        if self.dimension is None:
            if self.epsilon is None:
                object.__setattr__(self, "epsilon", _EPSILON)
            epsilon = self.epsilon
            if not (is_number(epsilon) and 0 < epsilon < 1):  # type: ignore[operator]
                raise ValueError(
                    f"`epsilon` must be an error in (0, 1). Received: epsilon={epsilon!r}"
                )
        elif self.epsilon is not None:
            raise ValueError(
                "Expected `epsilon`, from which the dimension of the search follows, or "
                f"`dimension`. Received: epsilon={self.epsilon!r}, "
                f"dimension={self.dimension!r}"
            )
        elif type(self.dimension) is not int or self.dimension < 1:
            raise ValueError(
                "`dimension` must be an integer of at least 1. "
                f"Received: dimension={self.dimension!r}"
            )

    def why_dense(self, product: MatrixProduct | Convolution | None) -> str | None:
        if product is None or getattr(product, "groups", 1) != 1:
            return (
                "DSG searches the outputs of products of matrices and of convolutions "
                "of one group, channels last, in one or two dimensions"
            )
        return None

    def check(self, weight: "SparseWeight") -> None:
        if not isinstance(weight.method, SWAT) or weight.method.forward:
            raise ValueError(
                "Expected the weights of a `dsg_scope` itself, which are dense. "
                f"Received: a weight of the scope of {weight.method.name!r} inside it"
            )

    def selection_operations(
        self, weight: "SparseWeight", inputs: int, outputs: int
    ) -> float:
        del weight, inputs
        # The threshold of the first example is that of the whole batch.
        new = 0 if self.threshold == "first" else HISTOGRAMS
        return outputs * (1 + new)

    def dimension_of(self, view: MatrixView) -> int | None:
        """The dimension of a layer's search; None if it has no fewer than its inputs."""
        asked = self.dimension
        if asked is None:
            asked = reduced_dimension(view.cols, self.epsilon)  # type: ignore[arg-type]
        return asked if asked < view.rows else None

    def product_sparsities(self, weight: "SparseWeight") -> tuple[float, float, float]:
        if weight.exempt:
            return 0.0, 0.0, 0.0
        dimension = self.dimension_of(weight.view)
        # Without a projection, all outputs are computed to be ranked.
        search = self.sparsity if dimension is None else dimension / weight.view.rows
        omitted = self.sparsity - search if self.sparsity else 0.0
        return omitted, self.sparsity, self.sparsity

    def get_config(self) -> dict:
        return dataclasses.asdict(self)

    def __call__(
        self, product: Product, inputs: tf.Tensor, kernel: Any, weight: "SparseWeight"
    ) -> tf.Tensor:
        return self.outputs(product, inputs, kernel, weight, lambda made: made)

    def outputs(
        self,
        product: Product,
        inputs: tf.Tensor,
        kernel: Any,
        weight: "SparseWeight",
        add_bias: Callable[[tf.Tensor], tf.Tensor],
    ) -> tf.Tensor:
        alpha = tf.convert_to_tensor(kernel)
        inputs = tf.cast(inputs, alpha.dtype)
        outputs = add_bias(product(inputs, alpha))
        if not self.sparsity:
            return outputs
        scores = tf.stop_gradient(outputs)
        dimension = self.dimension_of(weight.view)
        if (
            dimension is not None and not is_counting()
        ):  # `product_sparsities` counts it
            replica = weight.replica(local_index(weight.variable))
            # Of the state that is saved: a loaded model selects with the same matrix.
            seed = replica.counters.read_value()[Counter.SEED]
            scores = estimated_product(
                product,
                tf.stop_gradient(inputs),
                tf.stop_gradient(alpha),
                random_signs(weight.view.rows, dimension, seed),
                weight.view,
                tf.shape(outputs),
            )
            scores.set_shape(outputs.shape)
            scores = tf.stop_gradient(add_bias(scores))
        mask = largest_outputs(scores, self.sparsity, self.threshold)
        return topk.apply_mask(mask, outputs)


@register_scope("dsg")
def dsg_scope(
    sparsity: float,
    *,
    epsilon: float | None = None,
    dimension: int | None = None,
    threshold: str = "first",
    distribution: str = "uniform",
    exempt: str | Sequence[str] = (),
    include: str | Sequence[str] | None = None,
    seed: int = 0,
    kernels: str = "auto",
    storage: str = "dense",
) -> ReusableScope:
    """Dynamic sparse graph (Liu et al. 2019): outputs that are selected for each input.

    For each layer with input a, kernel w and bias b, in training and at inference::

        s  = <f(a), f(w)> + b,   f(z) = R z / sqrt(k')       the search
        m  = 1 on the k largest s of an example, else 0      by value, not by magnitude
        y  = m (product(a, w) + b)                           before the activation
        da, dw, db = gradients of m dy                       m is a constant

    with ``k = n - floor(sparsity n)`` of the n outputs of an example (in a convolution, of
    all its positions and filters). R has k' rows, and entries +sqrt(3), 0 and -sqrt(3)
    with probabilities 1/6, 2/3 and 1/6; it is fixed by the weight's seed, which is saved
    with the model, so that a loaded or resumed model selects the same outputs. Outputs
    are ranked in float32. A ReLU keeps the zeros (``m ReLU(y) = ReLU(m y)``); a layer
    without one, such as the last, is better exempt: ``exempt="last"``. Weights are dense,
    and so are all updates that have a gradient.

    Only matrix products (dense layers, 1x1 convolutions, and einsums that are one) and
    convolutions of one group, channels last, in one or two dimensions, are searched. All
    others are left dense, and listed with the reason.

    Products are masked: all outputs are computed, and the search besides, so that training
    takes longer than that of a dense network. `count_flops` counts what a device
    would compute that leaves the dropped ones out: ``k' + (1 - sparsity) d`` of the d
    multiplications of an output in the forward pass, which is more than d if k' is large;
    and 1 - sparsity of both gradients. As in the source, the projections themselves,
    additions alone, are not counted.

    Args:
      sparsity: fraction of the outputs that are dropped, in [0, 1).
      epsilon: error of the projected distances, in (0, 1), from which k' follows:
        `swat_tf.projection.reduced_dimension` of the outputs of a position. By default
        0.5.
      dimension: k' itself, at least 1, in place of `epsilon`. A layer with at most k'
        inputs is not projected: its outputs are ranked as they are.
      threshold: ``"first"``: the k-th largest s of the first example of the batch (of
        each replica's part of it) is the threshold of all examples: predictions depend on
        which example is first; or ``"each"``: exactly k outputs of each example.
      distribution: ``"uniform"``, the only one.
      exempt: as for `swat_scope`.
      include: as for `swat_scope`.
      seed: of the projections.
      kernels: as for `swat_scope`; there are none for the products of this method.
      storage: ``"dense"``, the only one.

    Returns:
      A context manager, as from `swat_scope`.

    Raises:
      ValueError: for an argument out of range, for `epsilon` and `dimension` together, for
        another distribution or storage, and as `swat_scope`. `topkast_tf.strip` refuses
        its models: plain layers do not select outputs.

    >>> import keras
    >>> from swat_tf import dsg_scope
    >>> with dsg_scope(0.8, dimension=100, threshold="each", exempt="last"):
    ...     model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(500, "relu"),
    ...                               keras.layers.Dense(10)])
    >>> hidden = model.layers[0](keras.random.normal((2, 784)))  # 100 of 500 are kept
    >>> bool((keras.ops.count_nonzero(hidden, axis=1) <= 100).numpy().all())
    True

    Source: Dynamic Sparse Graph for Efficient Deep Learning, ICLR 2019, sections 2.1 to
    2.3. Its text says that thresholds are shared between samples, and that k' is at
    least of the order of log N / e^2; that it is the first sample's over all positions, and
    the constant and N, are assumptions here. Departs from it in the bias, which it does
    not have; in f(w), which is computed anew in each step; and in the second mask, after a
    batch normalization: a layer does not see what follows it, and so it must be asked for
    (`swat_tf.double_mask`). The source orders layers as convolution, ReLU, normalization.
    In the more common order of convolution, normalization, ReLU, as in the networks of
    `keras.applications` and of the launcher, dropped outputs are zero before the
    normalization alone, which then gives them another value.
    """
    why = "which has dense weights and saves what a dense network saves"
    check_dense("dsg", why, distribution, storage)
    rule = DynamicSparseGraph(sparsity, epsilon, dimension, threshold)
    # Dense weights, whose products are those of a rule.
    method = SWAT(0.0, forward=False, freeze_at=1)
    placement = Placement(exempt=exempt, include=include, seed=seed)
    choice.check(kernels)
    return ReusableScope(lambda: _opened(rule, method, placement, kernels))


@contextlib.contextmanager
def _opened(
    rule: DynamicSparseGraph, method: SWAT, placement: Placement, kernels: str
) -> Iterator[SparsityScope]:
    with activated_rule(rule), open_scope(method, placement, kernels) as scope:
        yield scope
