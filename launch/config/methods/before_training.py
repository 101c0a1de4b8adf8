"""SNIP, GraSP and SynFlow: pruned once, before training."""

from typing import Any

from absl import flags

from launch.config.flag import ABOVE_0, AT_LEAST_1, Flag
from launch.config.methods.base import (
    LAYERWISE,
    POWERED,
    RunMethod,
    Scopes,
    sparse_scope,
)

_GRASP = (
    "GraSP",
    (
        Flag(
            "integer",
            "prune_batches",
            1,
            "batches of the training data that the masks are selected on",
            AT_LEAST_1,
        ),
        Flag(
            "float",
            "temperature",
            200.0,
            "the outputs are divided by it",
            range=ABOVE_0,
        ),
    ),
)
_SYNFLOW = (
    "SynFlow",
    (Flag("integer", "prune_rounds", 100, "rounds of pruning", AT_LEAST_1),),
)


def _scopes_of(name: str, arguments: dict[str, str]) -> Scopes:
    """The scopes of a method.

    Args:
      name: of the method.
      arguments: its arguments -> the flags that give them.
    """

    def scopes(settings: flags.FlagValues, total_steps: int | None) -> list:
        given: dict[str, Any] = {
            key: settings[flag].value for key, flag in arguments.items()
        }
        return [sparse_scope(name, settings, given)]

    return scopes


_DISTRIBUTIONS = (*LAYERWISE, "global")
SNIP = RunMethod(
    "SNIP, which prunes on the first batch",
    _scopes_of("snip", {}),
    dense_steps=lambda values: 1.0,
    common=POWERED,
    distributions=_DISTRIBUTIONS,
)
GRASP = RunMethod(
    "GraSP, which prunes before training",
    _scopes_of("grasp", {"temperature": "temperature"}),
    # A gradient, and the gradient of its product with itself, which takes two.
    dense_steps=lambda values: 3.0 * values.prune_batches,
    groups=(_GRASP,),
    common=POWERED,
    distributions=_DISTRIBUTIONS,
)
SYNFLOW = RunMethod(
    "SynFlow, which prunes before training and without data",
    _scopes_of("synflow", {"rounds": "prune_rounds"}),
    # Each round has one input, and less of the network than the one before.
    dense_steps=lambda values: values.prune_rounds / values.batch_size,
    groups=(_SYNFLOW,),
    common=POWERED,
    distributions=_DISTRIBUTIONS,
)
