"""FLOP formulas, checked against the published factors of ResNet-50."""

import math

import keras
import pytest

from topkast_tf.analysis.flops import FlopCount, count_flops, product_flops
from topkast_tf.core.distributions import erdos_renyi_kernel, uniform


def test_product_flops_by_hand():
    assert product_flops(10) == FlopCount(20, 20, 20)
    assert product_flops(10).training == 60
    sparse = product_flops(100, fwd=0.75, bwd=0.5)
    assert sparse == FlopCount(50, 50, 100)
    assert sparse.training == 200
    assert sparse + product_flops(10) == FlopCount(70, 70, 120)


def test_product_flops_refuses_a_backward_set_inside_the_forward_set():
    with pytest.raises(ValueError, match="Received: fwd=0.5, bwd=0.6"):
        product_flops(10, fwd=0.5, bwd=0.6)


def resnet50(stride_in_first):
    """{name: (kernel shape, output positions)} of ResNet-50 at 224 x 224.

    The original network strides in the first 1x1 convolution of a block, the usual
    one (v1.5) in the 3x3.
    """
    shapes = {"conv1": ((7, 7, 3, 64), 112**2)}
    fan_in = 64
    for stage, (blocks, width, side) in enumerate(
        [(3, 64, 56), (4, 128, 28), (6, 256, 14), (3, 512, 7)]
    ):
        for block in range(blocks):
            name = f"{stage}.{block}"
            strided = stage > 0 and block == 0 and not stride_in_first
            first_side = 2 * side if strided else side
            shapes[f"{name}.1"] = ((1, 1, fan_in, width), first_side**2)
            shapes[f"{name}.2"] = ((3, 3, width, width), side**2)
            shapes[f"{name}.3"] = ((1, 1, width, 4 * width), side**2)
            if block == 0:
                shapes[f"{name}.0"] = ((1, 1, fan_in, 4 * width), side**2)
            fan_in = 4 * width
    return shapes | {"fc": ((2048, 1000), 1)}


def macs_of(network):
    return {k: math.prod(shape) * places for k, (shape, places) in network.items()}


def factors(fwd, bwd):
    """(inference, training) FLOPs over dense, given {name: sparsity} twice."""
    sparse = dense = FlopCount()
    for name, macs in macs_of(resnet50(stride_in_first=False)).items():
        sparse += product_flops(macs, fwd.get(name, 0.0), bwd.get(name, 0.0))
        dense += product_flops(macs)
    return sparse.forward / dense.forward, sparse.training / dense.training


def uniform_factors(fwd, bwd):
    """The same with every layer but the first and the last at (fwd, bwd)."""
    shapes = {k: shape for k, (shape, _) in resnet50(False).items()}
    inner = {k: v for k, v in shapes.items() if k not in ("conv1", "fc")}
    return factors(uniform(inner, fwd), uniform(inner, bwd))


@pytest.mark.parametrize(
    ("sparsity", "published"),
    [
        (0, 1),
        (0.5, 0.515),
        (0.6, 0.418),
        (0.8, 0.224),
        (0.9, 0.127),
        (0.95, 0.078),
        (0.98, 0.049),
        (0.99, 0.039),
    ],
)
def test_forward_factor_of_uniform_resnet50(sparsity, published):
    inference, training = uniform_factors(sparsity, sparsity)
    assert inference == pytest.approx(published, abs=6e-4)
    assert training == pytest.approx(inference)


@pytest.mark.parametrize(
    ("fwd", "bwd", "published"),
    [
        (0.8, 0, 0.482),
        (0.8, 0.5, 0.321),
        (0.8, 0.8, 0.224),
        (0.9, 0, 0.418),
        (0.9, 0.5, 0.256),
        (0.9, 0.8, 0.159),
        (0.9, 0.9, 0.127),
        (0.95, 0, 0.385),
        (0.95, 0.5, 0.224),
        (0.95, 0.9, 0.094),
        (0.98, 0.9, 0.075),
    ],
)
def test_training_factor_of_uniform_resnet50(fwd, bwd, published):
    assert uniform_factors(fwd, bwd)[1] == pytest.approx(published, abs=6e-4)


@pytest.mark.parametrize(
    ("sparsity", "published", "inference"), [(0.8, 0.42, 0.4138), (0.9, 0.24, 0.2418)]
)
def test_erk_factors_of_resnet50(sparsity, published, inference):
    # RigL publishes two decimals; the four follow from its definition.
    network = resnet50(stride_in_first=False)
    sparsities = erdos_renyi_kernel({k: s for k, (s, _) in network.items()}, sparsity)
    found, _ = factors(sparsities, sparsities)
    assert found == pytest.approx(inference, abs=1e-4)
    assert found == pytest.approx(published, abs=0.01)


def published_forward(sparsities):
    """Inference FLOPs by the counting of RigL's authors, for {name: sparsity}.

    A product of v entries takes v multiplications and v - 1 additions, a bias one more
    addition, and the activation after each convolution one multiplication.
    """
    total = 0
    for name, (shape, places) in resnet50(stride_in_first=False).items():
        outputs = shape[-1] * places
        macs = math.prod(shape) * places
        total += product_flops(macs, fwd=sparsities.get(name, 0.0)).forward
        total += outputs if name != "fc" else 0
    return total


def test_published_flops_of_dense_resnet50():
    """8.2e9 for inference; 3.2e18 for 32,000 steps of 4,096 images."""
    dense = published_forward({})
    assert f"{dense:.1e}" == "8.2e+09"
    assert f"{3 * dense * 32_000 * 4096:.1e}" == "3.2e+18"


@pytest.mark.parametrize(
    ("sparsity", "of_uniform", "of_erk"),
    [
        (0.8, "0.2241", "0.4146"),
        (0.9, "0.1272", "0.2429"),
        (0.95, "0.0787", "0.1229"),
        (0.965, None, "0.0864"),
    ],
)
def test_published_shares_of_resnet50_to_their_last_digit(sparsity, of_uniform, of_erk):
    """RigL's README prints 0.23, 0.13, 0.08 and 0.42, 0.24, 0.12, 0.09; its code these."""
    shapes = {name: shape for name, (shape, _) in resnet50(False).items()}
    dense = published_forward({})
    erk = published_forward(erdos_renyi_kernel(shapes, sparsity))
    assert f"{erk / dense:.4f}" == of_erk
    if of_uniform:
        inner = {name: sparsity for name in shapes if name != "conv1"}
        assert f"{published_forward(inner) / dense:.4f}" == of_uniform


@pytest.mark.parametrize(
    ("sparsity", "megabytes"),
    [
        (0, 102.12),
        (0.8, 23.68),
        (0.9, 13.50),
        (0.95, 8.40),
        (0.965, 6.90),
        (0.99, 4.35),
    ],
)
def test_published_sizes_of_resnet50(sparsity, megabytes):
    """Values as floats and a bit an entry, of kernels; the first layer is dense.

    The published sizes are within 0.1 MB of that for the weights of products alone; at
    99 % the first layer is sparse, too.
    """
    bits = 0
    for name, (shape, _) in resnet50(False).items():
        size = math.prod(shape)
        is_sparse = sparsity and (name != "conv1" or sparsity == 0.99)
        kept = size - math.floor(sparsity * size) if is_sparse else size
        bits += 32 * kept + (size if is_sparse else 0)
        bits += 32 * shape[-1]  # a bias
    assert bits / 8e6 == pytest.approx(megabytes, abs=0.1)


def test_keras_resnet50():
    model = keras.applications.ResNet50(weights=None)
    expected = macs_of(resnet50(stride_in_first=True))
    report = count_flops(model)
    assert report.dense.forward == 2 * sum(expected.values()) == 2 * 3_857_973_248
    assert sorted(row.macs for row in report.rows) == sorted(expected.values())
    # The usual network, whose 3x3 convolutions stride: 4.1 G, 8.2e9 FLOPs in RigL.
    usual = sum(macs_of(resnet50(stride_in_first=False)).values())
    assert 2 * usual == pytest.approx(8.2e9, rel=0.01)
