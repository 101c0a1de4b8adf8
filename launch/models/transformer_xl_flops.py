"""Counted FLOPs of a Transformer-XL per token of a text, including the softmax."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from launch.models.transformer_xl import TransformerXL
from topkast_tf.analysis.flops import FlopReport, FlopRow, count_flops


def count_token_flops(
    model: TransformerXL, frequencies: Sequence[float] | None = None
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

    Returns:
      A `FlopReport`, whose "example" is a token.

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
    )
    rows = _times(core.rows, 1 / config.segment_length)
    uncounted = set(core.uncounted)
    hidden = tf.TensorSpec((None, config.d_model), model.softmax.compute_dtype)
    for i, share in enumerate(shares):
        head = count_flops(lambda h, i=i: model.softmax.logits(h, i), hidden)
        rows += _times(head.rows, share)
        uncounted |= set(head.uncounted)
    return FlopReport(rows, tuple(sorted(uncounted)))


def _times(rows: Sequence[FlopRow], factor: float) -> tuple[FlopRow, ...]:
    return tuple(
        dataclasses.replace(row, macs=round(row.macs * factor)) for row in rows
    )
