"""Stateless Transformer-XL: from tokens and memory to hidden states and memory."""

import keras
import tensorflow as tf
from keras import layers

from launch.models.adaptive_softmax import AdaptiveEmbedding
from launch.models.relative_attention import (
    RelativeAttention,
    add_biases,
    sinusoids,
    softmax_dtype,
    visible,
)
from launch.models.transformer_xl_config import TransformerXLConfig

NORM_EPSILON = 1e-5


class TransformerXLBlock(layers.Layer):
    """Attention and feed-forward, each followed by a residual connection and a norm.

    ``a = norm(h + attention(h, memory))``,
    ``y = norm(a + W_2 relu(W_1 a + b_1) + b_2)``

    Args:
      config: the model's settings.
    """

    def __init__(self, config: TransformerXLConfig, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        policy = {"dtype": self.dtype_policy}
        self.attention = RelativeAttention(
            config.heads,
            config.d_head,
            dropout=config.attention_dropout,
            own_biases=config.untie_biases,
            init_std=config.init_std,
            name="attention",
            **policy,
        )
        self.attention_norm = layers.LayerNormalization(
            epsilon=NORM_EPSILON, name="attention_norm", **policy
        )
        self.inner = self._dense(config.d_inner, "relu", "inner")
        self.outer = self._dense(config.d_model, None, "outer")
        self.outer_norm = layers.LayerNormalization(
            epsilon=NORM_EPSILON, name="outer_norm", **policy
        )
        self.drop_attention, self.drop_inner, self.drop_outer = (
            layers.Dropout(config.dropout, **policy) for _ in range(3)
        )

    def _dense(self, units, activation, name):
        return layers.Dense(
            units,
            activation=activation,
            kernel_initializer=keras.initializers.RandomNormal(
                stddev=self.config.init_std
            ),
            dtype=self.dtype_policy,
            name=name,
        )

    def build(self, input_shape):
        self.attention.build(input_shape)
        self.attention_norm.build(input_shape)
        self.inner.build(input_shape)
        self.outer.build((*input_shape[:-1], self.config.d_inner))
        self.outer_norm.build(input_shape)

    def call(self, hidden, memory, positions, seen, biases=None, training=None):
        attended = self.attention(
            hidden, memory, positions, seen, biases, training=training
        )
        attended = self.drop_attention(attended, training=training)
        attended = self.attention_norm(hidden + attended)
        inner = self.drop_inner(self.inner(attended), training=training)
        outer = self.drop_outer(self.outer(inner), training=training)
        return self.outer_norm(attended + outer)


class TransformerXLCore(layers.Layer):
    """The network between the tokens and the softmax.

    The memory of a block holds its inputs for earlier segments. No gradient flows into
    it.

    Args:
      config: the model's settings.
    """

    def __init__(self, config: TransformerXLConfig, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        policy = {"dtype": self.dtype_policy}
        self.embedding = AdaptiveEmbedding(config, name="embedding", **policy)
        self.blocks = [
            TransformerXLBlock(config, name=f"block_{i}", **policy)
            for i in range(config.layers)
        ]
        self.drop_embedding, self.drop_positions, self.drop_output = (
            layers.Dropout(config.dropout, **policy) for _ in range(3)
        )

    def build(self, input_shape=None):
        self.embedding.build(None)
        for block in self.blocks:
            block.build((None, None, self.config.d_model))
        if not self.config.untie_biases:
            self.content_bias, self.position_bias = add_biases(
                self, self.config.heads, self.config.d_head, self.config.init_std
            )

    def call(self, tokens, memory, training=None):
        """One segment.

        Args:
          tokens: integers [batch, length].
          memory: for each block [batch, memory length, d_model]; the same length for all,
            which may be 0.
          training: whether dropout is applied, and whether the configuration for training
            or that for evaluation is used.

        Returns:
          The hidden states [batch, length, d_model], and the next memory, a list of
          tensors like `memory`.
        """
        training = bool(training)
        config = self.config
        clamp_len = config.clamp_len if training else config.evaluation_clamp_len
        length = tf.shape(tokens)[1]
        keys = length + tf.shape(memory[0])[1]
        dtype = softmax_dtype(self.compute_dtype)
        positions = sinusoids(keys, config.d_model, clamp_len, dtype)
        positions = tf.cast(positions, self.compute_dtype)
        positions = self.drop_positions(positions, training=training)
        seen = visible(length, keys, config.same_length and not training)
        biases = None
        if not config.untie_biases:
            biases = tuple(
                tf.convert_to_tensor(b) for b in (self.content_bias, self.position_bias)
            )
        hidden = self.drop_embedding(self.embedding(tokens), training=training)
        following = []
        for block, states in zip(self.blocks, memory, strict=True):
            states = tf.stop_gradient(states)
            following.append(_newest(states, hidden))
            hidden = block(hidden, states, positions, seen, biases, training=training)
        return self.drop_output(hidden, training=training), following


def _newest(memory, hidden):
    """The last states of memory and segment, in the length of the memory."""
    joined = tf.concat([memory, tf.cast(hidden, memory.dtype)], 1)
    kept = tf.stop_gradient(joined[:, tf.shape(hidden)[1] :])
    return tf.ensure_shape(kept, memory.shape)
