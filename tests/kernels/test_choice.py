"""The cost model: what it must never get wrong, and that it is a function of its inputs."""

import pytest

from topkast_tf.kernels import library
from topkast_tf.kernels.choice import (
    BLOCK_COSTS,
    CONVOLUTION_COSTS,
    COSTS,
    DENSE_BFLOAT16,
    ConvolutionSizes,
    speedup,
    speedup_of_convolution,
)


@pytest.mark.parametrize("cpu", COSTS)
def test_by_hand(cpu):
    entry, gradient, activation, gather = COSTS[cpu]
    # 2 x 3 weights, 64 positions, d_A = 1/2, d_B = 1.
    masked = 3 * 64 * 6 + 78 * 6 + 15 * 64 * 5
    native = 64 * 6 * (entry + gradient) + 64 * 5 * activation + 12 * gather
    native += 45 * 6 + 4.5e6
    assert speedup(2, 3, 64, 0.5, 1.0, cpu) == pytest.approx(masked / native)
    native += 6 * (180 + 400 * 2) / 10
    found = speedup(2, 3, 64, 0.5, 1.0, cpu, every=10)
    assert found == pytest.approx(masked / native, rel=1e-9)


@pytest.mark.parametrize("cpu", BLOCK_COSTS)
def test_blocks_by_hand(cpu):
    entry, gradient, activation, gather = BLOCK_COSTS[cpu]
    masked = 3 * 64 * 6 + 78 * 6 + 15 * 64 * 5
    native = 64 * 6 * (entry + gradient) + 64 * 5 * activation + 12 * gather
    native += 45 * 6 + 4.5e6
    found = speedup(2, 3, 64, 0.5, 1.0, cpu, has_blocks=True)
    assert found == pytest.approx(masked / native)


@pytest.mark.parametrize("cpu", BLOCK_COSTS)
def test_blocks_pay_more_than_single_entries(cpu):
    for density in (0.02, 0.1, 0.4):
        sizes = (512, 2048, 2048, density, density, cpu)
        assert speedup(*sizes, has_blocks=True) > speedup(*sizes)


@pytest.mark.parametrize("cpu", COSTS)
@pytest.mark.parametrize("unit", DENSE_BFLOAT16)
def test_bfloat16_by_hand(cpu, unit):
    entry, gradient, activation, gather = COSTS[cpu]
    if cpu == "avx512" and unit != "none":  # pairs
        entry, gradient, activation, gather = 1.1, 0.9, 40, 90
    if cpu == "avx2":
        activation = 50
    masked = 3 * 64 * 6 * DENSE_BFLOAT16[unit] + 78 * 6 + 15 * 64 * 5
    native = 64 * 6 * (entry + gradient) + 64 * 5 * activation + 12 * gather
    native += 45 * 6 + 4.5e6
    found = speedup(2, 3, 64, 0.5, 1.0, cpu, bfloat16=unit)
    assert found == pytest.approx(masked / native)
    entry, gradient, activation, gather = CONVOLUTION_COSTS[cpu]
    if cpu == "avx512" and unit != "none":
        entry, gradient, activation, gather = 1.4, 1.0, 90, 200
    p, ends = 16 * 6, 16 * (24 * 2 + 6 * 5)
    masked = 0.84 * 3 * p * 90 * DENSE_BFLOAT16[unit] + 300 * 90 + 97 * ends
    native = p * 90 * (entry + gradient) + ends * activation + 180 * gather
    native += 65 * 90 + 4.5e6
    found = speedup_of_convolution(SIZES, 0.5, 1.0, cpu, bfloat16=unit)
    assert found == pytest.approx(masked / native)


def test_units_of_bfloat16():
    assert tuple(DENSE_BFLOAT16) == library.BFLOAT16_UNITS
    assert library.bfloat16_unit() in DENSE_BFLOAT16


def test_dense_weights_are_masked():
    assert speedup(4096, 4096, 4096, 1.0, 1.0, "avx512") < 1
    for unit in DENSE_BFLOAT16:
        assert speedup(4096, 4096, 4096, 1.0, 1.0, "avx512", bfloat16=unit) < 1


def test_more_sparsity_pays_more():
    found = [
        speedup(512, 2048, 2048, 1 - s, 1 - s, "avx512") for s in (0.5, 0.8, 0.9, 0.98)
    ]
    assert found == sorted(found)


def test_frequent_changes_and_dense_gradients_cost():
    often, rarely, never = (
        speedup(512, 512, 256, 0.1, 0.2, "avx512", every=every)
        for every in (1, 100, None)
    )
    assert often < rarely < never
    dense = speedup(512, 512, 256, 0.1, 0.1, "avx512", dense_gradient=True)
    assert dense < speedup(512, 512, 256, 0.1, 0.1, "avx512")


def test_one_position_costs_a_whole_panel():
    assert speedup(512, 512, 1, 0.1, 0.2, "avx512") < 1


SIZES = ConvolutionSizes(16, (6, 4), (3, 2), (3, 3, 2, 5))


@pytest.mark.parametrize("cpu", CONVOLUTION_COSTS)
def test_convolution_by_hand(cpu):
    entry, gradient, activation, gather = CONVOLUTION_COSTS[cpu]
    n, p, ends = 90, 16 * 6, 16 * (24 * 2 + 6 * 5)  # 16 images fill all lanes
    masked = 0.84 * 3 * p * n + 300 * n + 97 * ends
    native = p * n * (entry + gradient) + ends * activation + n * 2 * gather
    native += 65 * n + 4.5e6
    found = speedup_of_convolution(SIZES, 0.5, 1.0, cpu)
    assert found == pytest.approx(masked / native)
    native += n * (330 + 1200 * 2) / 10
    found = speedup_of_convolution(SIZES, 0.5, 1.0, cpu, every=10)
    assert found == pytest.approx(masked / native, rel=1e-9)


def test_groups_by_hand():
    entry, gradient, activation, gather = CONVOLUTION_COSTS["avx512"]
    n, p, ends = 90, 16 * 6, 16 * (24 * 2 * 5 + 6 * 5)
    masked = 5 * 0.84 * 3 * p * n + 300 * n + 97 * ends
    native = p * n * (entry + gradient) + ends * activation + n * 2 * gather
    native += 65 * n + 4.5e6
    found = speedup_of_convolution(SIZES._replace(groups=5), 0.5, 1.0, "avx512")
    assert found == pytest.approx(masked / native)


def test_empty_lanes_cost():
    """One image of 7 columns fills 7 of 16 lanes, 16 images fill them all."""
    one, many = (
        speedup_of_convolution(
            ConvolutionSizes(images, (7, 7), (7, 7), (3, 3, 512, 512)),
            0.1,
            0.2,
            "avx512",
        )
        for images in (1, 16)
    )
    assert one < many


def test_convolutions_that_pay_and_that_do_not():
    large = ConvolutionSizes(32, (14, 14), (14, 14), (3, 3, 256, 256))
    small = ConvolutionSizes(4, (8, 8), (8, 8), (3, 3, 3, 8))
    for cpu in CONVOLUTION_COSTS:
        found = [
            speedup_of_convolution(large, 1 - s, 1 - s, cpu)
            for s in (0.0, 0.8, 0.9, 0.98)
        ]
        assert found == sorted(found)
        assert found[0] < 1 < found[2]
        assert speedup_of_convolution(small, 0.1, 0.2, cpu) < 1
    dense = speedup_of_convolution(large, 0.1, 0.1, "avx512", dense_gradient=True)
    assert dense < speedup_of_convolution(large, 0.1, 0.1, "avx512")


def test_dilation_costs_copies_of_errors():
    sizes = ConvolutionSizes(16, (32, 32), (32, 32), (3, 3, 64, 64))
    gains = [
        speedup_of_convolution(
            sizes._replace(dilations=(dilation, dilation)),
            **{"forward_density": 0.1, "backward_density": 1.0, "cpu": "avx2"},
            **{"every": 100, "dense_gradient": 1.0, "activation_density": 0.1},
        )
        for dilation in (1, 8, 16)
    ]
    assert gains[0] > gains[1] > gains[2]
