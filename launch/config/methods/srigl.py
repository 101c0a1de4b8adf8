"""SRigL: RigL with one fan-in for all outputs of a weight."""

from launch.config.flag import Flag, Range
from launch.config.methods import updates
from launch.config.methods.base import RunMethod

GROUP = (
    "SRigL",
    (
        Flag(
            "float",
            "ablation",
            0.3,
            "outputs with a smaller share of salient entries are removed; 0: none",
            range=Range("in [0, 1]", lambda share: 0 <= share <= 1),
        ),
    ),
)
_GROUPS = (updates.WHEN, updates.MOVED, updates.GROWN, GROUP)
METHOD = RunMethod("SRigL", updates.scopes_of("srigl", _GROUPS), groups=_GROUPS)
