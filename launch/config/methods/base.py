"""The description of a method of a run, and the scope arguments of all methods.

TensorFlow is imported when a scope is made, not before.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from launch.config.flag import Flag, Groups, flags_in
from launch.support.errors import UserError

Scope = contextlib.AbstractContextManager
Scopes = Callable[[flags.FlagValues, int | None], Sequence[Scope]]

LAYERWISE = ("uniform", "er", "erk")
"""Distributions that fix the sparsity of each layer in advance."""
PLACEMENT = ("distribution", "exempt", "include")
OF_WEIGHTS = ("sparsity", *PLACEMENT, "kernels")
"""The common flags of methods with one sparsity."""
POWERED = (*OF_WEIGHTS, "power")
"""Those of methods that combine with Powerpropagation."""


@dataclasses.dataclass(frozen=True)
class RunMethod:
    """How a run is made sparse.

    Attributes:
      about: the method in a few words.
      scopes: maps the flags and the number of optimizer steps of the run (None if it is
        unknown) to the scopes in which the model is built, outermost first.
      groups: the method's own flags, by title in the help. Methods may share a group.
      common: names of those flags of `registry.COMMON` that apply to this method.
      distributions: the names that --distribution may have.
      check: raises `UserError` for flags of the method that contradict each other.
      has_penalty: whether it may add an exploration loss.
      sparse_activations: whether the backward pass keeps sparse activations.
      finds_sparsity: whether training finds the sparsity; --sparsity is for plans alone.
      is_resized: whether its network is the dense one with other widths.
      dense_steps: maps the flags to what pruning before training costs: in dense training
        steps, whose FLOPs it takes.
      stores_weights: whether --storage is that of its weights, and not of activations.
      selects_outputs: whether its layers select outputs for each input, so that no model
        without them has its outputs.
    """

    about: str
    scopes: Scopes
    groups: Groups = ()
    common: tuple[str, ...] = OF_WEIGHTS
    distributions: tuple[str, ...] = LAYERWISE
    check: Callable[[flags.FlagValues], None] = lambda values: None
    has_penalty: bool = False
    sparse_activations: bool = False
    finds_sparsity: bool = False
    is_resized: bool = False
    dense_steps: Callable[[flags.FlagValues], float] = lambda values: 0.0
    stores_weights: bool = False
    selects_outputs: bool = False

    def storage_of_weights(self, settings: flags.FlagValues) -> str:
        """What the optimizer trains: `dense`, theta, or `packed`, the entries of B."""
        return settings.storage if self.stores_weights else "dense"

    def theta_dir(self, settings: flags.FlagValues) -> str | None:
        """The folder for mapped files of theta: that of the run, or a parent; or None.

        The folder of a run is made after its first model; a plan has none.
        """
        mapped = self.stores_weights and settings.theta == "mmap"
        if not mapped or settings.storage != "packed" or "run_dir" not in settings:
            return None
        folder = pathlib.Path(settings.run_dir).resolve()
        return str(next(each for each in (folder, *folder.parents) if each.is_dir()))

    @property
    def flags(self) -> tuple[Flag, ...]:
        """The flags of its groups."""
        return tuple(flags_in(self.groups))

    @property
    def flag_names(self) -> frozenset[str]:
        """The names of the flags that apply to it, without those of every run."""
        return frozenset((*self.common, *(flag.name for flag in self.flags)))


def sparse_scope(
    name: str, settings: flags.FlagValues, arguments: dict[str, Any]
) -> Scope:
    """The `topkast_tf.sparse_scope` of a method.

    Args:
      name: name of the method.
      settings: the resolved flags.
      arguments: arguments of the method; None selects its default.
    """
    import topkast_tf

    given = {key: value for key, value in arguments.items() if value is not None}
    return topkast_tf.sparse_scope(
        name,
        sparsity=settings.sparsity,
        kernels=settings.kernels,
        power=settings.power,
        **given,
        **placement(settings),
    )


def placement(settings: flags.FlagValues) -> dict[str, Any]:
    """The scope arguments that say which weights are sparse, and how sparse.

    Only their form is checked here; the scopes check the values.
    """
    return {
        "distribution": distribution_of(settings),
        "exempt": tuple(settings.exempt),
        "include": _include(settings),
        "seed": settings.seed,
    }


def distribution_of(settings: flags.FlagValues) -> Any:
    """`--distribution` as the scopes take it: a name or a mapping.

    Raises:
      UserError: for text that begins with a brace and is not valid JSON.
    """
    given = settings.distribution
    if not given.lstrip().startswith("{"):
        return given
    try:
        mapping = json.loads(given)
    except ValueError as error:
        raise UserError(
            "Expected --distribution to be a name or a JSON mapping such as "
            f'{{"stage1/.*": 0.8}} ({error}). Received: {given}'
        ) from None
    return {
        pattern: tuple(asked) if isinstance(asked, list) else asked
        for pattern, asked in mapping.items()
    }


def _include(settings: flags.FlagValues) -> tuple[str, ...] | None:
    if not settings.sparse_embeddings:
        return tuple(settings.include) if settings.include else None
    # Imported here because it imports TensorFlow.
    from launch.models.transformer_xl_counts import sparse_patterns

    return sparse_patterns(sparse_embeddings=True)
