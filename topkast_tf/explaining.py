"""What an engine would do with a sparse model, layer by layer."""

import dataclasses
import importlib
from typing import Any

from topkast_tf import export
from topkast_tf.analysis import xnnpack
from topkast_tf.analysis.columns import aligned
from topkast_tf.layers.remaking import counterparts

ENGINES = ("xnnpack",)
"""Engines that `explain` knows."""
_SCHEMAS = (
    "ai_edge_litert.schema_py_generated",
    "tensorflow.lite.python.schema_py_generated",
)


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What an engine would do; `str` gives a table.

    Attributes:
      engine: its name.
      rows: the operations with weights, in the order of the file.
    """

    engine: str
    rows: tuple[xnnpack.Verdict, ...]

    @property
    def sparse(self) -> bool:
        """Whether any layer would be computed sparse."""
        return any(row.sparse for row in self.rows)

    def __str__(self) -> str:
        cells = [("layer", "operation", "zeros", "sparse", "why")]
        cells += [
            (
                *(row.layer, row.kind, f"{row.zeros / row.size:.1%}"),
                *("yes" if row.sparse else "no", row.why),
            )
            for row in self.rows
        ]
        lines = [*aligned(cells, left=(0, 1, 3, 4)), xnnpack.PART]
        count = sum(row.sparse for row in self.rows)
        lines.append(
            f"{self.engine}: {count} of {len(self.rows)} layers sparse, on ARM64, "
            "WebAssembly and RISC-V, in a file with sparse encoding (`export_litert`); "
            "none on x86 with AVX, where it computes all dense"
        )
        return "\n".join(lines)


def explain(model: Any, engine: str = "xnnpack") -> Explanation:
    """Whether an engine would compute a model sparse, layer by layer, and why not.

    ``"xnnpack"`` is what LiteRT (TensorFlow Lite) computes with on CPUs. It has sparse
    kernels for 1 x 1 convolutions and fully connected layers, in networks of a certain
    form: `topkast_tf.analysis.xnnpack` states the rules, which were read in its sources.
    The model is converted in a temporary folder and the rules are applied to the operations
    of the file. It is never run: what XNNPACK does on a processor of another kind is not
    measured here, and on x86 with AVX it computes every model dense.

    Args:
      model: a built Keras model, sparse or stripped.
      engine: ``"xnnpack"``.

    Returns:
      An `Explanation`; print it for a table.

    Raises:
      TypeError: for anything but a Keras model.
      ValueError: for another engine, or a model with loops or branches.
      RuntimeError: if LiteRT's converter is missing, or refuses the model.

    >>> import keras
    >>> from topkast_tf import explain, topkast_scope
    >>> with topkast_scope(fwd=0.9, bwd=0.8):
    ...     model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32)])
    >>> explain(model).rows[0].why[:44]
    'its part would begin with an input of the mo'
    """
    if engine not in ENGINES:
        raise ValueError(f"Expected engine in {ENGINES}. Received: engine={engine!r}")
    schema, plain = _schema(), export.strip(model)
    content = export.litert_content(model, plain, sparse_encoding=False)
    names = {
        made.name: layer.name
        for layer, made in counterparts(model, plain)
        if any(
            hasattr(value, "assign") and len(value.shape) > 1
            for value in vars(made).values()
        )
    }
    return Explanation(engine, tuple(xnnpack.verdicts(content, schema, names)))


def _schema() -> Any:
    """The module of classes that read a LiteRT file."""
    for name in _SCHEMAS:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise RuntimeError(
        f"Expected one of the modules {', '.join(_SCHEMAS)}. Received: none; "
        'pip install "topkast-tf[export]"'
    )
