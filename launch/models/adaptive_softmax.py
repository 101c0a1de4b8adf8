"""Embedding and softmax of a large vocabulary, with small clusters for rare tokens."""

import keras
import tensorflow as tf
from keras import layers

from launch.models.relative_attention import softmax_dtype
from launch.models.transformer_xl_config import TransformerXLConfig


class AdaptiveEmbedding(layers.Layer):
    """Embeddings of tokens, narrower for the clusters of rarer ones.

    ``y = sqrt(d_model) * E_c[token - start_c] P_c`` for the token's cluster c

    With `div_val` 1 all clusters share one table, and one projection if d_embed differs
    from d_model; otherwise each cluster has a table of width d_embed / div_val ** c and a
    projection to d_model.

    Every weight has `embedding` in its name, so sparse scopes leave it dense unless their
    `include` matches it.

    Args:
      config: the configuration of the model.

    Source: Dai et al. 2019, appendix; Baevski and Auli 2019.
    """

    def __init__(self, config: TransformerXLConfig, **kwargs):
        super().__init__(**kwargs)
        self.config = config

    def build(self, input_shape=None):
        config = self.config
        shared = config.div_val == 1
        sizes = (
            [(config.vocabulary, config.d_embed)]
            if shared
            else [(end - start, width) for start, end, width in config.clusters]
        )
        projected = not shared or config.d_embed != config.d_model
        self.tables, self.projections = [], []
        for i, (tokens, width) in enumerate(sizes):
            self.tables.append(
                self.add_weight(
                    name=f"embeddings_{i}",
                    shape=(tokens, width),
                    initializer=_normal(config.init_std),
                )
            )
            if projected:
                self.projections.append(add_projection(self, i, width, config))

    def call(self, tokens):
        """Embeds.

        Args:
          tokens: integers [batch, length] in [0, vocabulary).

        Returns:
          [batch, length, d_model].
        """
        if self.config.div_val == 1:
            outputs = tf.gather(tf.convert_to_tensor(self.tables[0]), tokens)
            if self.projections:
                outputs = tf.matmul(outputs, self.projections[0])
        else:
            outputs = tf.add_n(
                [self._of_cluster(i, tokens) for i in range(len(self.tables))]
            )
        return outputs * self.config.d_model**0.5

    def _of_cluster(self, i, tokens):
        start, end, _ = self.config.clusters[i]
        rows = tf.clip_by_value(tokens - start, 0, end - start - 1)
        # Each token passes all clusters: shapes are fixed, and rare clusters narrow.
        found = tf.gather(tf.convert_to_tensor(self.tables[i]), rows)
        found = tf.matmul(found, self.projections[i])
        inside = (tokens >= start) & (tokens < end)
        return tf.where(inside[..., None], found, tf.zeros([], found.dtype))

    def table(self, i: int):
        """The present embeddings of cluster i, [tokens, width]."""
        if self.config.div_val != 1:
            return tf.convert_to_tensor(self.tables[i])
        start, end, _ = self.config.clusters[i]
        return tf.convert_to_tensor(self.tables[0])[start:end]

    def projection(self, i: int):
        """The present projection of cluster i, [width, d_model]; None: the identity."""
        if not self.projections:
            return None
        return tf.convert_to_tensor(self.projections[min(i, len(self.projections) - 1)])


class AdaptiveSoftmax(layers.Layer):
    r"""The log-likelihood of the next token, by clusters, tied to the embedding.

    With the first cluster 0 of frequent tokens and the clusters c >= 1 of rarer ones::

        p(token | h) = softmax_0(h)[token]                          token in cluster 0
        p(token | h) = softmax_0(h)[cluster c] softmax_c(h)[token]  token in cluster c
        logits_c(h) = E_c (P_c h) + b_c

    The tables E belong to the embedding. So do the projections P of the clusters c >= 1
    with `tie_projections`; cluster 0 always has its own. Without cutoffs it is one plain
    softmax. It computes in float32 even if the rest of the model does not.

    Row c - 1 of `cluster_embeddings` and `cluster_bias` belongs to cluster c. The
    authors' PyTorch version has cluster c in row -c, so a converter of its checkpoints
    must flip `cluster_weight` and `cluster_bias`.

    It is exact, and computes each tail only for the tokens in it. Their number is unknown
    when the graph is compiled, so with cutoffs XLA is not used.

    Args:
      config: the configuration of the model.
      embedding: the embedding, built.

    Source: Grave et al. 2017, as used by Dai et al. 2019.
    """

    def __init__(
        self, config: TransformerXLConfig, embedding: AdaptiveEmbedding, **kwargs
    ):
        super().__init__(dtype=softmax_dtype(embedding.compute_dtype), **kwargs)
        self.config = config
        # Hidden from Keras, which would track it as a sublayer, too.
        object.__setattr__(self, "_embedding", embedding)
        if config.cutoffs:
            self.supports_jit = False

    def build(self, input_shape=None):
        config = self.config
        tails = len(config.clusters) - 1
        self.biases, self.projections = [], {}
        for i, (start, end, width) in enumerate(config.clusters):
            self.biases.append(
                self.add_weight(
                    name=f"bias_{i}", shape=(end - start,), initializer="zeros"
                )
            )
            projected = self._embedding.projections
            if projected and not (i and config.tie_projections):
                self.projections[str(i)] = add_projection(self, i, width, config)
        if tails:
            self.cluster_table = self.add_weight(
                name="cluster_embeddings",
                shape=(tails, config.d_embed),
                initializer="zeros",
            )
            self.cluster_bias = self.add_weight(
                name="cluster_bias", shape=(tails,), initializer="zeros"
            )

    def call(self, hidden, targets=None):
        """The negative log-likelihood of each target.

        Args:
          hidden: [batch, length, d_model].
          targets: integers [batch, length] in [0, vocabulary), or None.

        Returns:
          [batch, length], in nats; without targets the log-probabilities of all tokens,
          [batch, length, vocabulary].
        """
        if targets is None:
            return self._log_probabilities(hidden)
        shape = tf.shape(targets)
        hidden = tf.reshape(hidden, [-1, self.config.d_model])
        targets = tf.cast(tf.reshape(targets, [-1]), tf.int32)
        labels = targets
        first = self.config.clusters[0][1]
        for i, (start, _, _) in enumerate(self.config.clusters[1:]):
            labels = tf.where(targets >= start, first + i, labels)
        nll = tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels, self.logits(hidden)
        )
        for i, (start, _, _) in enumerate(self.config.clusters[1:], start=1):
            # A target beyond the vocabulary is put in the last cluster, whose softmax
            # rejects it.
            places = tf.where(labels == first + i - 1)
            tail = tf.nn.sparse_softmax_cross_entropy_with_logits(
                tf.gather_nd(targets, places) - start,
                self.logits(tf.gather_nd(hidden, places), i),
            )
            nll = tf.tensor_scatter_nd_add(nll, places, tail)
        return tf.reshape(nll, shape)

    def _log_probabilities(self, hidden):
        first = self.config.clusters[0][1]
        head = tf.nn.log_softmax(self.logits(hidden))
        parts = [head[..., :first]]
        for i in range(1, len(self.config.clusters)):
            tail = tf.nn.log_softmax(self.logits(hidden, i))
            parts.append(head[..., first + i - 1, None] + tail)
        return tf.concat(parts, -1)

    def logits(self, hidden, i: int = 0):
        """The logits of the tokens of cluster i; for the first also of the other clusters.

        Args:
          hidden: [..., d_model].

        Returns:
          [..., tokens of the cluster], for the first [..., tokens + other clusters].
        """
        table, bias = self._embedding.table(i), tf.convert_to_tensor(self.biases[i])
        if not i and len(self.config.clusters) > 1:
            table = tf.concat([table, self.cluster_table], 0)
            bias = tf.concat([bias, self.cluster_bias], 0)
        own = self.projections.get(str(i))
        projection = self._embedding.projection(i) if own is None else own
        if projection is not None:
            hidden = tf.matmul(hidden, projection, transpose_b=True)
        return tf.matmul(hidden, table, transpose_b=True) + bias


def add_projection(
    layer: layers.Layer, i: int, width: int, config: TransformerXLConfig
):
    """Adds the projection of cluster i, [width, d_model], to a layer."""
    return layer.add_weight(
        name=f"embedding_projection_{i}",
        shape=(width, config.d_model),
        initializer=_normal(config.projection_init_std),
    )


def _normal(std: float):
    return keras.initializers.RandomNormal(stddev=std)
