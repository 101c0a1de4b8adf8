"""Continuous sparsification: a soft mask that hardens, trained with the weights."""

from launch.config.flag import ABOVE_0, AT_LEAST_1, FACTOR, NOT_NEGATIVE, Flag
from launch.config.methods.base import RunMethod
from launch.config.methods.updates import scopes_of

GROUP = (
    "Continuous sparsification (--sparsity: what is expected, for plans)",
    (
        Flag(
            "integer",
            "rounds",
            3,
            "rounds with soft masks; the ticket is as long as one",
            AT_LEAST_1,
        ),
        Flag(
            "float",
            "rewind_to",
            2 / 85,
            "where in the first round the ticket's weights are from, a fraction of it",
            range=FACTOR,
        ),
        Flag(
            "float",
            "initial_gate",
            0.0,
            "the first value of s: larger is denser, smaller is sparser",
        ),
        Flag(
            "float",
            "final_temperature",
            200.0,
            "at the end of each round, from 1 at its beginning",
            range=ABOVE_0,
        ),
        Flag(
            "float",
            "gate_penalty",
            1e-8,
            "of the sum of the mask",
            range=NOT_NEGATIVE,
        ),
    ),
)
METHOD = RunMethod(
    "continuous sparsification",
    scopes_of("cs", (GROUP,)),
    groups=(GROUP,),
    distributions=("uniform",),
    finds_sparsity=True,
)
