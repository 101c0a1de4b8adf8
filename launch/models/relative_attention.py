"""Attention that depends on the distance of two tokens, not on their positions."""

import keras
import tensorflow as tf
from keras import layers

_EXCLUDED = -1e30  # finite, so that no row can become NaN


def softmax_dtype(compute_dtype: str) -> str:
    """The dtype of softmaxes: at least float32.

    >>> softmax_dtype("bfloat16"), softmax_dtype("float64")
    ('float32', 'float64')
    """
    return "float64" if compute_dtype == "float64" else "float32"


def relative_shift(scores):
    """Moves scores from the columns of their distances to the columns of their keys.

    ``shifted[i, j] = scores[i, j + queries - 1 - i]``

    Column c of `scores` is for the distance keys - 1 - c. Query i is at key
    i + keys - queries, so the entry for key j, at distance i + keys - queries - j, is
    queries - 1 - i columns further right.

    Args:
      scores: [..., queries, keys], with queries <= keys.

    Returns:
      A tensor like `scores`. Entries for keys after the query, j > i + keys - queries,
      are meaningless and must be masked.

    >>> relative_shift(tf.constant([[1, 2, 3], [4, 5, 6]])).numpy()
    array([[2, 3, 0],
           [4, 5, 6]], dtype=int32)

    Source: Dai et al. 2019, appendix B; linear in the number of entries.
    """
    shape = tf.shape(scores)
    queries, keys = shape[-2], shape[-1]
    padding = [[0, 0]] * (scores.shape.rank - 1) + [[1, 0]]
    # In two axes: the gradient of a slice of more is several times slower.
    padded = tf.reshape(tf.pad(scores, padding), [-1, (keys + 1) * queries])
    shifted = tf.slice(padded, [0, queries], [-1, keys * queries])
    return tf.ensure_shape(tf.reshape(shifted, shape), scores.shape)


def sinusoids(length, width: int, clamp_len: int | None = None, dtype: str = "float32"):
    """The encodings of the distances length - 1, ..., 1, 0.

    ``R[c] = (sin(d * f_0), sin(d * f_1), ..., cos(d * f_0), cos(d * f_1), ...)`` with
    ``f_k = 10000 ** (-2 * k / width)`` and d = min(length - 1 - c, clamp_len)

    Args:
      length: number of distances.
      width: even.
      clamp_len: the maximum distance, to which larger ones are clamped; None: no limit.
      dtype: `float32` or `float64`. A narrower type could not distinguish large
        distances.

    Returns:
      [length, width], of that dtype.
    """
    distances = tf.cast(tf.range(length - 1, -1, -1), dtype)
    if clamp_len is not None:
        distances = tf.minimum(distances, float(clamp_len))
    frequencies = 10000.0 ** (-tf.range(0, width, 2, dtype) / width)
    angles = distances[:, None] * frequencies
    return tf.concat([tf.sin(angles), tf.cos(angles)], -1)


def visible(queries, keys, same_length: bool = False):
    """The keys that each query may attend to.

    Key j is at distance d = i + keys - queries - j from query i, and visible if
    0 <= d, and with `same_length` only if also d <= keys - queries.

    Args:
      queries: number of tokens.
      keys: number of states in memory plus the number of tokens.
      same_length: each query sees the same number of keys: the last memory length ones
        before it, and itself.

    Returns:
      bool [queries, keys].

    >>> tf.cast(visible(2, 4, same_length=True), tf.int32).numpy()
    array([[1, 1, 1, 0],
           [0, 1, 1, 1]], dtype=int32)
    """
    distances = tf.range(queries)[:, None] + (keys - queries) - tf.range(keys)
    seen = distances >= 0
    return seen & (distances <= keys - queries) if same_length else seen


class RelativeAttention(layers.Layer):
    r"""Multi-head attention over memory and segment, with relative positions.

    For the hidden states h of a segment and the states c of memory and segment
    (projections W, encodings R of distances, biases u and v), per head::

        q = W_q h,  k = W_k c,  v' = W_v c,  r = W_r R
        A[i, j] = ((q_i + u) . k_j + (q_i + v) . r_{i - j}) / sqrt(d_head)
        output_i = W_o sum_j softmax_j(A[i, j]) v'_j          over visible j

    The softmax is computed in float32 even if the rest is not. Each projection is a dense
    layer without bias, so that sparse scopes find its kernel.

    Args:
      heads: number of heads.
      d_head: width of a head.
      dropout: rate for the attention weights.
      own_biases: whether it has its own u and v, or they are passed to `call`.
      init_std: standard deviation of the initial weights, u and v.

    Source: Dai et al. 2019, section 3.3.
    """

    def __init__(
        self,
        heads: int,
        d_head: int,
        *,
        dropout: float = 0.0,
        own_biases: bool = True,
        init_std: float = 0.02,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.heads = heads
        self.d_head = d_head
        self.own_biases = own_biases
        self.init_std = init_std
        self.dropout = layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, input_shape):
        width = input_shape[-1]
        for name in ("query", "key", "value", "position"):
            setattr(self, name, self._projection(self.heads * self.d_head, name))
            getattr(self, name).build((None, None, width))
        self.output_projection = self._projection(width, "output")
        self.output_projection.build((None, None, self.heads * self.d_head))
        if self.own_biases:
            self.content_bias, self.position_bias = add_biases(
                self, self.heads, self.d_head, self.init_std
            )

    def _projection(self, units, name):
        return layers.Dense(
            units,
            use_bias=False,
            kernel_initializer=keras.initializers.RandomNormal(stddev=self.init_std),
            dtype=self.dtype_policy,
            name=name,
        )

    def call(self, hidden, memory, positions, seen, biases=None, training=None):
        """Computes the attention of a segment over memory and segment.

        Args:
          hidden: [batch, tokens, width].
          memory: [batch, memory length, width], older than `hidden`.
          positions: [memory length + tokens, width], see `sinusoids`.
          seen: bool [tokens, memory length + tokens], see `visible`.
          biases: (u, v), each [heads, d_head], unless it has its own.
          training: whether dropout is applied to attention weights.

        Returns:
          A tensor like `hidden`.
        """
        if self.own_biases:
            biases = self.content_bias, self.position_bias
        content_bias, position_bias = (tf.convert_to_tensor(b) for b in biases)
        states = tf.concat([memory, hidden], 1)
        # Heads come first, so that no product has to transpose the scores.
        query = self._by_head(self.query(hidden))
        key = self._by_head(self.key(states))
        value = self._by_head(self.value(states))
        position = self._by_head(self.position(positions)[None])[:, 0]
        scale = self.d_head**-0.5
        of_content = (query + content_bias[:, None, None]) * scale
        of_place = (query + position_bias[:, None, None]) * scale
        content = tf.matmul(of_content, key, transpose_b=True)
        place = tf.reshape(of_place, [self.heads, -1, self.d_head])
        place = tf.matmul(place, position, transpose_b=True)
        scores = content + relative_shift(tf.reshape(place, tf.shape(content)))
        scores = tf.cast(scores, softmax_dtype(self.compute_dtype))
        scores = tf.where(seen, scores, tf.constant(_EXCLUDED, scores.dtype))
        attention = tf.cast(tf.nn.softmax(scores), value.dtype)
        attention = self.dropout(attention, training=training)
        mixed = tf.transpose(tf.matmul(attention, value), [1, 2, 0, 3])
        width = self.heads * self.d_head
        merged = tf.reshape(mixed, tf.concat([tf.shape(mixed)[:2], [width]], 0))
        return self.output_projection(merged)

    def _by_head(self, x):
        """From [batch, tokens, heads * d_head] to [heads, batch, tokens, d_head]."""
        split = tf.concat([tf.shape(x)[:-1], [self.heads, self.d_head]], 0)
        known = (*x.shape[:-1], self.heads, self.d_head)
        by_head = tf.ensure_shape(tf.reshape(x, split), known)
        return tf.transpose(by_head, [2, 0, 1, 3])


def add_biases(layer: layers.Layer, heads: int, d_head: int, init_std: float):
    """Adds the biases u, for contents, and v, for positions, to a layer."""
    return tuple(
        layer.add_weight(
            name=name,
            shape=(heads, d_head),
            initializer=keras.initializers.RandomNormal(stddev=init_std),
        )
        for name in ("content_bias", "position_bias")
    )
