"""Spartan: a soft mask of the largest weights, that sharpens, with its gradient."""

from launch.config.flag import ABOVE_0, FACTOR, Flag
from launch.config.methods.base import LAYERWISE, RunMethod
from launch.config.methods.updates import WARM_UP, scopes_of

GROUP = (
    "Spartan (fractions of the run)",
    (
        Flag(
            "float",
            "frozen_from",
            0.8,
            "where the mask is frozen, a fraction of the run",
            range=FACTOR,
        ),
        Flag(
            "float",
            "initial_sharpness",
            1.0,
            "of the soft mask at first: what weights are multiplied by",
            range=ABOVE_0,
        ),
        Flag(
            "float",
            "sharpness",
            20.0,
            "of the soft mask where it is frozen",
            range=ABOVE_0,
        ),
    ),
)
METHOD = RunMethod(
    "Spartan, soft masks of the largest weights",
    scopes_of("spartan", (WARM_UP, GROUP)),
    groups=(WARM_UP, GROUP),
    distributions=(*LAYERWISE, "global"),
)
