"""A smaller dense network that costs what the sparse one does: the papers' baseline."""

from launch.config.flag import Flag
from launch.config.methods.base import LAYERWISE, PLACEMENT, RunMethod

GROUP = (
    "Small dense",
    (
        Flag(
            "string",
            "small_by",
            "flops",
            "what it has in common with the network at --sparsity: flops (of inference), "
            "or parameters",
            choices=("flops", "parameters"),
        ),
    ),
)
METHOD = RunMethod(
    "a dense network with fewer channels, of the cost of the sparse one",
    scopes=lambda settings, total_steps: [],
    groups=(GROUP,),
    common=("sparsity", *PLACEMENT),
    distributions=LAYERWISE,
    is_resized=True,
)
