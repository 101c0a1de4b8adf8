"""The configuration of Transformer-XL models, and the published configurations."""

import dataclasses
from collections.abc import Mapping

_FOLLOWS = {
    "d_embed": "d_model",
    "evaluation_memory_length": "memory_length",
    "evaluation_segment_length": "segment_length",
    "evaluation_clamp_len": "clamp_len",
}


@dataclasses.dataclass(frozen=True)
class TransformerXLConfig:
    """The configuration of one Transformer-XL.

    Attributes:
      vocabulary: number of tokens.
      layers: number of blocks of attention and feed-forward.
      d_model: width of the hidden states; even.
      heads: attention heads in a block.
      d_head: width of a head; heads * d_head may differ from d_model.
      d_inner: width inside the feed-forward part.
      d_embed: width of the embeddings of the most frequent tokens; d_model if None.
      cutoffs: increasing token ids at which a new cluster of rarer tokens begins, for
        the adaptive embedding and softmax. Empty: one plain softmax.
      div_val: cluster i has embeddings of width d_embed // div_val ** i, at least 1.
      tie_projections: the softmax of the clusters after the first uses the projections
        of the embedding; the first always has its own.
      untie_biases: each block has its own biases u and v; otherwise all share one pair.
      memory_length: hidden states of earlier segments that are kept in training.
      segment_length: tokens per segment in training, for the input pipeline. The model
        accepts segments of any length.
      evaluation_memory_length: as `memory_length`, in evaluation; the same if None.
      evaluation_segment_length: as `segment_length`, in evaluation; the same if None.
      clamp_len: maximum distance in training, to which larger ones are clamped; None: no
        limit.
      evaluation_clamp_len: as `clamp_len`, in evaluation; the same if None.
      same_length: in evaluation each token sees the same number of states: the memory
        length and itself.
      dropout: rate for embeddings, positions, the outputs of each sublayer, and inside
        the feed-forward sublayer, in [0, 1).
      attention_dropout: rate for attention weights, in [0, 1).
      init_std: standard deviation of the initial weights.
      projection_init_std: the same for the projections of embeddings and softmax.

    Raises:
      ValueError: for a value out of range.
    """

    vocabulary: int
    layers: int
    d_model: int
    heads: int
    d_head: int
    d_inner: int
    d_embed: int | None = None
    cutoffs: tuple[int, ...] = ()
    div_val: int = 1
    tie_projections: bool = True
    untie_biases: bool = True
    memory_length: int = 0
    segment_length: int = 64
    evaluation_memory_length: int | None = None
    evaluation_segment_length: int | None = None
    clamp_len: int | None = None
    evaluation_clamp_len: int | None = None
    same_length: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    init_std: float = 0.02
    projection_init_std: float = 0.01

    def __post_init__(self) -> None:
        for name, source in _FOLLOWS.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(self, source))
        object.__setattr__(self, "cutoffs", tuple(self.cutoffs or ()))
        self._validate()

    def _validate(self) -> None:
        sizes = ("vocabulary", "layers", "d_model", "heads", "d_head", "d_inner")
        lengths = ("segment_length", "evaluation_segment_length")
        for name in (*sizes, *lengths, "d_embed", "div_val"):
            self._expect(name, "at least 1", lambda value: value >= 1)
        for name in ("memory_length", "evaluation_memory_length"):
            self._expect(name, "at least 0", lambda value: value >= 0)
        for name in ("clamp_len", "evaluation_clamp_len"):
            self._expect(
                name, "None or at least 1", lambda value: value is None or value >= 1
            )
        for name in ("dropout", "attention_dropout"):
            self._expect(name, "in [0, 1)", lambda value: 0 <= value < 1)
        for name in ("init_std", "projection_init_std"):
            self._expect(name, "at least 0", lambda value: value >= 0)
        self._expect("d_model", "even", lambda value: value % 2 == 0)
        if self.same_length and not self.evaluation_memory_length:
            raise ValueError(
                "Expected a memory in evaluation, as with `same_length` a token sees the "
                "memory length and itself. Received: evaluation_memory_length=0"
            )
        ends = (0, *self.cutoffs, self.vocabulary)
        if any(a >= b for a, b in zip(ends, ends[1:], strict=False)):
            raise ValueError(
                "Expected `cutoffs` to increase, above 0 and below the vocabulary. "
                f"Received: cutoffs={self.cutoffs}, vocabulary={self.vocabulary}"
            )
        if self.d_embed // self.div_val ** len(self.cutoffs) < 1:
            raise ValueError(
                "Expected embeddings at least 1 wide in the last cluster. Received: "
                f"d_embed={self.d_embed}, div_val={self.div_val}, "
                f"{len(self.cutoffs)} cutoffs"
            )

    def _expect(self, name, what, holds) -> None:
        value = getattr(self, name)
        if not holds(value):
            raise ValueError(f"Expected `{name}` to be {what}. Received: {value!r}")

    @property
    def clusters(self) -> tuple[tuple[int, int, int], ...]:
        """(first token, token after the last, width of embeddings) of each cluster.

        >>> CONFIGS["wikitext103_large"].clusters[:2]
        ((0, 20000, 1024), (20000, 40000, 256))
        """
        ends = (0, *self.cutoffs, self.vocabulary)
        return tuple(
            (start, end, self.d_embed // self.div_val**i)
            for i, (start, end) in enumerate(zip(ends, ends[1:], strict=False))
        )

    def replaced(self, **changes) -> "TransformerXLConfig":
        """The same configuration with some fields changed.

        A field whose default is another field, and which equals it, follows its change.

        >>> CONFIGS["txl_tiny"].replaced(memory_length=9).evaluation_memory_length
        9
        """
        following = {
            name: None
            for name, source in _FOLLOWS.items()
            if getattr(self, name) == getattr(self, source)
        }
        return dataclasses.replace(self, **{**following, **changes})

    def widened(self, factor: float) -> "TransformerXLConfig":
        """The same configuration with the widths multiplied, to the nearest integers.

        These are the widths of hidden states (to an even number), heads, the feed-forward
        part and the embeddings; the number of heads stays.

        Args:
          factor: above 0.

        >>> CONFIGS["txl_small"].widened(1.5).d_model
        192
        """
        names = ["d_head", "d_inner"]
        if self.d_embed != self.d_model:
            names.append("d_embed")
        widths = {name: max(1, round(factor * getattr(self, name))) for name in names}
        widths["d_model"] = 2 * max(1, round(factor * self.d_model / 2))
        return self.replaced(**widths)


WIKITEXT103_CUTOFFS = (20000, 40000, 200000)

_BASE = TransformerXLConfig(
    vocabulary=204,
    layers=12,
    d_model=512,
    heads=8,
    d_head=64,
    d_inner=2048,
    untie_biases=False,
    memory_length=512,
    segment_length=512,
    evaluation_memory_length=2100,
    evaluation_segment_length=80,
    evaluation_clamp_len=820,
    same_length=True,
    dropout=0.1,
)
_LARGE = TransformerXLConfig(
    vocabulary=204,
    layers=24,
    d_model=1024,
    heads=8,
    d_head=128,
    d_inner=3072,
    untie_biases=False,
    memory_length=768,
    segment_length=768,
    evaluation_memory_length=3800,
    evaluation_segment_length=128,
    evaluation_clamp_len=1000,
    same_length=True,
    dropout=0.15,
    attention_dropout=0.15,
)

CONFIGS: Mapping[str, TransformerXLConfig] = {
    "enwik8_base": _BASE,
    # Depth and size are from the paper; the widths were not published and are our choice.
    "enwik8_18": _BASE.replaced(layers=18, d_model=640, d_head=80, d_inner=2240),
    "enwik8_large": _LARGE,
    "text8_base": _BASE.replaced(vocabulary=27),
    "text8_large": _LARGE.replaced(vocabulary=27),
    "wikitext103_base": TransformerXLConfig(
        vocabulary=267_735,
        layers=16,
        d_model=410,
        heads=10,
        d_head=41,
        d_inner=2100,
        cutoffs=WIKITEXT103_CUTOFFS,
        untie_biases=False,
        memory_length=150,
        segment_length=150,
        evaluation_memory_length=640,
        evaluation_segment_length=64,
        evaluation_clamp_len=400,
        same_length=True,
        dropout=0.1,
    ),
    "wikitext103_large": TransformerXLConfig(
        vocabulary=267_735,
        layers=18,
        d_model=1024,
        heads=16,
        d_head=64,
        d_inner=4096,
        cutoffs=WIKITEXT103_CUTOFFS,
        div_val=4,
        memory_length=384,
        segment_length=384,
        evaluation_memory_length=1600,
        evaluation_segment_length=128,
        evaluation_clamp_len=1000,
        same_length=True,
        dropout=0.2,
        attention_dropout=0.2,
        init_std=0.005,
    ),
    "txl_small": TransformerXLConfig(
        vocabulary=256,
        layers=4,
        d_model=128,
        heads=4,
        d_head=32,
        d_inner=512,
        memory_length=64,
        segment_length=64,
        evaluation_memory_length=128,
        same_length=True,
        dropout=0.1,
    ),
    "txl_medium": TransformerXLConfig(
        vocabulary=256,
        layers=6,
        d_model=512,
        heads=8,
        d_head=64,
        d_inner=2048,
        memory_length=256,
        segment_length=256,
        same_length=True,
        dropout=0.1,
    ),
    "txl_small_words": TransformerXLConfig(
        vocabulary=20_000,
        layers=4,
        d_model=128,
        heads=4,
        d_head=32,
        d_inner=512,
        cutoffs=(2_000, 10_000),
        div_val=2,
        memory_length=64,
        segment_length=64,
        evaluation_memory_length=128,
        same_length=True,
        dropout=0.1,
    ),
    "txl_tiny": TransformerXLConfig(
        vocabulary=11,
        layers=2,
        d_model=8,
        heads=2,
        d_head=3,
        d_inner=12,
        memory_length=4,
        segment_length=4,
    ),
}
"""Configurations by name. Tokens are bytes for enwik8 (204 occur) and letters for text8.

The published ones are from the authors' scripts: for enwik8, text8 and the large
WikiText-103 model from their TensorFlow code; for the base WikiText-103 model from their
PyTorch code, the only one with the 151M parameters of the paper. `txl_small` and
`txl_medium`, for bytes, and `txl_small_words` train on two CPU cores; `txl_tiny` is for
tests.
"""


def find(name: str) -> TransformerXLConfig:
    """The configuration of a name.

    Raises:
      ValueError: for a name that is not in `CONFIGS`.
    """
    if name not in CONFIGS:
        raise ValueError(f"Expected one of {', '.join(CONFIGS)}. Received: {name!r}")
    return CONFIGS[name]


def from_saved(settings: TransformerXLConfig | Mapping) -> TransformerXLConfig:
    """A configuration from that of a saved model."""
    if isinstance(settings, TransformerXLConfig):
        return settings
    return TransformerXLConfig(**settings)
