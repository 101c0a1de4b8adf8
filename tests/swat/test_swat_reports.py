"""SWAT's counted FLOPs, and the densities that it reports."""

import keras
import numpy as np
import pytest

from swat_tf import swat_scope
from swat_tf.report import DensityLog, densities, layer_densities
from tests import zoo
from tests.swat.swat_models import build
from topkast_tf.analysis.flops import count_flops


def test_counted_flops_of_a_dense_layer():
    model = build(zoo.nested, sparsity=0.9, activations=0.5)
    cost = count_flops(model)
    for row in cost.rows:
        assert row.sparse.forward / row.dense.forward == pytest.approx(0.1, abs=5e-3)
        third = row.dense.training / 3
        ratios = (row.sparse.input_gradient / third, row.sparse.weight_gradient / third)
        assert ratios == pytest.approx((0.1, 0.5), abs=5e-3)
    assert cost.training_ratio == pytest.approx((0.1 + 0.1 + 0.5) / 3, abs=5e-3)


def test_flops_of_resnet_50_match_the_paper():
    """SWAT-U at 80 %: 77.7 % fewer FLOPs at inference (the authors' table)."""
    with swat_scope(0.8, exempt="first"):
        model = keras.applications.ResNet50(weights=None)
    cost = count_flops(model)
    # Keras's ResNet50 strides in the 1x1 convolutions, the authors' in the 3x3 ones.
    assert 1 - cost.inference_ratio == pytest.approx(0.777, abs=2e-3)
    # All three products are equally sparse. As the input gradient of the first layer is
    # counted for the dense network too, training saves as much as inference. (The paper
    # gives 76.1 % without saying how it is counted.)
    assert cost.training_ratio == pytest.approx(cost.inference_ratio, abs=1e-3)


def test_realised_densities(digits):
    model = build(zoo.functional, sparsity=0.9)
    assert densities(model) == (pytest.approx(0.1, abs=0.01), 1.0)
    model.train_on_batch(digits[0][:32], digits[1][:32])
    for layer in layer_densities(model):
        assert layer.activations == pytest.approx(0.1, abs=0.01)
    with pytest.raises(ValueError, match="Received: every=0"):
        DensityLog("densities.csv", every=0)


@pytest.mark.parametrize(
    ("every", "accumulated", "at_once", "expected"),
    [(1, 2, 1, [1, 2, 3]), (3, None, 4, [4, 6]), (2, None, 1, [2, 4, 6])],
    ids=["accumulated", "at once", "plain"],
)
def test_densities_are_logged_once_a_step(
    every, accumulated, at_once, expected, tmp_path
):
    with swat_scope(0.5):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=accumulated)
    model.compile(optimizer, "mse", steps_per_execution=at_once)
    path = tmp_path / "missing" / "densities.csv"
    log = DensityLog(path, every)
    x, y = np.ones((12, 4)), np.ones((12, 2))
    model.fit(x, y, batch_size=2, callbacks=[log], verbose=0)
    lines = path.read_text().splitlines()[1:]
    assert [int(line.split(",")[0]) for line in lines] == expected
