"""RigL: SET that grows the weights with the largest gradients."""

from launch.config.flag import NOT_NEGATIVE, Flag
from launch.config.methods import set as set_
from launch.config.methods.base import RunMethod
from launch.config.methods.updates import scopes_of

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
            None,
            "an update replaces a step, as in the authors' code; default rigl: yes, "
            "rigl_itop: no",
        ),
    ),
)

GROUPS = (*set_.GROUPS, GROUP)
METHOD = RunMethod("RigL", scopes_of("rigl", GROUPS), groups=GROUPS)
ITOP = RunMethod(
    "RigL with the long intervals of ITOP",
    scopes_of("rigl_itop", GROUPS),
    groups=GROUPS,
)
