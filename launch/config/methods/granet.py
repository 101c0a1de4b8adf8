"""GraNet: gradual pruning, and regeneration where the gradient is largest."""

from launch.config.flag import ABOVE_0, Flag
from launch.config.methods import pruning, static, updates
from launch.config.methods.base import RunMethod

GROUP = (
    "GraNet",
    (
        Flag(
            "float",
            "prune_until",
            0.6875,
            "the last step that prunes, or up to 1 a fraction of the run",
            range=ABOVE_0,
        ),
    ),
)
_GROUPS = (
    static.GROUP,
    updates.WHEN,
    updates.MOVED,
    updates.ANNEALED,
    updates.GROWN,
    pruning.INITIAL,
    GROUP,
)
METHOD = RunMethod("GraNet", updates.scopes_of("granet", _GROUPS), groups=_GROUPS)
