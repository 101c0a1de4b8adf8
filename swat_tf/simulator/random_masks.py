"""Random masks of weights and activations at given sparsities."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from swat_tf.simulator.checks import check_choice, check_counts, check_sizes
from swat_tf.simulator.layers import Layer
from topkast_tf.core import distributions
from topkast_tf.core.sparsities import kept

DISTRIBUTIONS = ("uniform", "er", "erk")
POSITIONS = 56 * 56
"""Of 196 lines of 16 lanes."""


def layer_sparsities(
    layers: Sequence[Layer],
    sparsity: float,
    distribution: str = "uniform",
    exempt: str | Sequence[str] = (),
) -> dict[str, float]:
    """The sparsity of each layer's weights.

    Args:
      layers: the layers.
      sparsity: fraction of zeros over all of them that are not exempt, in [0, 1).
      distribution: ``"uniform"``, ``"er"`` or ``"erk"``.
      exempt: one or several regexes on names of layers that stay dense; also ``"first"``
        and ``"last"``.

    Returns:
      Layer name -> sparsity; 0 of exempt layers.

    Raises:
      ValueError: for an unknown distribution, a sparsity that is out of reach, or a regex
        that is none or matches no layer.

    >>> layers = [Layer.dense("a", 10, 10), Layer.dense("b", 10, 10)]
    >>> layer_sparsities(layers, 0.5, exempt=["first"])
    {'a': 0.0, 'b': 0.5}
    """
    check_choice("distribution", distribution, DISTRIBUTIONS)
    names = [layer.name for layer in layers]
    dense = set()
    for pattern in (exempt,) if isinstance(exempt, str) else exempt:
        if pattern in ("first", "last"):
            matching = names[:1] if pattern == "first" else names[-1:]
        else:
            matching = _matching(pattern, names)
        if not matching:
            raise ValueError(
                f"Expected each regex of `exempt` to match a layer. Received: {pattern!r}"
            )
        dense.update(matching)
    shapes = {layer.name: layer.kernel for layer in layers if layer.name not in dense}
    found = distributions.NAMED[distribution](shapes, sparsity) if shapes else {}
    return {name: found.get(name, 0.0) for name in names}


def _matching(pattern: str, names: Sequence[str]) -> list[str]:
    """The names in which a regex is found."""
    try:
        return [name for name in names if re.search(pattern, name)]
    except (re.error, TypeError) as error:
        raise ValueError(
            f"Expected regexes in `exempt` ({error}). Received: {pattern!r}"
        ) from error


def random_weights(
    layers: Sequence[Layer], sparsities: Mapping[str, float], seed: int = 0
) -> dict[str, np.ndarray]:
    """Masks with ``kept(n, s)`` entries at random places of each kernel.

    Args:
      layers: the layers.
      sparsities: layer name -> sparsity in [0, 1); 0 or none: no mask.
      seed: of the places; the masks of one seed at two sparsities are nested.

    >>> layer = Layer.dense("a", 10, 10)
    >>> int(random_weights([layer], {"a": 0.9})["a"].sum())
    10
    """
    check_counts(seed=seed)
    return {
        layer.name: _mask(layer.kernel, sparsities[layer.name], (seed, 0, place))
        for place, layer in enumerate(layers)
        if sparsities.get(layer.name, 0.0)
    }


def random_activations(
    layers: Sequence[Layer],
    sparsities: Mapping[str, float],
    examples: int | Mapping[str, int] = 1,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Masks with ``kept(n, s)`` entries at random places of the inputs of each layer.

    As SWAT keeps them: n counts the activations of all examples.

    Args:
      layers: the layers.
      sparsities: layer name -> sparsity in [0, 1).
      examples: at least 1, of all layers or of each, such as `enough_examples`.
      seed: as of `random_weights`.

    >>> layer = Layer.dense("a", 10, 10)
    >>> random_activations([layer], {"a": 0.5}, examples=2)["a"].shape
    (2, 1, 10)
    """
    check_counts(seed=seed)
    if isinstance(examples, int):
        examples = {layer.name: examples for layer in layers}
    check_sizes(examples=min(examples.values(), default=1))
    return {
        layer.name: _mask(
            (examples[layer.name], *layer.inputs, layer.channels),
            sparsities.get(layer.name, 0.0),
            (seed, 1, place),
        )
        for place, layer in enumerate(layers)
    }


def enough_examples(layers: Sequence[Layer], batch: int) -> dict[str, int]:
    """Layer name -> examples that may stand for a batch.

    A weight gradient sums over positions. As many examples as have `POSITIONS` of them, or
    the whole batch: of fewer, the last line of each sum, which is part empty, weighs more
    than it does in the batch.

    Args:
      layers: the layers.
      batch: at least 1.

    >>> conv = Layer("conv", (1, 1, 8, 8), (56, 56))
    >>> enough_examples([conv, Layer.dense("logits", 8, 10)], batch=32)
    {'conv': 1, 'logits': 32}
    """
    check_sizes(batch=batch)
    return {
        layer.name: min(batch, math.ceil(POSITIONS / layer.positions))
        for layer in layers
    }


def _mask(shape: Sequence[int], sparsity: float, seed: Sequence[int]) -> np.ndarray:
    size = math.prod(shape)
    mask = np.ones(size, bool)
    # The first of a permutation are zero, so that a sparser mask has their zeros, too.
    zeros = size - kept(size, sparsity)
    mask[np.random.default_rng(seed).permutation(size)[:zeros]] = False
    return mask.reshape(shape)
