"""The parameters of a network that is built without allocating its weights."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from topkast_tf.analysis.flops import mean_products
from topkast_tf.compat import layers_within
from topkast_tf.core.kernel_rule import why_not_kernel
from topkast_tf.core.sparsities import kept
from topkast_tf.layers.weights import weights_of
from topkast_tf.variables.weight import SparseWeight

CONVOLUTIONS = "convolutions"
MATRICES = "matrices"
EMBEDDINGS = "embeddings"
VECTORS = "biases, norms"
KINDS = (CONVOLUTIONS, MATRICES, EMBEDDINGS, VECTORS)


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One trainable weight, dense or with sets.

    Attributes:
      path: its path in the model.
      kind: one of `KINDS`.
      size: number of entries.
      forward: entries in A; `size` if it is dense.
      backward: entries in B; `size` if all are updated.
      has_sets: whether the method stores sets for it, even if `exempt="last"` leaves it
        dense.
      is_sparse: whether the forward or the backward pass omits entries.
      reads_alpha: whether the forward pass reads a masked copy.
      dense_updates: whether every entry is updated.
      on_host: whether theta may stay on the host, because only B is updated.
      products: sparsities of its three products, if they do not follow from the sets.
      mean_products: the same, averaged over training; None if they are constant.
      saved_activations: sparsity of the input that is kept for its gradient; 0: dense.
      saves_masked: whether that input is kept as a separate copy.
      set_bytes: bytes of its set codes.
      state_bytes: bytes of the other state of the method for this weight.
      matrix: its inputs and outputs, of a sparse matrix; None of a convolution.
    """

    path: str
    kind: str
    size: int
    forward: int
    backward: int
    has_sets: bool = False
    is_sparse: bool = False
    reads_alpha: bool = False
    dense_updates: bool = True
    on_host: bool = False
    products: tuple[float, float, float] | None = None
    mean_products: tuple[float, float, float] | None = None
    saved_activations: float = 0.0
    saves_masked: bool = False
    set_bytes: int = 0
    state_bytes: int = 0
    matrix: tuple[int, int] | None = None

    @property
    def forward_sparsity(self) -> float:
        """The share of entries outside A."""
        return 1 - self.forward / self.size

    @property
    def backward_sparsity(self) -> float:
        """The share of entries outside B."""
        return 1 - self.backward / self.size


@contextlib.contextmanager
def unallocated() -> Iterator[None]:
    """Within it, Keras variables have shapes but no values.

    >>> with unallocated():
    ...     layer = keras.layers.Dense(10**9)
    ...     layer.build((None, 10**6))  # four petabytes
    >>> tuple(layer.kernel.shape)
    (1000000, 1000000000)
    """
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        # Keras keeps a list of the variables to initialise later.
        keras.utils.clear_session(free_memory=False)


def built(
    build: Callable[[], keras.Model], scope: contextlib.AbstractContextManager
) -> keras.Model:
    """A model without values, built in a scope.

    Args:
      build: builds the model.
      scope: the scope of the method.
    """
    with unallocated(), scope:
        return build()


def parameters_of(model: keras.Model) -> list[Parameter]:
    """The trainable weights of a model, with the counts that its scope has planned.

    The counts are nominal if the selection depends on the values of the weights
    (`global`; blocks at the edge of a kernel).

    Args:
      model: built, with or without values.
    """
    sparse = {
        weight.path: weight
        for layer in layers_within(model)
        for weight in weights_of(layer)
    }
    found = []
    for variable in model.trainable_variables:
        weight = sparse.pop(variable.path, None)
        if weight is None:
            size = math.prod(variable.shape)
            kind = kind_of(variable.path, variable.shape)
            found.append(Parameter(variable.path, kind, size, size, size))
        else:
            found.append(_planned(variable, weight))
    if sparse:
        raise ValueError(
            "Expected each sparse weight under its path among the weights of the model. "
            f"Received: {', '.join(sparse)}"
        )
    return found


def kind_of(path: str, shape: Sequence[int]) -> str:
    """The kind of a weight, from its name and shape."""
    name, rank = path.split("/")[-1], len(shape)
    if "embedding" in name or "embeddings" in name:
        return EMBEDDINGS
    if rank < 2 or why_not_kernel(name, shape):
        return VECTORS
    return CONVOLUTIONS if rank > 2 else MATRICES


@dataclasses.dataclass(frozen=True)
class _Sets:
    """The attributes of a weight that a product rule reads, without sets."""

    forward_sparsity: float
    backward_sparsity: float
    fwd: float
    method: Any
    exempt: bool
    view: Any
    auxiliary: dict = dataclasses.field(default_factory=dict)


def _planned(variable: Any, weight: SparseWeight) -> Parameter:
    size, method = math.prod(weight.shape), weight.method
    forward = _entries(weight, weight.kept_forward)
    backward = _entries(weight, weight.kept_backward)
    if method.dense_updates:
        backward = size
    state = {id(made): made for made in weight.state_variables().values()}
    sets = state.pop(id(vars(weight)["_sets"]))
    common = {
        "path": variable.path,
        "kind": kind_of(variable.path, weight.shape),
        "size": size,
        "has_sets": True,
        "reads_alpha": method.sparse_forward,
        "dense_updates": method.dense_updates,
        "on_host": not (method.dense_updates or method.requires_product_rule),
        "set_bytes": variable_bytes(sets),
        "state_bytes": sum(map(variable_bytes, state.values())),
    }
    if weight.exempt:
        return Parameter(forward=size, backward=size, **common)
    products, saved, masked = None, 0.0, False
    if weight.rule is not None:
        sets = _Sets(
            1 - forward / size,
            1 - backward / size,
            weight.fwd,
            method,
            weight.exempt,
            weight.view,
        )
        products = weight.rule.product_sparsities(sets)
        saves = weight.rule.saved_sparsity(weight)
        if saves is not None:
            saved, masked = saves, True
    # Also of a convolution with a window of one position.
    is_matrix = all(size == 1 for size in weight.shape[: weight.view.spatial_axes])
    return Parameter(
        forward=forward,
        backward=backward,
        is_sparse=True,
        matrix=(weight.view.rows, weight.view.cols) if is_matrix else None,
        products=products,
        mean_products=mean_products(weight),
        saved_activations=saved,
        saves_masked=masked,
        **common,
    )


def _entries(weight: SparseWeight, units: int) -> int:
    """Entries in a number of units; an average if blocks at an edge are smaller."""
    size = math.prod(weight.shape)
    return max(1, round(size * units / weight.units))


def variable_bytes(variable: Any) -> int:
    """Bytes of a variable, with or without a value."""
    return math.prod(variable.shape) * itemsize(variable.dtype)


def itemsize(dtype: str) -> int:
    """Bytes per entry.

    >>> itemsize("bfloat16"), itemsize("int64")
    (2, 8)
    """
    return {"bool": 1, "bfloat16": 2}.get(dtype) or int(dtype.lstrip("uintfloa")) // 8


def kept_of(entries: int, sparsity: float) -> int:
    """As `distributions.kept`, but 0 of 0 entries."""
    return kept(entries, sparsity) if entries else 0
