"""SNFS: weights that see more momentum grow."""

from launch.config.methods import static, updates
from launch.config.methods.base import RunMethod

_GROUPS = (
    static.GROUP,
    updates.WHEN,
    updates.MOVED,
    updates.ANNEALED,
    updates.GROWN,
)
METHOD = RunMethod("SNFS", updates.scopes_of("snfs", _GROUPS), groups=_GROUPS)
