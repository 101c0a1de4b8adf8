"""The weights of a Transformer-XL from its configuration, without building a model."""

import math

from launch.models.transformer_xl_config import TransformerXLConfig
from topkast_tf.core.kernel_rule import why_not_kernel
from topkast_tf.core.sparsities import kept

KERNELS = r"/kernel$"
EMBEDDINGS = r"/(embedding_projection_\d+|(cluster_)?embeddings(_\d+)?)$"


def weight_shapes(config: TransformerXLConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each trainable weight, by its path within the model.

    Args:
      config: the model's settings.

    >>> from launch.models.transformer_xl_config import CONFIGS
    >>> weight_shapes(CONFIGS["enwik8_large"])["core/block_0/inner/kernel"]
    (1024, 3072)
    """
    shapes = _embedding_shapes(config)
    heads = config.heads * config.d_head
    biases = {
        name: (config.heads, config.d_head)
        for name in ("content_bias", "position_bias")
    }
    if not config.untie_biases:
        shapes |= {f"core/{name}": shape for name, shape in biases.items()}
    for i in range(config.layers):
        block = {
            f"attention/{name}/kernel": (config.d_model, heads)
            for name in ("query", "key", "value", "position")
        }
        block["attention/output/kernel"] = (heads, config.d_model)
        if config.untie_biases:
            block |= {f"attention/{name}": shape for name, shape in biases.items()}
        for norm in ("attention_norm", "outer_norm"):
            block |= {f"{norm}/{name}": (config.d_model,) for name in ("gamma", "beta")}
        block["inner/kernel"] = (config.d_model, config.d_inner)
        block["inner/bias"] = (config.d_inner,)
        block["outer/kernel"] = (config.d_inner, config.d_model)
        block["outer/bias"] = (config.d_model,)
        shapes |= {f"core/block_{i}/{name}": shape for name, shape in block.items()}
    return shapes


def _embedding_shapes(config: TransformerXLConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of the embedding and the softmax."""
    shapes: dict[str, tuple[int, ...]] = {}
    shared = config.div_val == 1
    projected = not shared or config.d_embed != config.d_model
    for i, (start, end, width) in enumerate(config.clusters):
        projection = {f"embedding_projection_{i}": (width, config.d_model)}
        if not (shared and i):
            tokens = config.vocabulary if shared else end - start
            shapes[f"core/embedding/embeddings_{i}"] = (tokens, width)
            if projected:
                shapes |= {f"core/embedding/{n}": s for n, s in projection.items()}
        shapes[f"softmax/bias_{i}"] = (end - start,)
        if projected and not (i and config.tie_projections):
            shapes |= {f"softmax/{n}": s for n, s in projection.items()}
    tails = len(config.clusters) - 1
    if tails:
        shapes["softmax/cluster_embeddings"] = (tails, config.d_embed)
        shapes["softmax/cluster_bias"] = (tails,)
    return shapes


def count_parameters(config: TransformerXLConfig) -> int:
    """The number of trainable parameters of the model.

    >>> from launch.models.transformer_xl_config import CONFIGS
    >>> round(count_parameters(CONFIGS["enwik8_large"]) / 1e6)
    277
    """
    return sum(math.prod(shape) for shape in weight_shapes(config).values())


def sparsified(
    config: TransformerXLConfig, sparse_embeddings: bool = False
) -> dict[str, bool]:
    """The matrices that a sparse scope around the model makes sparse, by path.

    Any scope makes the kernels of attention and feed-forward sparse. The tables and
    projections of embedding and softmax need a scope with
    ``include=sparse_patterns(sparse_embeddings=True)``. Under `swat_scope` they always
    stay dense, because their products are not those of a layer.

    Args:
      config: the model's settings.
      sparse_embeddings: whether the scope includes embedding and softmax.

    Returns:
      {path within the model: whether it is made sparse}, for weights with two axes;
      biases and norms are left out.
    """
    return {
        path: why_not_kernel(path, shape) is None
        or (sparse_embeddings and "embedding" in _name(path))
        for path, shape in weight_shapes(config).items()
        if len(shape) > 1 and "bias" not in _name(path)
    }


def sparse_patterns(sparse_embeddings: bool = False) -> tuple[str, ...]:
    """The `include` of a scope: all kernels, and optionally embedding and softmax."""
    return (KERNELS, EMBEDDINGS) if sparse_embeddings else (KERNELS,)


def count_kept(
    config: TransformerXLConfig, sparsity: float, sparse_embeddings: bool = False
) -> int:
    """The number of parameters that a uniformly sparse model keeps, with dense ones.

    Args:
      config: the model's settings.
      sparsity: fraction of zeros of each matrix that is made sparse, in [0, 1).
      sparse_embeddings: as for `sparsified`.

    In Top-KAST's results for WikiText-103, 57M parameters at 80 % are those of the large
    model with sparse embeddings; with dense embeddings there would be 89M.

    >>> from launch.models.transformer_xl_config import CONFIGS
    >>> large = CONFIGS["wikitext103_large"]
    >>> round(count_kept(large, 0.8, sparse_embeddings=True) / 1e6)
    57
    >>> round(count_kept(large, 0.8) / 1e6)
    89
    """
    sparse = sparsified(config, sparse_embeddings)
    return sum(
        kept(math.prod(shape), sparsity) if sparse.get(path) else math.prod(shape)
        for path, shape in weight_shapes(config).items()
    )


def _name(path: str) -> str:
    return path.split("/")[-1]
