"""meProp: back-propagation of the largest error gradients alone."""

from collections.abc import Sequence

from swat_tf.recipe import check_dense
from swat_tf.scope import swat_scope
from topkast_tf.scope import ReusableScope, register_scope


@register_scope("meprop")
def meprop_scope(
    sparsity: float,
    *,
    distribution: str = "uniform",
    exempt: str | Sequence[str] = (),
    include: str | Sequence[str] | None = None,
    seed: int = 0,
    kernels: str = "auto",
    storage: str = "dense",
) -> ReusableScope:
    """Minimal effort back propagation (Sun et al. 2017): top-k error gradients per example.

    For each layer with input a, kernel w and output gradient dy, with dy~ the k largest
    entries of dy by magnitude, of each example::

        y  = product(a, w)                 forward: dense
        da = input gradient of dy~ at w
        dw = weight gradient of dy~ at a

    with ``k = n - floor(sparsity n)`` of the n outputs of an example (in a convolution, of
    all its positions and filters). Weights and activations are dense: a trained model is
    that of a dense network. It is `swat_scope` with `errors` alone. The source leaves the
    last layer, whose gradient is that of the loss, dense: ``exempt="last"``.

    Args:
      sparsity: fraction of zeros of the error gradients, in [0, 1).
      distribution: ``"uniform"``, the only one.
      exempt: as for `swat_scope`.
      include: as for `swat_scope`.
      seed: saved with the model; no random numbers are used.
      kernels: as for `swat_scope`; the products of this method are masked.
      storage: ``"dense"``, the only one, as all activations are kept.

    Returns:
      A context manager, as from `swat_scope`.

    Raises:
      ValueError: for another distribution or storage, and as `swat_scope`.

    >>> import keras
    >>> from swat_tf import meprop_scope
    >>> with meprop_scope(0.96, exempt="last"):  # the 20 largest of 500
    ...     model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(500),
    ...                               keras.layers.Dense(10)])

    Source: the paper (ICML 2017) and the README of its code. Departs from it in that the
    fraction is given, and k follows for each layer.
    """
    why = "which has dense weights and activations"
    check_dense("meprop", why, distribution, storage)
    return swat_scope(
        0.0,
        activations=0.0,
        errors=sparsity,
        errors_per="sample",
        forward=(),
        backward=(),
        freeze_at=1,
        exempt=exempt,
        include=include,
        seed=seed,
        kernels=kernels,
    )
