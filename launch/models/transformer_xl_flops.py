"""Counted FLOPs of a Transformer-XL per token of a text, including the softmax."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from launch.models.transformer_xl import TransformerXL
from topkast_tf.analysis.flops import (
    FlopReport,
    FlopRow,
    SelectionCost,
    count_flops,
    selection_cost,
)
from topkast_tf.variables.lookup import sparse_weights


def count_token_flops(
    model: TransformerXL,
    frequencies: Sequence[float] | None = None,
    *,
    elementwise: bool = False,
) -> FlopReport:
    """FLOPs per token of a training segment with a full memory.

    A cluster of the adaptive softmax is computed only for its tokens, so it is weighted
    by their frequency::

        FLOPs = core(segment, memory) / segment_length
                + sum_i frequency_i * logits_i(token),    frequency_0 = 1

    Attention products are counted in full, including those that the causal mask hides,
    because the model computes them.

    Args:
      model: the model, dense or sparse.
      frequencies: the share of tokens in each cluster of the vocabulary, in [0, 1]; the
        first is ignored, because every token needs that cluster. Not needed without
        cutoffs.
      elementwise: as in `topkast_tf.count_flops`.

    Returns:
      A `FlopReport`, whose "example" is a token. Weights are selected once a step,
      however many tokens it has.

    Raises:
      ValueError: if there is not one frequency for each cluster.

    >>> from launch.models.transformer_xl_config import CONFIGS
    >>> model = TransformerXL(CONFIGS["txl_tiny"])
    >>> softmax = count_token_flops(model).rows[-1]
    >>> softmax.macs  # 11 tokens, 8 states
    88
    """
    config = model.config
    clusters = len(config.clusters)
    shares = (1.0,) if frequencies is None else (1.0, *frequencies[1:])
    if len(shares) != clusters:
        raise ValueError(
            f"Expected {clusters} `frequencies`, one for each cluster. "
            f"Received: frequencies={frequencies}"
        )
    states = (None, config.memory_length, config.d_model)
    dtype = model.compute_dtype
    segment = [tf.TensorSpec((None, config.segment_length), tf.int32)]
    memory = [tf.TensorSpec(states, dtype) for _ in range(config.layers)]
    core = count_flops(
        lambda parts: model.core(parts[0][0], parts[1], training=False)[0],
        (segment, memory),
        elementwise=elementwise,
    )
    hidden = tf.TensorSpec((None, config.d_model), model.softmax.compute_dtype)
    heads = [
        count_flops(
            lambda h, i=i: model.softmax.logits(h, i), hidden, elementwise=elementwise
        )
        for i in range(clusters)
    ]
    parts = ((core, 1 / config.segment_length), *zip(heads, shares, strict=True))
    rows: list[FlopRow] = []
    selections = 0.0
    for report, factor in parts:
        rows += (_times(row, factor) for row in report.rows)
        selections += report.selection.activations * factor
    uncounted = {path for report, _ in parts for path in report.uncounted}
    # A weight is selected once a step, whichever of the parts read it.
    selection = SelectionCost(selection_cost(sparse_weights(model)).weights, selections)
    return FlopReport(tuple(rows), tuple(sorted(uncounted)), selection)


def _times(row: FlopRow, factor: float) -> FlopRow:
    return dataclasses.replace(
        row,
        macs=round(row.macs * factor),
        elementwise=round(row.elementwise * factor),
    )
