"""DSG: outputs selected for each input, by a search in fewer dimensions."""

from absl import flags

from launch.config.flag import AT_LEAST_1, FACTOR, Flag
from launch.config.methods.base import RunMethod, Scope, sparse_scope
from launch.support.errors import UserError

GROUP = (
    "DSG (--sparsity: of the outputs of each layer)",
    (
        Flag(
            "float",
            "projection_epsilon",
            None,
            "error of the distances in the search, which gives its "
            "dimension; default 0.5",
            range=FACTOR,
        ),
        Flag(
            "integer",
            "projection_dimension",
            None,
            "dimension of the search, in place of --projection_epsilon",
            bounds=AT_LEAST_1,
        ),
        Flag(
            "string",
            "output_threshold",
            "first",
            "first: the threshold of the first example of a batch is that of all; or "
            "each: as many outputs of each example",
            choices=("first", "each"),
        ),
    ),
)


def _check(settings: flags.FlagValues) -> None:
    epsilon, dimension = settings.projection_epsilon, settings.projection_dimension
    if epsilon is not None and dimension is not None:
        raise UserError(
            "Expected --projection_epsilon or --projection_dimension. Received: "
            f"--projection_epsilon={epsilon} --projection_dimension={dimension}"
        )


def _scopes(settings: flags.FlagValues, total_steps: int | None) -> list[Scope]:
    import swat_tf  # noqa: F401  registers the scope

    arguments = {
        "epsilon": settings.projection_epsilon,
        "dimension": settings.projection_dimension,
        "threshold": settings.output_threshold,
    }
    return [sparse_scope("dsg", settings, arguments)]


METHOD = RunMethod(
    "DSG, outputs selected for each input and a dense network",
    _scopes,
    groups=(GROUP,),
    distributions=("uniform",),
    check=_check,
    selects_outputs=True,
)
