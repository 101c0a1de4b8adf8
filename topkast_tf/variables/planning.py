"""Spreading the sparsity of a scope over its weights."""

from collections.abc import Mapping, Sequence

from topkast_tf.core.resolve import resolve
from topkast_tf.methods import Method
from topkast_tf.variables.placement import Placement
from topkast_tf.variables.weight import SparseWeight


def plan_weights(
    weights: Sequence[SparseWeight],
    method: Method,
    placement: Placement,
    is_complete: bool,
) -> None:
    """Gives each weight its forward and backward sparsity.

    Args:
      weights: all weights of a scope so far.
      method: that of the scope.
      placement: that of the scope.
      is_complete: whether no more weights can join. Until then a distribution that
        cannot be reached yet is replaced by the nominal sparsities.

    Raises:
      ValueError: if a weight that was trained would change; if all weights are there,
        for a distribution that cannot be reached.
    """
    in_use = [weight for weight in weights if weight.place is not None]
    in_use.sort(key=lambda weight: weight.place)
    exempt = in_use[-1:] if "last" in placement.exempt else []
    planned = [weight for weight in weights if weight not in exempt]
    shapes = {weight.path: weight.shape for weight in planned}
    sparsities = _resolve(shapes, method, placement, is_complete) if shapes else {}
    changed = [w for w in planned if sparsities[w.path] != (w.fwd, w.bwd)]
    changed += [weight for weight in exempt if not weight.exempt]
    started = [w for w in changed if w.is_ready and w.step > 0]
    if started:
        raise ValueError(
            "Expected all weights to be made before training starts, because "
            f"distribution={placement.distribution!r} is spread over all of "
            "them. Build the whole model first. Received: a new weight after "
            f"{started[0].step} steps"
        )
    for weight in planned:
        weight.plan(*sparsities[weight.path])
    for weight in exempt:
        weight.plan(0.0, 0.0, exempt=True)


def _resolve(
    shapes: Mapping, method: Method, placement: Placement, is_complete: bool
) -> Mapping[str, tuple[float, float]]:
    try:
        return resolve(
            placement.distribution, shapes, method.fwd, method.bwd, method.one_mask
        )
    except ValueError:
        # With the weights to come the distribution may be reached, or its regexes match.
        if is_complete:
            raise
        return dict.fromkeys(shapes, (method.fwd, method.bwd))
