"""SWAT's structured selection: whole channels or filters of the largest norm."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import topkast_tf as tk
from swat_tf.structured import KernelSlices
from tests import zoo
from tests.swat import swat_oracle as oracle
from tests.swat.swat_models import build
from topkast_tf.core.blocks import MatrixView


def test_channel_slices_by_hand():
    # One input channel and three filters of 1 x 2; then the other channel.
    kernel = np.array(
        [[[[1, -5, 0.5], [2, 0, 1]], [[1, 1, 0.5], [-2, 0.5, 1]]]], np.float32
    )
    view = MatrixView(kernel.shape, spatial_axes=2)
    scores = KernelSlices(view, "channel").scores(tf.constant(kernel))
    np.testing.assert_allclose(scores, [2, 6, 1, 4, 0.5, 2])
    scores = KernelSlices(view, "filter").scores(tf.constant(kernel))
    np.testing.assert_allclose(scores, [6, 6.5, 3])


@pytest.mark.parametrize("structure", ["channel", "filter"])
def test_structured_selection_keeps_whole_slices_of_the_largest_norm(structure):
    model = build(zoo.convolutions, sparsity=0.7, structured=structure)
    for weight in tk.sparse_weights(model):
        mask = weight.forward_mask()
        if not weight.blocks:
            assert mask.ndim == 2  # the dense layer: single weights
            np.testing.assert_array_equal(mask, oracle.mask(weight.dense(), 0.7))
            continue
        axes = tuple(range(weight.blocks.view.spatial_axes))
        whole = mask.any(axis=axes)
        np.testing.assert_array_equal(whole, mask.all(axis=axes))
        norms = np.abs(weight.dense()).sum(axis=axes)
        if structure == "channel":
            np.testing.assert_array_equal(whole, oracle.mask(norms, 0.7))
    first = tk.sparse_weights(model)[1]  # depthwise: slices are channels
    assert first.units == 8


def test_different_filters_keep_different_channels():
    def builder():
        return keras.Sequential([keras.Input((8, 8, 6)), layers.Conv2D(7, 3)])

    [weight] = tk.sparse_weights(build(builder, sparsity=0.5, structured="channel"))
    kept = weight.forward_mask().any(axis=(0, 1))
    assert kept.sum() == 21 and len({tuple(column) for column in kept.T}) > 1
