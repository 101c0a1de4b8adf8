"""DSG in NumPy, written from its definition: patches, projection, ranking, gradients."""

import math

import numpy as np


def kept(size, sparsity):
    return size - math.floor(round(sparsity * size, 9))


def patches(a, window, stride, padding):
    """[n, p, q, i * j * c] by [n, h, w, c], and how to add their gradients up again."""
    if padding == "same":
        need = [
            max((math.ceil(size / stride) - 1) * stride + side - size, 0)
            for size, side in zip(a.shape[1:3], window, strict=True)
        ]
        around = [(total // 2, total - total // 2) for total in need]
    else:
        around = [(0, 0), (0, 0)]
    padded = np.pad(a, [(0, 0), *around, (0, 0)])
    rows, cols = (
        (size - side) // stride + 1
        for size, side in zip(padded.shape[1:3], window, strict=True)
    )
    corners = [(r, c, r * stride, c * stride) for r in range(rows) for c in range(cols)]
    found = np.zeros((len(a), rows, cols, math.prod(window) * a.shape[3]))
    for r, c, top, left in corners:
        part = padded[:, top : top + window[0], left : left + window[1]]
        found[:, r, c] = part.reshape(len(a), -1)

    def back(gradient):
        whole = np.zeros_like(padded, dtype=float)
        for r, c, top, left in corners:
            part = gradient[:, r, c].reshape(len(a), *window, a.shape[3])
            whole[:, top : top + window[0], left : left + window[1]] += part
        (top, _), (left, _) = around
        return whole[:, top : top + a.shape[1], left : left + a.shape[2]]

    return found, back


def mask(scores, sparsity, threshold):
    """By a full sort of the values; ties go to the lower index."""
    rows = scores.reshape(len(scores), -1)
    k = kept(rows.shape[1], sparsity)
    found = np.zeros(rows.shape, bool)
    for row, out in zip(rows, found, strict=True):
        out[np.argsort(-row, kind="stable")[:k]] = True
    if threshold == "first":
        found = rows >= np.sort(rows[0])[-k]
    return found.reshape(scores.shape)


def layer(x, w, b, r, sparsity, threshold, dy):
    """Output, mask and gradients of a matrix layer; `r` is R, ``[k', d]``, or None.

    ``x`` is ``[n, ..., d]``, ``w`` ``[d, outputs]``.
    """
    y = x @ w + b
    if r is None:
        scores = y
    else:
        low_x, low_w = x @ r.T / math.sqrt(len(r)), r @ w / math.sqrt(len(r))
        scores = low_x @ low_w + b
    m = mask(scores, sparsity, threshold)
    dy = np.where(m, dy, 0)
    flat_x, flat_dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return np.where(m, y, 0), m, dy @ w.T, flat_x.T @ flat_dy, flat_dy.sum(0)
