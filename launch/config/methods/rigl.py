"""RigL: SET that grows the weights with the largest gradients."""

from launch.config.flag import NOT_NEGATIVE, Flag
from launch.config.methods import static
from launch.config.methods.base import RunMethod
from launch.config.methods.set import GROUP as UPDATES
from launch.config.methods.set import scopes_of

GROUP = (
    "RigL",
    (
        Flag(
            "float",
            "slot_scale",
            0.0,
            "momentum of new weights, as a multiple of their gradient",
            range=NOT_NEGATIVE,
        ),
        Flag(
            "boolean",
            "update_replaces_step",
            True,
            "an update replaces a step, as in the authors' code",
        ),
    ),
)

_GROUPS = (static.GROUP, UPDATES, GROUP)
METHOD = RunMethod("RigL", scopes_of("rigl", _GROUPS), groups=_GROUPS)
