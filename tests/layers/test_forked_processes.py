"""A model is loaded in a forked process, as by a pool of workers."""

import multiprocessing
import sys

import keras
import numpy as np
import pytest

import topkast_tf as tk


def _load(path):
    model = keras.saving.load_model(path)
    return [weight.codes() for weight in tk.sparse_weights(model)]


@pytest.mark.skipif(sys.platform != "linux", reason="TensorFlow forks on Linux alone")
def test_load_in_a_forked_process(tmp_path):
    with tk.topkast_scope(fwd=0.9, bwd=0.8):
        model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(20)])
    model.save(tmp_path / "model.keras")
    # A forked child has none of the threads of this process.
    with multiprocessing.get_context("fork").Pool(2) as pool:
        loads = [pool.apply_async(_load, (tmp_path / "model.keras",)) for _ in range(2)]
        for load in loads:
            [codes] = load.get(timeout=60)
            np.testing.assert_array_equal(codes, tk.sparse_weights(model)[0].codes())
