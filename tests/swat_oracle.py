"""SWAT's products written in NumPy: an oracle for its ops."""

import math

import numpy as np


def mask(x, sparsity):
    """True on the largest entries by magnitude, ties by the lower index."""
    flat = np.abs(np.asarray(x, np.float32)).ravel()
    kept = max(1, flat.size - math.floor(round(sparsity * flat.size, 9)))
    found = np.zeros(flat.size, bool)
    found[np.argsort(-flat, kind="stable")[:kept]] = True
    return found.reshape(np.shape(x))


def keep(x, sparsity):
    return np.where(mask(x, sparsity), x, 0)


def keep_per_sample(x, sparsity):
    return np.stack([keep(row, sparsity) for row in x])


def matmul(a, w, dy, sparsity, activations=None):
    """Output, input gradient and weight gradient of SWAT's matrix product."""
    sparse_w = keep(w, sparsity)
    sparse_a = keep(a, sparsity if activations is None else activations)
    return a @ sparse_w, dy @ sparse_w.T, sparse_a.T @ dy


def conv2d_valid(a, w):
    """A plain convolution, stride 1, no padding: [n, h, w, c] by [i, j, c, o]."""
    height = a.shape[1] - w.shape[0] + 1
    width = a.shape[2] - w.shape[1] + 1
    out = np.zeros((a.shape[0], height, width, w.shape[3]), np.float64)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            out += a[:, i : i + height, j : j + width] @ w[i, j]
    return out


def momentum_budget(means, sizes, budget):
    """How many weights each layer keeps under SWAT-M, step by step in Python."""
    total = sum(means)
    counts = [math.ceil(mean / total * budget) for mean in means]
    for _ in range(1000):
        rest = 0
        for i, size in enumerate(sizes):
            if counts[i] > 0.99 * size:
                rest += max(counts[i] - size, 0)
                counts[i] = size
        if rest < len(sizes) or all(c >= s for c, s in zip(counts, sizes, strict=True)):
            break
        counts = [count + math.ceil(rest / len(sizes)) for count in counts]
    return [min(max(count, 1), size) for count, size in zip(counts, sizes, strict=True)]
