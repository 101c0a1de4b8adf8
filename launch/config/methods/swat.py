"""SWAT: sparse weights and activations, selected in each step."""

from typing import Any

from absl import flags

from launch.config.flag import AT_LEAST_1, SHARE, Flag
from launch.config.methods.base import (
    LAYERWISE,
    OF_WEIGHTS,
    RunMethod,
    Scope,
    placement,
)

_OPERANDS = ("weights", "activations")
_PER = ("batch", "sample")

FLAGS = (
    Flag(
        "integer",
        "topk_period",
        1,
        "steps between new thresholds of weights or activations",
        bounds=AT_LEAST_1,
    ),
    Flag(
        "string",
        "topk_period_of",
        "all",
        "where --topk_period applies: all; or convolutions, as in the authors' code, "
        "with new thresholds of dense layers and structured weights at each step",
        choices=("all", "convolutions"),
    ),
    Flag(
        "string",
        "structured",
        None,
        "channel or filter: slices of convolution kernels; default weights",
        choices=("channel", "filter"),
    ),
    Flag(
        "float",
        "activations",
        None,
        "sparsity of the activations; default that of the layer's weights",
        range=SHARE,
    ),
    Flag("string", "activations_per", "batch", "batch or sample", choices=_PER),
    Flag("float", "errors", 0.0, "sparsity of the error gradients", range=SHARE),
    Flag("string", "errors_per", "batch", "batch or sample (meProp)", choices=_PER),
    Flag(
        "list",
        "forward_sparse",
        ["weights"],
        "sparse operands of the forward pass: weights, activations",
        choices=_OPERANDS,
    ),
    Flag(
        "list",
        "backward_sparse",
        ["weights", "activations"],
        "sparse operands of the backward pass",
        choices=_OPERANDS,
    ),
    Flag(
        "string",
        "updates",
        "dense",
        "dense, or masked: active weights only",
        choices=("dense", "masked"),
    ),
    Flag(
        "integer",
        "freeze_at",
        None,
        "step from which the active weights are fixed",
        bounds=AT_LEAST_1,
    ),
)
GROUP = ("SWAT", FLAGS)


def products(settings: flags.FlagValues) -> dict[str, Any]:
    """The arguments of `swat_scope` about products and activations."""
    return {
        "sparsity": settings.sparsity,
        "topk_period": settings.topk_period,
        "topk_period_of": settings.topk_period_of,
        "activations": settings.activations,
        "activations_per": settings.activations_per,
        "errors": settings.errors,
        "errors_per": settings.errors_per,
        "forward": tuple(settings.forward_sparse),
        "backward": tuple(settings.backward_sparse),
        "storage": settings.storage,
    }


def _scopes(settings: flags.FlagValues, total_steps: int | None) -> list[Scope]:
    from swat_tf import swat_scope

    weights = {
        "structured": settings.structured,
        "updates": settings.updates,
        "freeze_at": settings.freeze_at,
        "total_steps": total_steps,
        **placement(settings),
    }
    return [swat_scope(**products(settings), **weights, kernels=settings.kernels)]


METHOD = RunMethod(
    "SWAT",
    _scopes,
    groups=(GROUP,),
    common=(*OF_WEIGHTS, "storage"),
    distributions=(*LAYERWISE, "global", "momentum"),
    sparse_activations=True,
)
