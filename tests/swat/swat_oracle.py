"""SWAT's products in NumPy: an oracle for its ops."""

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
    """How many weights each layer keeps under SWAT-M, by its definition.

    Each layer requests its share. A layer that requests more than 99 % of its weights
    gets all of them; its excess is the residual. The residual is added equally to the
    requests of all layers, until it is at most one per layer or more than the budget is
    allocated (in the authors' code: at most 1000 passes).
    """
    asked = [math.ceil(mean / math.fsum(means) * budget) for mean in means]
    for _ in range(1000):
        given = [
            size if ask > 0.99 * size else ask
            for ask, size in zip(asked, sizes, strict=True)
        ]
        residual = sum(asked) - sum(given)
        if sum(given) > budget or residual <= len(sizes):
            break
        asked = [count + math.ceil(residual / len(sizes)) for count in given]
    return [max(1, count) for count in given]
