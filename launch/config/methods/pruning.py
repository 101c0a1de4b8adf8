"""Gradual magnitude pruning: dense at first, sparser by a cubic schedule."""

from launch.config.flag import SHARE, Flag
from launch.config.methods import updates
from launch.config.methods.base import LAYERWISE, POWERED, RunMethod

INITIAL = (
    "Where it begins",
    (
        Flag(
            "float",
            "initial_sparsity",
            None,
            "sparsity at the beginning; default pruning: 0, granet: 0.5",
            range=SHARE,
        ),
    ),
)
_GROUPS = (updates.WHEN, INITIAL)
METHOD = RunMethod(
    "gradual magnitude pruning",
    updates.scopes_of("pruning", _GROUPS),
    groups=_GROUPS,
    common=POWERED,
    distributions=(*LAYERWISE, "global"),
)
