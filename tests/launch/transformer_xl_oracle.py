"""Transformer-XL in NumPy, by loops over tokens and distances: an oracle.

From the equations of Dai et al. 2019 (section 3.3); slow, and without any shift trick.
"""

import math

import numpy as np


def encoding(distance, width):
    """The sinusoidal encoding of one distance."""
    half = range(width // 2)
    angles = [distance / 10000 ** (2 * k / width) for k in half]
    return np.array([math.sin(a) for a in angles] + [math.cos(a) for a in angles])


def softmax(x):
    raised = np.exp(x - np.max(x))
    return raised / raised.sum()


def norm(x, gamma, beta):
    spread = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return (x - x.mean(-1, keepdims=True)) / spread * gamma + beta


def attention(w, config, hidden, memory, biases, clamp_len, same_length):
    """One example: hidden [tokens, width], memory [states, width]."""
    states = np.concatenate([memory, hidden])
    out = np.zeros_like(hidden)
    heads = [
        slice(n * config.d_head, (n + 1) * config.d_head) for n in range(config.heads)
    ]
    for i in range(len(hidden)):
        at = len(memory) + i
        oldest = at - len(memory) if same_length else 0
        mixed = np.zeros(config.heads * config.d_head)
        for n, part in enumerate(heads):
            u, v = biases[0][n], biases[1][n]
            q = hidden[i] @ w["query/kernel"][:, part]
            scores, values = [], []
            for j in range(oldest, at + 1):
                distance = at - j if clamp_len is None else min(at - j, clamp_len)
                k = states[j] @ w["key/kernel"][:, part]
                r = encoding(distance, config.d_model) @ w["position/kernel"][:, part]
                scores.append(
                    (q @ k + q @ r + u @ k + v @ r) / math.sqrt(config.d_head)
                )
                values.append(states[j] @ w["value/kernel"][:, part])
            mixed[part] = softmax(np.array(scores)) @ np.array(values)
        out[i] = mixed @ w["output/kernel"]
    return out


def embed(w, config, token):
    for i, (start, end, _) in enumerate(config.clusters):
        if start <= token < end:
            if config.div_val == 1:
                x = w["core/embedding/embeddings_0"][token]
                p = w.get("core/embedding/embedding_projection_0")
            else:
                x = w[f"core/embedding/embeddings_{i}"][token - start]
                p = w[f"core/embedding/embedding_projection_{i}"]
            return (x if p is None else x @ p) * math.sqrt(config.d_model)


def probabilities(w, config, h):
    """Of every token, after one hidden state."""

    def logits(i):
        start, end, _ = config.clusters[i]
        shared = config.div_val == 1
        table = (
            w["core/embedding/embeddings_0"][start:end]
            if shared
            else w[f"core/embedding/embeddings_{i}"]
        )
        own = w.get(f"softmax/embedding_projection_{i}")
        tied = w.get(f"core/embedding/embedding_projection_{0 if shared else i}")
        p = tied if own is None else own
        x = h if p is None else p @ h
        found = table @ x + w[f"softmax/bias_{i}"]
        if i == 0 and len(config.clusters) > 1:
            more = w["softmax/cluster_embeddings"] @ x + w["softmax/cluster_bias"]
            found = np.concatenate([found, more])
        return found

    head = softmax(logits(0))
    first = config.clusters[0][1]
    parts = [head[:first]]
    for i in range(1, len(config.clusters)):
        parts.append(head[first + i - 1] * softmax(logits(i)))
    return np.concatenate(parts)


def forward(w, config, tokens, memory, clamp_len=None, same_length=False):
    """One example.

    Args:
      w: {path within the model: array}.
      config: the settings.
      tokens: [length].
      memory: [layers, states, d_model].

    Returns:
      Hidden states [length, d_model], and the input of each block, with its memory.
    """
    hidden = np.array([embed(w, config, token) for token in tokens])
    seen = []
    for i in range(config.layers):
        block = {
            path.removeprefix(f"core/block_{i}/"): value
            for path, value in w.items()
            if path.startswith(f"core/block_{i}/")
        }
        own = {path.removeprefix("attention/"): value for path, value in block.items()}
        holder = own if config.untie_biases else w
        prefix = "" if config.untie_biases else "core/"
        biases = [holder[f"{prefix}{name}_bias"] for name in ("content", "position")]
        seen.append(np.concatenate([memory[i], hidden]))
        a = attention(own, config, hidden, memory[i], biases, clamp_len, same_length)
        a = norm(
            hidden + a, block["attention_norm/gamma"], block["attention_norm/beta"]
        )
        inner = np.maximum(a @ block["inner/kernel"] + block["inner/bias"], 0)
        y = a + inner @ block["outer/kernel"] + block["outer/bias"]
        hidden = norm(y, block["outer_norm/gamma"], block["outer_norm/beta"])
    return hidden, seen
