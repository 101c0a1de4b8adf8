"""The forward pass of a Transformer-XL, from its configuration."""

import math

from launch.cost_model.forward_pass import OTHER, RELU, Amount, ForwardPass, Kept
from launch.models.transformer_xl_config import TransformerXLConfig

_FLOAT32 = 4
_INT32 = 4
_EMBEDDING = "core/embedding"


def language_pass(
    config: TransformerXLConfig, name: str, compute_itemsize: int = _FLOAT32
) -> ForwardPass:
    """The products of a Transformer-XL, and the tensors kept for its backward pass.

    With L tokens per segment, K = L + memory length keys and n = heads * d_head, a block
    has these products: L d n (query, output), K d n (key, value; position once per
    batch), 2 L d d_inner, and 3 L K n between activations. The softmax is included, each
    tail of an adaptive one for `tail_share` of the tokens. Table look-ups are not
    products.

    Args:
      config: the configuration of the model, of which the training lengths are used.
      name: the name of the model, with which the paths of its weights begin.
      compute_itemsize: bytes per entry of an activation; softmaxes and norms take four.

    Source: as `launch.models.transformer_xl`; counted as in `topkast_tf.count_flops`.
    """
    macs: dict[str, Amount] = {}
    kept: list[Kept] = []
    full = config.segment_length + config.memory_length
    _embed(config, f"{name}/", macs, kept, compute_itemsize)
    positions = [
        f"{name}/core/block_{i}/attention/position/kernel" for i in range(config.layers)
    ]
    kept += [
        Kept(Amount(once=full * config.d_model), compute_itemsize, tuple(positions)),
        Kept(Amount(once=full * config.segment_length), 1),  # which keys are visible
    ]
    for i in range(config.layers):
        _block(config, f"{name}/core/block_{i}/", macs, kept, compute_itemsize)
    _softmax(config, f"{name}/", macs, kept)
    scores = 3 * config.segment_length * full * config.heads * config.d_head
    states = config.layers * config.memory_length * config.d_model
    return ForwardPass(
        macs,
        Amount(config.layers * scores),
        tuple(kept),
        inputs=Amount(2 * _INT32 * config.segment_length),
        carried=Amount(_FLOAT32 * states),
    )


def tail_share(start: int, end: int, vocabulary: int) -> float:
    """The share of tokens of a text with ids in [`start`, `end`).

    Ids are ranks by frequency, and the frequency of rank r is assumed proportional to
    1 / r: ``(ln(end + 1) - ln(start + 1)) / ln(vocabulary + 1)``.

    >>> tail_share(0, 100, 100)
    1.0
    >>> round(tail_share(200_000, 267_735, 267_735), 3)
    0.023

    Source: Zipf's law, which overestimates rare words slightly.
    """
    return math.log((end + 1) / (start + 1)) / math.log(vocabulary + 1)


def _embed(config, prefix, macs, kept, itemsize) -> None:
    tokens, model = config.segment_length, config.d_model
    shared = config.div_val == 1
    if not shared or config.d_embed != model:
        widths = [width for _, _, width in config.clusters]
        for i, width in enumerate(widths[:1] if shared else widths):
            path = f"{prefix}{_EMBEDDING}/embedding_projection_{i}"
            _add(macs, path, tokens * width * model)
            kept.append(Kept(Amount(tokens * width), itemsize))
    if config.dropout:
        kept.append(Kept(Amount(tokens * model), 1))


def _block(config, prefix, macs, kept, itemsize) -> None:
    tokens, model, inner = config.segment_length, config.d_model, config.d_inner
    keys, width = tokens + config.memory_length, config.heads * config.d_head
    attention = f"{prefix}attention/"
    _add(macs, f"{attention}query/kernel", tokens * model * width)
    _add(macs, f"{attention}key/kernel", keys * model * width)
    _add(macs, f"{attention}value/kernel", keys * model * width)
    macs[f"{attention}position/kernel"] = Amount(once=keys * model * width)
    _add(macs, f"{attention}output/kernel", tokens * width * model)
    _add(macs, f"{prefix}inner/kernel", tokens * model * inner)
    _add(macs, f"{prefix}outer/kernel", tokens * inner * model)

    def keep(entries, *readers, size=itemsize):
        kept.append(Kept(Amount(entries), size, readers or (OTHER,)))

    def drop(entries):
        if config.dropout:
            keep(entries, size=1)

    keep(tokens * model, f"{attention}query/kernel")
    keep(keys * model, f"{attention}key/kernel", f"{attention}value/kernel")
    keep(2 * tokens * width)  # queries with each of the two biases
    keep(2 * keys * width)  # keys, values
    kept.append(Kept(Amount(once=keys * width), itemsize))
    scores = config.heads * tokens * keys
    keep(scores, size=_FLOAT32)
    if config.attention_dropout:
        keep(scores, size=1)
    if config.attention_dropout or itemsize != _FLOAT32:
        keep(scores)
    keep(tokens * width, f"{attention}output/kernel")
    drop(tokens * model)
    keep(tokens * (2 * model + 3), size=_FLOAT32)  # for the norm
    keep(tokens * model, f"{prefix}inner/kernel")
    if config.dropout:
        keep(tokens * inner, RELU)
        drop(tokens * inner)
        keep(tokens * inner, f"{prefix}outer/kernel")
    else:
        keep(tokens * inner, RELU, f"{prefix}outer/kernel")
    drop(tokens * model)
    keep(tokens * (2 * model + 3), size=_FLOAT32)


def _softmax(config, prefix, macs, kept) -> None:
    tokens, model = config.segment_length, config.d_model
    shared = config.div_val == 1
    projected = not shared or config.d_embed != model

    def keep(entries, size=_FLOAT32):
        kept.append(Kept(Amount(round(entries)), size))

    if config.dropout:
        keep(tokens * model, 1)
    keep(tokens * model)
    for i, (start, end, width) in enumerate(config.clusters):
        share = tail_share(start, end, config.vocabulary) if i else 1.0
        rows, names = tokens * share, end - start
        if i:
            keep(rows * model)
        if projected:
            own = not (i and config.tie_projections)
            place = "softmax" if own else _EMBEDDING
            number = 0 if shared and not own else i
            path = f"{prefix}{place}/embedding_projection_{number}"
            _add(macs, path, rows * model * width)
            keep(rows * width)
        table = f"{prefix}{_EMBEDDING}/embeddings_{0 if shared else i}"
        _add(macs, table, rows * width * names)
        keep(rows * names)
        if not i and config.cutoffs:
            tails = len(config.cutoffs)
            _add(macs, f"{prefix}softmax/cluster_embeddings", tokens * width * tails)
            keep(tokens * tails)


def _add(macs, path, number) -> None:
    macs[path] = macs.get(path, Amount()) + Amount(round(number))
