"""Operations on the sets of a whole model: reselect, freeze."""

from typing import Any

from topkast_tf.variables.lookup import some_sparse_weights
from topkast_tf.variables.restart import one_of_each_budget


def refresh(model: Any) -> None:
    """Reselects the sets of all sparse weights of a model from the current theta.

    Training does this automatically, every `refresh_every` steps.

    Args:
      model: as for `sparse_weights`.

    Raises:
      ValueError: if nothing in the model is sparse, or a weight holds NaN.

    >>> import keras
    >>> from topkast_tf import refresh, topkast_scope
    >>> with topkast_scope(fwd=0.5, bwd=0.25):
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> refresh(model)
    """
    for weight in one_of_each_budget(some_sparse_weights(model)):
        weight.refresh()


def freeze(model: Any) -> None:
    """Fixes the sets of all sparse weights of a model from now on.

    ``A_t = A, B_t = B`` for each later step t: only entries of B continue to train. This
    also holds when weights are assigned: after `freeze`, `set_weights` or `load_weights`
    with the weights of a dense model trains these under the frozen sets, as the lottery
    ticket hypothesis requires. The frozen state is saved with the model. Only `refresh`
    reselects, once.

    Weights of other models that share a budget with these are frozen, too.

    Args:
      model: as for `sparse_weights`.

    Raises:
      ValueError: if nothing in the model is sparse, or it is not built.

    >>> import keras
    >>> from topkast_tf import freeze, sparse_weights, topkast_scope
    >>> with topkast_scope(fwd=0.5, bwd=0.5):
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> [kernel] = sparse_weights(model)
    >>> before = kernel.forward_mask()
    >>> freeze(model)
    >>> model.set_weights([-w[::-1] for w in model.get_weights()[:2]])
    >>> bool((kernel.forward_mask() == before).all())
    True

    Source: Frankle & Carbin, The Lottery Ticket Hypothesis, ICLR 2019, for the use.
    """
    for weight in some_sparse_weights(model):
        weight.freeze()
