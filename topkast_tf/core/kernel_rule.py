"""Which weights are matmul or convolution kernels. Pure: names, shapes and classes.

The tables below classify weights of known Keras and keras_hub layer classes. Every other
weight is classified by its name and shape. `docs/what_is_sparsified.md` states the rule.
"""

from collections.abc import Mapping, Sequence

OUTPUT_EMBEDDING = "reverse_embeddings"
"""The kernel of an untied output projection, created with the input embedding."""

_PACKAGES = ("keras", "tf_keras", "keras_hub", "keras_nlp")

_CELL = ("kernel", "recurrent_kernel")
_EXPERTS = (
    "expert_feedforward_gate_dense",
    "expert_feedforward_intermediate_dense",
    "expert_feedforward_output_dense",
)
_KERNELS: Mapping[str, tuple[str, ...]] = {
    # Keras 3 and tf_keras, whose convolutions have different base classes.
    "Dense": ("kernel",),
    "EinsumDense": ("kernel",),
    "BaseConv": ("kernel",),
    "BaseConvTranspose": ("kernel",),
    "BaseDepthwiseConv": ("kernel",),
    "BaseSeparableConv": ("depthwise_kernel", "pointwise_kernel"),
    "Conv": ("kernel",),
    "DepthwiseConv": ("depthwise_kernel",),
    "SeparableConv": ("depthwise_kernel", "pointwise_kernel"),
    "LocallyConnected1D": ("kernel",),
    "LocallyConnected2D": ("kernel",),
    "SimpleRNNCell": _CELL,
    "LSTMCell": _CELL,
    "GRUCell": _CELL,
    "ConvLSTMCell": _CELL,
    "ReversibleEmbedding": (OUTPUT_EMBEDDING,),
    # keras_hub.
    "Gemma4AudioRelativePositionEmbedding": ("pos_proj",),
    "Gemma4MoEBlock": ("gate_proj", "up_proj", "down_proj"),
    "GptOssExperts": ("gate_up_proj", "down_proj"),
    "MaskedLMHead": ("output_kernel",),
    "MixtralMoeExperts": _EXPERTS,
    "Qwen3MoeExperts": _EXPERTS,
    "Qwen3_5GatedDeltaNet": ("conv1d_kernel",),
    "Qwen3_5MoeExperts": _EXPERTS,
    "QwenMoeExperts": _EXPERTS,
    "RWKV7TimeMix": ("a1", "a2", "g1", "g2", "v1", "v2", "w1", "w2"),
}

_ROWS = "looks up its rows"
_QUERIES = "takes it as an input"
_OTHERS: Mapping[str, Mapping[str, str]] = {
    "Embedding": {"embeddings": _ROWS},
    "PositionEmbedding": {"embeddings": _ROWS},
    "AddRelativePositionalEmbedding": {"rel_pos_h": _ROWS, "rel_pos_w": _ROWS},
    "BLIP2QueryTokens": {"query_tokens": _QUERIES},
    "VideoPrismAttenTokenPoolingLayer": {"pooling_attention_query": _QUERIES},
    "RWKV7TimeMix": {"r_k": "multiplies by it elementwise"},
    "XLNetEncoder": {"segment_encoding": _ROWS},
}

_WORDS_OF_OTHERS = frozenset(
    "bias gamma beta scale offset alpha lora "
    "embedding embeddings embed embeds emb embs".split()
)
_LAST_WORDS_OF_OTHERS = frozenset(
    "token tokens queries encoding encodings positions table".split()
)
_LAST_WORDS_OF_KERNELS = frozenset("w weight weights filter filters".split())


def why_not_kernel(
    name: str, shape: Sequence[int], classes: Sequence[type] = ()
) -> str | None:
    """Why a weight with two or more axes is not a kernel, or None if it is one.

    Args:
      name: the weight's own name, or a path that ends in it.
      shape: its shape.
      classes: the class of the layer that creates it, and its bases (`__mro__`).

    Returns:
      A short phrase that names the rule, or None.

    >>> why_not_kernel("recurrent_kernel", (8, 32)) is None
    True
    >>> why_not_kernel("position_embedding", (8, 32))
    "not a matmul or convolution kernel (its name has the word 'embedding')"
    >>> why_not_kernel("gain", (1, 32))
    'not a matmul or convolution kernel (its shape (1, 32) has an axis of 1)'
    """
    name = name.split("/")[-1].split(":")[0]
    for cls in _known(classes):
        if name in _KERNELS.get(cls, ()):
            return None
        if name in _OTHERS.get(cls, ()):
            why: str | None = f"{cls} {_OTHERS[cls][name]}"
            break
    else:
        why = _why_not_by_name_and_shape(name, tuple(shape))
    return why and f"not a matmul or convolution kernel ({why})"


def makes_output_embedding(classes: Sequence[type]) -> bool:
    """Whether these layer classes create an output projection with their embedding.

    >>> import keras
    >>> makes_output_embedding(keras.layers.Embedding.__mro__)
    False
    """
    return "ReversibleEmbedding" in _known(classes)


def _known(classes: Sequence[type]) -> list[str]:
    """The names of the classes that belong to a package of the tables."""
    return [c.__name__ for c in classes if c.__module__.split(".")[0] in _PACKAGES]


def _why_not_by_name_and_shape(name: str, shape: tuple[int, ...]) -> str | None:
    words = name.lower().split("_")
    if words[-1] in ("kernel", "kernels"):
        return None
    telling = [word for word in words if word in _WORDS_OF_OTHERS]
    telling += [word for word in words[-1:] if word in _LAST_WORDS_OF_OTHERS]
    if telling:
        return f"its name has the word {telling[0]!r}"
    if words[-1] in _LAST_WORDS_OF_KERNELS:
        return None
    # In a 1x1 convolution the axes of length 1 precede the two channel axes.
    is_pointwise = len(shape) > 3 and set(shape[:-2]) == {1} and 1 not in shape[-2:]
    if 1 in shape and not is_pointwise:
        return f"its shape {shape} has an axis of 1"
    return None
