"""Top-KAST for the weights and SWAT for the activations, at the same time."""

from absl import flags

from launch.config.methods import swat, topkast
from launch.config.methods.base import OF_WEIGHTS, RunMethod, Scope


def _scopes(settings: flags.FlagValues, total_steps: int | None) -> list[Scope]:
    from swat_tf import swat_scope

    activations = swat_scope(**swat.products(settings), seed=settings.seed)
    return [topkast.scope(settings, total_steps), activations]


METHOD = RunMethod(
    "Top-KAST weights, SWAT activations",
    _scopes,
    groups=(topkast.GROUP, swat.GROUP),
    common=(*OF_WEIGHTS, "storage"),
    distributions=topkast.METHOD.distributions,
    check=topkast.check,
    has_penalty=True,
    sparse_activations=True,
)
