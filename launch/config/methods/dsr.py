"""DSR: one adaptive threshold for all weights, and growth where most survives."""

from launch.config.flag import ABOVE_0, Flag
from launch.config.methods import static, updates
from launch.config.methods.base import RunMethod

GROUP = (
    "DSR",
    (
        Flag(
            "float",
            "threshold",
            1e-3,
            "the first threshold: smaller active weights are dropped",
            range=ABOVE_0,
        ),
    ),
)
_GROUPS = (static.GROUP, updates.WHEN, updates.MOVED, updates.GROWN, GROUP)
METHOD = RunMethod("DSR", updates.scopes_of("dsr", _GROUPS), groups=_GROUPS)
