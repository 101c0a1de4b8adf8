"""SET: an update drops the smallest active weights and grows others at random."""

from launch.config.flag import Flag
from launch.config.methods import static, updates
from launch.config.methods.base import RunMethod

GROUP = (
    "SET, RigL",
    (
        Flag(
            "string",
            "anneal",
            None,
            "schedule of the drop fraction: constant, cosine or exponential_K; default "
            "set: constant, rigl and ITOP: cosine",
        ),
        Flag(
            "string",
            "drop",
            "magnitude",
            "drop the smallest magnitudes; or signs: the smallest positive and the "
            "smallest negative weights",
            choices=("magnitude", "signs"),
        ),
    ),
)
GROUPS = (
    static.GROUP,
    updates.WHEN,
    updates.MOVED,
    updates.ANNEALED,
    GROUP,
    updates.GROWN,
)
METHOD = RunMethod("SET", updates.scopes_of("set", GROUPS), groups=GROUPS)
ITOP = RunMethod(
    "SET with the long intervals of ITOP",
    updates.scopes_of("set_itop", GROUPS),
    groups=GROUPS,
)
