"""AC/DC: phases of compressed and of dense training in turns."""

from launch.config.flag import FACTOR, Flag
from launch.config.methods.base import LAYERWISE, RunMethod
from launch.config.methods.updates import WARM_UP, scopes_of

GROUP = (
    "AC/DC (fractions of the run)",
    (
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
    scopes_of("acdc", (WARM_UP, GROUP)),
    groups=(WARM_UP, GROUP),
    distributions=(*LAYERWISE, "global"),
)
