"""The configuration of a scope, as it is saved with each of its layers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from topkast_tf.methods import METHODS, Method
from topkast_tf.variables.active_scopes import active_scope
from topkast_tf.variables.placement import ENDS, Placement

_UNBUILT = (
    "Expected a model that is built before it is saved, because `distribution` or "
    "`exempt` depend on all of its weights. Received: a model with layers that have no "
    "weights yet"
)


def config_of(scope: Any, layer: Any) -> dict[str, Any]:
    """The configuration that a layer saves of its scope.

    Decisions are saved, not the rules that led to them: one layer does not know what
    the first of all weights is, or what ERK gives it. A layer that is copied while the
    scope is active, before it has weights, has no decisions: its copy joins the scope
    (`active_scopes.joined`).

    Args:
      scope: a `SparsityScope`.
      layer: one of its layers.

    Raises:
      ValueError: for a layer without weights, if what they get depends on others.
    """
    ids = {id(variable) for variable in layer.weights}
    is_copied = not ids and not layer.built and active_scope() is scope
    if not is_copied:
        scope.ensure_planned()
    weights = [
        made.get_config() for made in scope.decisions if id(made.variable) in ids
    ] or None
    if not ids and scope.was_restored_for(layer):
        weights = list(scope.saved.left) if scope.saved else None  # not yet used
    elif not ids and not is_copied and depends_on_others(scope.placement):
        if scope.layers.are_unbuilt():
            raise ValueError(_UNBUILT)
    config = {
        "method": scope.method.name,
        "arguments": scope.method.get_config(),
        "placement": _placement_config(scope.placement),
        "power": scope.power,
        "uid": scope.uid,
        "weights": weights,
    }
    if is_copied and weights is None:
        config["copy_of"] = scope.layers.number_of(layer)
    active = active_scope()
    if active not in (None, scope) and active.uid == scope.uid:
        config["replaces"] = True  # a wrapper copies what came from the file for it
    return config


def _placement_config(placement: Placement) -> dict[str, Any]:
    distribution = placement.distribution
    if callable(distribution):
        distribution = "uniform"  # its decisions are saved
    # Apart: `asdict` would copy each value of a mapping.
    rest = dataclasses.asdict(dataclasses.replace(placement, distribution="uniform"))
    return {**rest, "distribution": distribution}


def depends_on_others(placement: Placement) -> bool:
    """Whether the sparsity of a weight depends on the other weights."""
    distribution = placement.distribution
    on_its_own = distribution == "uniform" or isinstance(distribution, Mapping)
    return not on_its_own or bool(set(ENDS) & set(placement.exempt))


def parts_of(config: Mapping[str, Any]) -> tuple[Method, Placement]:
    """The method and the placement of a saved scope.

    Args:
      config: as `config_of` returns it.

    Raises:
      ValueError: for an unknown method, or a layer that was saved without weights.
    """
    if config["method"] not in METHODS:
        raise ValueError(
            f"Expected the library of the method {config['method']!r} to be imported "
            "before the model is loaded (for SWAT: `import swat_tf`). Received: "
            f"{config['method']!r}, with {sorted(METHODS)} known"
        )
    placement = Placement(**config["placement"])
    if "copy_of" in config and depends_on_others(placement):
        raise ValueError(_UNBUILT)
    return METHODS[config["method"]](**config["arguments"]), placement
