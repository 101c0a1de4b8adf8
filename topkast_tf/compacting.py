"""`compact`: removes dead filters, channels and units from a model."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from topkast_tf import compat
from topkast_tf.compaction.decision import decided
from topkast_tf.compaction.graph import graph_of
from topkast_tf.compaction.rebuilding import Rebuilding
from topkast_tf.export import strip
from topkast_tf.layers.structure import library_of


class KeptDead(NamedTuple):
    """Dead units that could not be removed.

    Attributes:
      layer: the layer's name; in a model within the model, ``model/layer``.
      units: their numbers in the layer.
      reason: why they stay.
    """

    layer: str
    units: tuple[int, ...]
    reason: str


class Compacted(NamedTuple):
    """A model without its dead units, and what was done. `str` makes a report of it.

    Attributes:
      model: the new model.
      removed: layer -> the numbers of its units that were removed.
      kept_dead: dead units that could not be removed, with the reasons.
      parameters: numbers of parameters, before and after.
    """

    model: Any
    removed: Mapping[str, tuple[int, ...]]
    kept_dead: tuple[KeptDead, ...]
    parameters: tuple[int, int]

    def __str__(self) -> str:
        before, after = self.parameters
        lines = [f"{before:,} -> {after:,} parameters"]
        lines += [f"removed {len(u)} of {name}" for name, u in self.removed.items()]
        lines += [
            f"kept {len(kept.units)} dead of {kept.layer}: {kept.reason}"
            for kept in self.kept_dead
        ]
        return "\n".join(lines)


def compact(model: Any) -> Compacted:
    """Removes dead filters, channels and units: a smaller dense model, same outputs.

    First as `strip`: ``kernel = alpha``. An output unit of a Dense layer or a convolution
    is dead if its weights are zero, so that it is a constant c in each layer up to the
    next kernels, or if these do not read it. It is removed from its kernel, from what it
    passes, and from the next kernels, whose biases take what it adds::

        c    = batch_normalization(activation(bias)), ...
        bias = bias + c * sum over the window of kernel[..., unit, :]

    until nothing changes. That is exact, up to rounding, for inference: where a window
    pads with zeros, only for c = 0. Units pass elementwise activations, batch
    normalization, dropout, pooling, padding, flattening, depthwise convolutions, and sums,
    products and concatenations; units that are added to each other go together, or stay.
    Every other layer, a layer that is called twice, and the model's inputs and outputs
    keep all their units, and each layer keeps one. Models within the model keep their
    inputs and outputs.

    The given model is not changed. The new one is of the same kind and saves and loads
    without this library; it is not compiled. Units that are dead for inference may learn
    again: train the new model, and not the old one, from here.

    Args:
      model: a built Keras 3 Functional or Sequential model; sparse, stripped, or any other
        with zeros.

    Returns:
      A `Compacted`: the model, and what was removed and could not be.

    Raises:
      TypeError: for anything but a Keras model.
      ValueError: for a model that is not built, subclassed, or of tf_keras; or that cannot
        be rebuilt from its configuration.

    >>> import keras
    >>> from topkast_tf import compact, sparse_scope
    >>> with sparse_scope("filters", sparsity=0.5, exempt="last"):
    ...     model = keras.Sequential([
    ...         keras.Input((8, 8, 3)), keras.layers.Conv2D(16, 3, name="conv"),
    ...         keras.layers.Flatten(), keras.layers.Dense(10)])
    >>> print(compact(model))
    6,218 -> 3,114 parameters
    removed 8 of conv

    Source: the removal of filters with the next layer's inputs is that of Li et al.,
    Pruning Filters for Efficient ConvNets, ICLR 2017, figure 1. Departs from it in the
    constants, which it drops: the outputs here are those of the given model.
    """
    library = library_of(model)
    if library is None:
        raise TypeError(f"Expected a Keras model. Received: {model!r}")
    if library.__name__ != "keras" or not _has_graph(model):
        raise ValueError(
            "Expected a built Keras 3 model that is Functional or Sequential, whose graph "
            f"is known. Received: {model!r} of class {type(model).__name__}"
        )
    plain = strip(model)
    made, removed, kept_dead = _compacted(plain, library, "")
    sizes = plain.count_params(), made.count_params()
    return Compacted(made, removed, tuple(kept_dead), sizes)


def _has_graph(model: Any) -> bool:
    """Whether a model computes its graph, and nothing else."""
    call = next((cls for cls in type(model).__mro__ if "call" in vars(cls)), object)
    is_of_keras = call.__module__.split(".")[0] == "keras"
    return is_of_keras and compat.function_of(model) is not None


def _compacted(
    model: Any, keras: Any, prefix: str
) -> tuple[Any, dict[str, tuple[int, ...]], list[KeptDead]]:
    within, removed, kept_dead = {}, {}, []
    for layer in model.layers:
        if isinstance(layer, keras.Model) and _has_graph(layer):
            inner = _compacted(layer, keras, f"{prefix}{layer.name}/")
            within[id(layer)] = inner[0]
            removed.update(inner[1])
            kept_dead += inner[2]
    decision = decided(graph_of(compat.function_of(model)), keras)
    for name, units in decision.removed.items():
        removed[f"{prefix}{name}"] = tuple(units.tolist())
    for (name, reason), units in decision.kept_dead.items():
        kept_dead.append(KeptDead(f"{prefix}{name}", tuple(units.tolist()), reason))
    return Rebuilding(decision, within).model(model), removed, kept_dead
