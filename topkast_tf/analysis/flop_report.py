"""What counted FLOPs are made of, and the table of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from topkast_tf.analysis.columns import aligned
from topkast_tf.core.sparsities import validate_sparsities


@dataclass(frozen=True)
class FlopCount:
    """FLOPs per example of the three products of a training step.

    training = forward + input_gradient + weight_gradient

    Args:
      forward: FLOPs of the forward pass, the cost of inference.
      input_gradient: FLOPs of the gradient with respect to the layer's input.
      weight_gradient: FLOPs of the gradient with respect to the weight.

    >>> (FlopCount(2, 2, 4) + FlopCount(1, 1, 1)).training
    11
    """

    forward: float = 0
    input_gradient: float = 0
    weight_gradient: float = 0

    @property
    def training(self) -> float:
        """FLOPs of one training step on one example."""
        return self.forward + self.input_gradient + self.weight_gradient

    def __add__(self, other: FlopCount) -> FlopCount:
        return FlopCount(
            self.forward + other.forward,
            self.input_gradient + other.input_gradient,
            self.weight_gradient + other.weight_gradient,
        )


def product_flops(macs: float, fwd: float = 0.0, bwd: float = 0.0) -> FlopCount:
    """FLOPs of a weight's products at a forward and a backward sparsity.

    forward = input_gradient = 2 * macs * (1 - fwd)
    weight_gradient = 2 * macs * (1 - bwd)

    Args:
      macs: dense multiply-adds per example in the forward pass.
      fwd: forward sparsity, in [0, 1); activations flow forward and their gradients
        backward through the entries of A only.
      bwd: backward sparsity, in [0, fwd]; gradients are needed for B only.

    Returns:
      A `FlopCount`; with both sparsities 0 its `training` is 3 times its `forward`.

    Raises:
      ValueError: unless 0 <= bwd <= fwd < 1.

    >>> product_flops(1000, fwd=0.75, bwd=0.5)
    FlopCount(forward=500.0, input_gradient=500.0, weight_gradient=1000.0)

    Source: RigL's accounting (Evci et al. 2020, appendix) with Top-KAST's two
    densities: (2 f(fwd) + f(bwd)) / 3 of the dense training FLOPs.
    """
    validate_sparsities(fwd, bwd)
    through_a, on_b = 2 * macs * (1 - fwd), 2 * macs * (1 - bwd)
    return FlopCount(through_a, through_a, on_b)


@dataclass(frozen=True)
class SelectionCost:
    """Integer operations by which sets and thresholds are found; beside the FLOPs.

    An exact threshold takes four operations an entry (three histograms and a comparison),
    an earlier threshold one.

    Args:
      weights: operations a step, averaged over training, whatever the batch.
      activations: operations an example, of SWAT's and DSG's operands.
    """

    weights: float = 0.0
    activations: float = 0.0


@dataclass(frozen=True)
class FlopRow:
    """One line of a `FlopReport`: a weight, or the products of activations.

    Args:
      path: the weight's path, `"(activations)"`, or `"(elementwise)"`.
      macs: dense multiply-adds per example in the forward pass.
      forward_sparsity: achieved sparsity of A.
      backward_sparsity: achieved sparsity of B.
      products: the sparsities of the forward product, the input gradient and the weight
        gradient, if they do not follow from the sets.
      mean: the same three, averaged over training by the schedule of the method
        (`Method.mean_products`); None if they are the current ones.
      elementwise: FLOPs per example of the forward pass that are no products. The input
        gradient takes as many, and the weight gradient none.
    """

    path: str
    macs: int
    forward_sparsity: float = 0.0
    backward_sparsity: float = 0.0
    products: tuple[float, float, float] | None = None
    mean: tuple[float, float, float] | None = None
    elementwise: int = 0

    @property
    def dense(self) -> FlopCount:
        """FLOPs of the same row without any sparsity."""
        return product_flops(self.macs) + self._rest

    @property
    def run(self) -> FlopCount:
        """FLOPs of a step, averaged over training."""
        if self.mean is None:
            return self.sparse
        return FlopCount(*(2 * self.macs * (1 - s) for s in self.mean)) + self._rest

    @property
    def sparse(self) -> FlopCount:
        """FLOPs at the achieved sparsities."""
        if self.products is not None:
            made = FlopCount(*(2 * self.macs * (1 - s) for s in self.products))
        else:
            fwd, bwd = self.forward_sparsity, self.backward_sparsity
            made = product_flops(self.macs, fwd, bwd)
        return made + self._rest

    def ratio_of(self, part: str) -> float:
        """Sparse over dense FLOPs of an attribute of `FlopCount`, such as "training"."""
        return _ratio(getattr(self.sparse, part), getattr(self.dense, part))

    @property
    def _rest(self) -> FlopCount:
        return FlopCount(self.elementwise, self.elementwise, 0)


_PARTS = ("forward", "input_gradient", "weight_gradient", "training")


@dataclass(frozen=True)
class FlopReport:
    """Counted FLOPs per example of a model, weight by weight; `str()` is a table.

    Args:
      rows: one `FlopRow` per weight in a product, one for activations, and on request
        one for elementwise operations.
      uncounted: see `MacCount`.
      selection: what the selection of the sets costs, which no total includes.
    """

    rows: tuple[FlopRow, ...]
    uncounted: tuple[str, ...] = ()
    selection: SelectionCost = SelectionCost()

    @property
    def dense(self) -> FlopCount:
        """FLOPs of the dense model."""
        return sum((row.dense for row in self.rows), FlopCount())

    @property
    def sparse(self) -> FlopCount:
        """FLOPs at the achieved sparsities."""
        return sum((row.sparse for row in self.rows), FlopCount())

    @property
    def run(self) -> FlopCount:
        """FLOPs of a training step, averaged over training by each method's schedule.

        Methods that grow sparser, train dense in some phases or need the dense gradient in
        some steps differ from `sparse` here, which is of the current sets.
        """
        return sum((row.run for row in self.rows), FlopCount())

    @property
    def run_ratio(self) -> float:
        """FLOPs of training, averaged over its steps, over those of the dense model."""
        return _ratio(self.run.training, self.dense.training)

    @property
    def inference_ratio(self) -> float:
        """Sparse over dense FLOPs of a forward pass."""
        return _ratio(self.sparse.forward, self.dense.forward)

    @property
    def training_ratio(self) -> float:
        """Sparse over dense FLOPs of a training step."""
        return _ratio(self.sparse.training, self.dense.training)

    def __str__(self) -> str:
        head = ("weight", "MACs", "share", "fwd", "bwd", "forward", "input gradient")
        table: list[tuple[str, ...]] = [(*head, "weight gradient", "training")]
        whole = self.dense.forward
        for row in self.rows:
            table.append(
                (
                    row.path,
                    _scaled(row.macs),
                    f"{_ratio(row.dense.forward, whole):.1%}",
                    f"{row.forward_sparsity:.4f}",
                    f"{row.backward_sparsity:.4f}",
                    *(f"{row.ratio_of(part):.3f}x" for part in _PARTS),
                )
            )
        lines = aligned(table)
        lines.insert(1, "-" * len(lines[0]))
        lines.append(lines[1])
        totals = [
            ("inference", self.inference_ratio, self.sparse.forward),
            ("training", self.training_ratio, self.sparse.training),
        ]
        if any(row.mean is not None for row in self.rows):
            totals.append(("all of training", self.run_ratio, self.run.training))
        for name, ratio, sparse in totals:
            is_pass = name == "inference"
            dense = self.dense.forward if is_pass else self.dense.training
            lines.append(
                f"{name}: {_scaled(sparse)} of {_scaled(dense)} dense FLOPs per "
                f"example ({ratio:.3f}x), counted"
            )
        if self.selection != SelectionCost():
            cost = self.selection
            lines.append(
                f"selection, beside that: {_scaled(cost.weights)} operations a step for "
                f"weights, {_scaled(cost.activations)} an example for activations"
            )
        if self.uncounted:
            lines.append(f"NOT counted, so lower bounds: {', '.join(self.uncounted)}")
        return "\n".join(lines)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def _scaled(n: float) -> str:
    for power, unit in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if n >= 10**power:
            return f"{n / 10**power:.3f}{unit}"
    return f"{n:.0f}"
