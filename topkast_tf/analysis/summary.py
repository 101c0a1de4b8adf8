"""A summary of the sparse weights of a model, as objects and as a table."""

import dataclasses
import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from topkast_tf.analysis.columns import aligned
from topkast_tf.compat import raw_variable
from topkast_tf.core.blocks import MatrixView
from topkast_tf.layers.sparse_layer import scopes_of
from topkast_tf.variables.lookup import planned_weights, variables_of
from topkast_tf.variables.scope_state import SCOPE


@dataclasses.dataclass(frozen=True)
class WeightRow:
    """One sparsified weight in a `Summary`.

    Attributes:
      path, shape: the weight's path and shape.
      fwd, bwd: its nominal sparsities.
      forward_sparsity, backward_sparsity: the achieved ones.
      kept: the number of entries in A.
      size: the number of entries in theta.
      kernels: what computed its layer's last product, and why, such as ``"native: about
        2.1 times as fast"``; None before the first call, or if no choice was made.
      outputs: the number of outputs of the weight: units, filters, the columns of gates.
      empty_outputs: those without an entry in A, so that no input reaches them through
        this weight.
    """

    path: str
    shape: tuple[int, ...]
    fwd: float
    bwd: float
    forward_sparsity: float
    backward_sparsity: float
    kept: int
    size: int
    kernels: str | None = None
    outputs: int = 0
    empty_outputs: int = 0


_HEADER = ("weight", "shape", "fwd", "achieved", "bwd", "achieved", "kept", "dense")
_WHERE_THE_ZEROS_ARE = (
    "`get_weights` and `kernel.numpy()` show theta;",
    "`sparse_weights(model)[i].effective()` and `strip` show alpha, with the zeros",
)
_EMPTY = "outputs without an entry in A (`compact` removes what it can)"


@dataclasses.dataclass(frozen=True)
class Summary:
    """The sparse weights of a model; `str` gives a table, a notebook shows it as HTML.

    Attributes:
      rows: the sparsified weights.
      left_dense: (path, shape, why) of each matrix that was left dense.
      dense_parameters: trainable parameters, and sparsified ones that are frozen.
      kept_parameters: those that a forward pass uses.
      state_bytes: memory of the sets (one byte per entry), counters and auxiliary
        variables, and of packed weights the vectors of B's entries and their codes, in
        bytes.
    """

    rows: tuple[WeightRow, ...]
    left_dense: tuple[tuple[str, tuple[int, ...], str], ...]
    dense_parameters: int
    kept_parameters: int
    state_bytes: int

    @property
    def forward_sparsity(self) -> float:
        """Achieved sparsity over all sparsified weights together; 0 if there are none."""
        size = sum(row.size for row in self.rows)
        return 1 - sum(row.kept for row in self.rows) / size if size else 0.0

    @property
    def backward_sparsity(self) -> float:
        """Achieved sparsity over all sparsified weights together."""
        size = max(1, sum(row.size for row in self.rows))
        return sum(row.backward_sparsity * row.size for row in self.rows) / size

    def __str__(self) -> str:
        lines = _table([_HEADER, *self._cells()])
        lines.append(self._totals())
        if self.rows:
            lines += _WHERE_THE_ZEROS_ARE
        chosen = [row for row in self.rows if row.kernels]
        if chosen:
            lines.append("kernels (docs/kernels.md):")
            lines += [f"  {row.path}: {row.kernels}" for row in chosen]
        empty = self._empty()
        if empty:
            lines.append(f"{_EMPTY}:")
            lines += [f"  {path}: {count}" for path, count in empty]
        if self.left_dense:
            lines.append("left dense:")
            lines += [
                f"  {path} {_by_x(shape)}: {why}"
                for path, shape, why in self.left_dense
            ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The table for a notebook, which calls this method."""
        *body, last = self._cells()
        parts = ["<table>", "<thead>", _html_row("th", _HEADER), "</thead>", "<tbody>"]
        parts += [_html_row("td", cells) for cells in body]
        parts += ["</tbody>", "<tfoot>", _html_row("th", last), "</tfoot>", "</table>"]
        parts.append(f"<p>{html.escape(self._totals())}</p>")
        if self.rows:
            zeros = " ".join(_WHERE_THE_ZEROS_ARE)
            parts.append(f"<p>{html.escape(zeros)}</p>")
        chosen = [(row.path, row.kernels) for row in self.rows if row.kernels]
        if chosen:
            parts += _html_list(("weight", "kernels"), chosen)
        if self._empty():
            parts += _html_list(("weight", _EMPTY), self._empty())
        if self.left_dense:
            dense = [(path, _by_x(shape), why) for path, shape, why in self.left_dense]
            parts += _html_list(("left dense", "shape", "why"), dense)
        return "\n".join(parts)

    def _cells(self) -> list[tuple[str, ...]]:
        """The table's cells below the header; the last row is the total."""
        body = [
            (
                row.path,
                _by_x(row.shape),
                f"{row.fwd:.4g}",
                f"{row.forward_sparsity:.4f}",
                f"{row.bwd:.4g}",
                f"{row.backward_sparsity:.4f}",
                f"{row.kept:,}",
                f"{row.size:,}",
            )
            for row in self.rows
        ]
        total = (
            "all sparsified",
            "",
            "",
            f"{self.forward_sparsity:.4f}",
            "",
            f"{self.backward_sparsity:.4f}",
            f"{sum(row.kept for row in self.rows):,}",
            f"{sum(row.size for row in self.rows):,}",
        )
        return [*body, total]

    def _empty(self) -> list[tuple[str, str]]:
        return [
            (row.path, f"{row.empty_outputs:,} of {row.outputs:,}")
            for row in self.rows
            if row.empty_outputs
        ]

    def _totals(self) -> str:
        return (
            f"whole model: {self.kept_parameters:,} of {self.dense_parameters:,} "
            f"parameters kept; sets and counters take {self.state_bytes:,} bytes"
        )


def summary(model: Any) -> Summary:
    """The sparse weights of a model: nominal and achieved sparsities, kept parameters.

    Args:
      model: as for `sparse_weights`.

    Returns:
      A `Summary`; print it for a table, or let a notebook show it.

    >>> import keras
    >>> from topkast_tf import summary, topkast_scope
    >>> with topkast_scope(fwd=0.5, bwd=0.25):
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> summary(model).kept_parameters  # 4 of the kernel's 8, and the bias
    6
    """
    rows, sparse, state_bytes = [], set(), 0
    for weight in planned_weights(model):
        size = math.prod(weight.shape)
        forward = weight.forward_mask()
        kept = int(forward.sum())
        beside = [*weight.state_variables().values(), *(weight.packed or ())]
        state_bytes += sum(
            math.prod(made.shape) * tf.as_dtype(made.dtype).size for made in beside
        )
        sparse.add(id(weight.variable))
        if weight.exempt:
            continue
        rows.append(
            WeightRow(
                weight.path,
                weight.shape,
                weight.fwd,
                weight.bwd,
                1 - kept / size,
                weight.backward_sparsity,
                kept,
                size,
                weight.kernels and f"{weight.kernels.kernels}: {weight.kernels.why}",
                outputs=weight.view.cols,
                empty_outputs=_empty_outputs(forward, weight.view),
            )
        )
    reasons = _reasons(model)
    dense, total = [], 0
    for variable in variables_of(model):
        raw = raw_variable(variable)
        if not variable.trainable and id(raw) not in sparse:
            continue
        shape = tuple(variable.shape)
        total += math.prod(shape)
        path = getattr(variable, "path", variable.name).split(":")[0]
        if id(raw) in reasons:
            dense.append((path, shape, reasons[id(raw)]))
        elif len(shape) > 1 and id(raw) not in sparse:
            dense.append(
                (path, shape, "made outside the scope, or not by `add_weight`")
            )
    dropped = sum(row.size - row.kept for row in rows)
    return Summary(tuple(rows), tuple(dense), total, total - dropped, state_bytes)


def _reasons(model: Any) -> dict[int, str]:
    """id of a `tf.Variable` -> why its scope left it dense."""
    made = [vars(variable).get(SCOPE) for variable in variables_of(model)]
    scopes = {id(scope): scope for scope in [*made, *scopes_of(model)] if scope}
    return {
        id(raw_variable(variable)): why
        for scope in scopes.values()
        for variable, why in scope.reasons_left_dense()
    }


def _empty_outputs(mask: np.ndarray, view: MatrixView) -> int:
    outputs = {axis % mask.ndim for axis in view.output_axes}
    inputs = tuple(axis for axis in range(mask.ndim) if axis not in outputs)
    return view.cols - int(mask.any(axis=inputs).sum())


def _by_x(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _html_list(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A table whose cells are all left-aligned."""
    left = len(header)
    parts = ["<table>", "<thead>", _html_row("th", header, left), "</thead>", "<tbody>"]
    parts += [_html_row("td", cells, left) for cells in rows]
    return [*parts, "</tbody>", "</table>"]


def _html_row(tag: str, cells: tuple[str, ...], left: int = 2) -> str:
    """A row of a table; its first `left` columns are left-aligned."""
    row = [
        f'<{tag} style="text-align: {"left" if column < left else "right"}">'
        f"{html.escape(cell)}</{tag}>"
        for column, cell in enumerate(cells)
    ]
    return f"<tr>{''.join(row)}</tr>"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines with aligned columns: the first two left, the others right."""
    header, *body, total = aligned(rows, left=(0, 1))
    rule = "-" * max(map(len, (header, *body, total)))
    return [header, rule, *body, rule, total]
