"""MEST: elastic mutation, which drops to one sparsity and grows to another."""

from launch.config.flag import FACTOR, NOT_NEGATIVE, Flag
from launch.config.methods import static, updates
from launch.config.methods.base import RunMethod

GROUP = (
    "MEST",
    (
        Flag(
            "float",
            "mutation",
            0.02,
            "fraction of all weights that an update moves at first; half of it from "
            "0.5625 of the run on, none from 0.75",
            range=FACTOR,
        ),
        Flag(
            "boolean",
            "surplus",
            False,
            "EM&S: train with so many weights more, until they vanish",
        ),
        Flag(
            "float",
            "gradient_weight",
            0.0,
            "of the gradient's magnitude in the score of what is kept",
            range=NOT_NEGATIVE,
        ),
    ),
)
_GROUPS = (static.GROUP, updates.WHEN, updates.GROWN, GROUP)
METHOD = RunMethod("MEST", updates.scopes_of("mest", _GROUPS), groups=_GROUPS)
