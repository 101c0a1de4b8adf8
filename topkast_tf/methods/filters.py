"""Filter pruning: the outputs of a weight with the smallest L1 norms are zero."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import tensorflow as tf

from topkast_tf.core import selection
from topkast_tf.core.blocks import Blocks, MatrixView
from topkast_tf.core.schedules import Never
from topkast_tf.methods.base import Selection, Sets
from topkast_tf.methods.one_mask import OneMask
from topkast_tf.methods.registry import register


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class FilterPruning(OneMask):
    """Filter pruning by L1 norm (Li et al. 2017). One-shot, from a trained network.

    In the 2-D view of a weight (inputs x outputs), with n outputs::

        score[o] = sum over inputs i of |theta[i, o]|
        A = B = all inputs of the kept(n, sparsity) outputs with the largest scores

    An output is a filter of a convolution (also of a grouped or transposed one), a channel
    of a depthwise convolution, a unit of a Dense layer. The mask is selected when the
    weights are created or assigned, e.g. by `sparsify` from a trained model, and does not
    move in training; `topkast_tf.refresh` selects again. `topkast_tf.compact` then removes
    the outputs, and the inputs of the next layer that read them.

    The outputs of the last weight are those of the model: leave it dense by
    ``exempt="last"``. Name sensitive weights in `exempt` or `distribution` too, as the
    source does. Of a recurrent kernel, an output is a unit of one gate.

    State: none but theta and the sets. Ties go to the lower index.

    Attributes:
      sparsity: fraction of the outputs of each weight that are zero, in [0, 1).

    Raises:
      ValueError: for a sparsity out of range.

    >>> import keras
    >>> from topkast_tf import sparse_scope, sparse_weights, sparsify
    >>> dense = keras.Sequential(
    ...     [keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    >>> _ = dense.layers[0].kernel.assign([[1.0, -3.0, 2.0], [1.0, 0.0, -2.0]])
    >>> model = sparsify(dense, sparse_scope("filters", sparsity=0.5, exempt="last"))
    >>> sparse_weights(model)[0].effective().tolist()
    [[0.0, -3.0, 2.0], [0.0, 0.0, -2.0]]

    Source: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3. It
    retrains at a learning rate of 0.001, for 40 epochs on CIFAR-10 and 20 on ImageNet.
    Departs from it in that filters stay, as zeros, until `compact`; in that biases and the
    normalization after a filter stay, whose constants `compact` folds; in that the filters
    of a residual sum are scored one by one, and not by those of the shortcut; and in
    Dense layers, which it does not prune.
    """

    name: ClassVar[str] = "filters"
    # One threshold over all weights would compare sums of different lengths.
    distributions: ClassVar[tuple[str, ...] | None] = ("uniform", "er", "erk")

    @property
    def schedule(self) -> Never:  # type: ignore[override]
        return Never()

    def blocks(self, view: MatrixView) -> Blocks:
        return Blocks(view, (max(view.rows, 1), 1), "sum")

    def initial(self, weights: Sequence[Selection]) -> Sets:
        codes, finite = [], []
        for weight in weights:
            blocks = weight.blocks or self.blocks(MatrixView(tuple(weight.theta.shape)))
            [code], is_finite = selection.nested_sets_by_magnitude(
                [blocks.scores(weight.theta)], weight.kept_forward, weight.kept_forward
            )
            codes.append(blocks.expand(code))
            finite.append(is_finite)
        return Sets(codes, tf.reduce_all(tf.stack(finite)))

    def reselect(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        return self.initial(weights)

    def update(self, weights: Sequence[Selection], step: tf.Tensor) -> Sets:
        return Sets([weight.sets for weight in weights], tf.constant(True))
