"""What is done to the sets of a whole model: selected anew, or left as they are."""

from typing import Any

from topkast_tf.variables.lookup import some_sparse_weights
from topkast_tf.variables.restart import one_of_each_budget


def refresh(model: Any) -> None:
    """Selects the sets of all sparse weights of a model anew, from theta as it is.

    Training does this by itself, every `refresh_every` steps.

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
    """From here on the sets of all sparse weights of a model stay as they are.

    ``A_t = A, B_t = B`` for each later step t: what is in B goes on training, and nothing
    else ever will. It holds also where weights are assigned: after `freeze`, `set_weights`
    or `load_weights` with the weights of a dense model train these under the sets found
    here, as the lottery ticket hypothesis asks for. What is frozen is saved with the
    model. Only `refresh` selects anew, once.

    Weights of other models that share a common budget with these are frozen, too.

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
