"""AC/DC: phases of compressed and of dense training in turns."""

from launch.config.flag import FACTOR, Flag
from launch.config.methods.base import LAYERWISE, RunMethod
from launch.config.methods.updates import scopes_of

GROUP = (
    "AC/DC (fractions of the run)",
    (
        Flag(
            "float",
            "warm_up",
            0.1,
            "dense training before the first compressed phase",
            range=FACTOR,
        ),
        Flag("float", "phase", 0.05, "the length of a phase", range=FACTOR),
        Flag(
            "float",
            "last_dense_from",
            0.75,
            "where the last dense phase begins",
            range=FACTOR,
        ),
        Flag(
            "float",
            "last_compressed_from",
            0.85,
            "where the last compressed phase begins",
            range=FACTOR,
        ),
    ),
)
METHOD = RunMethod(
    "AC/DC",
    scopes_of("acdc", (GROUP,)),
    groups=(GROUP,),
    distributions=(*LAYERWISE, "global"),
)
