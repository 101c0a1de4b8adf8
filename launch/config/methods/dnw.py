"""DNW: Top-KAST whose backward set is everything."""

from launch.config.methods.base import LAYERWISE, POWERED, RunMethod, sparse_scope

METHOD = RunMethod(
    "DNW, which is Top-KAST with bwd=0 and exploration=0",
    lambda settings, total_steps: [
        sparse_scope("dnw", settings, {"total_steps": total_steps})
    ],
    common=POWERED,
    distributions=(*LAYERWISE, "global"),
)
