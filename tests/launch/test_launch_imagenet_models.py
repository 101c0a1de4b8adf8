"""The residual networks of ImageNet: published counts, padding, initialisation."""

import contextlib
import functools

import keras
import numpy as np
import pytest

from launch import models
from launch.models.imagenet_resnet import imagenet_resnet
from topkast_tf.analysis.flops import count_flops, count_macs

# The last convolution of a block.
LAST = {"resnet18": "b", "resnet50": "c"}


@pytest.fixture(scope="module")
def resnet50():
    keras.utils.set_random_seed(0)
    return models.find("resnet50")((224, 224, 3), 1000)


@pytest.fixture(scope="module")
def tiny():
    """Builds a model once for this file; tests undo their changes to it."""

    @functools.cache
    def build(name):
        keras.utils.set_random_seed(0)
        return models.find(name)((32, 32, 3), 10, 1 / 16)

    return build


@contextlib.contextmanager
def ones(variable):
    before = variable.numpy()
    variable.assign(np.ones(variable.shape))
    yield
    variable.assign(before)


@pytest.fixture
def no_random_kernels(monkeypatch):
    """Zeros, which are faster to make, where the values do not matter."""

    def zeros(_, shape, dtype=None, **__):
        return keras.ops.zeros(shape, dtype)

    monkeypatch.setattr(keras.initializers.VarianceScaling, "__call__", zeros)


@pytest.mark.parametrize(
    ("name", "depth", "parameters", "millions_of_macs"),
    [
        ("resnet18", 18, 11_689_512, 1814),
        ("resnet34", 34, 21_797_672, 3664),
        ("resnet50", 50, 25_557_032, 4089),
        ("resnet101", 101, 44_549_160, 7801),
        ("resnet152", 152, 60_192_808, 11514),
        ("wrn50_2", 50, 68_883_240, 11398),
    ],
)
def test_parameters_multiply_adds_and_depth_match_the_papers(
    resnet50, no_random_kernels, name, depth, parameters, millions_of_macs
):
    model = resnet50
    if name != "resnet50":
        model = models.find(name)((224, 224, 3), 1000)
    found = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert found == parameters
    macs = sum(count_macs(model).values())
    assert macs == pytest.approx(millions_of_macs * 1e6, abs=0.5e6)
    # Depth counts the layers on the longest path.
    weighted = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense)
    ]
    shortcuts = [layer for layer in weighted if "shortcut" in layer.name]
    assert len(weighted) - len(shortcuts) == depth
    # A bottleneck widens the stem's channels, so its first stage has one too.
    assert len(shortcuts) == (3 if depth < 50 else 4)


def test_flops_of_resnet50_match_the_papers(resnet50):
    # 8.2e9 a forward pass, and 3.2e18 in 32,000 steps of 4096 images.
    cost = count_flops(resnet50).dense
    assert cost.forward == pytest.approx(8.2e9, rel=0.005)
    assert cost.training * 32_000 * 4096 == pytest.approx(3.2e18, rel=0.01)


def test_feature_map_sizes_at_224_pixels(resnet50):
    layer = resnet50.get_layer
    sides = [layer(f"stage{s}_block1_relu").output.shape[1] for s in (1, 2, 3, 4)]
    assert [layer("stem_relu").output.shape[1], *sides] == [112, 56, 28, 14, 7]


def test_stride_is_on_the_3x3_of_a_bottleneck(tiny):
    layer = tiny("resnet50").get_layer
    places = ("a", "b", "c", "shortcut")
    strides = [layer(f"stage3_block1_{p}_conv").strides[0] for p in places]
    sizes = [layer(f"stage3_block1_{p}_conv").kernel_size[0] for p in places]
    assert strides == [1, 2, 1, 2]
    assert sizes == [1, 3, 1, 1]


def test_wide_network_is_wide_inside_its_bottlenecks_only(tiny):
    wide, plain = tiny("wrn50_2"), tiny("resnet50")
    for stage in (1, 2, 3, 4):
        for place, factor in (("a", 2), ("b", 2), ("c", 1), ("shortcut", 1)):
            name = f"stage{stage}_block1_{place}_conv"
            found = wide.get_layer(name).filters
            assert found == factor * plain.get_layer(name).filters


def test_width_scales_every_stage():
    model = models.find("resnet50")((32, 32, 3), 10, 0.25)
    names = ["stem", *(f"stage{s}_block2_{p}" for s in (1, 4) for p in "bc")]
    found = [model.get_layer(f"{name}_conv").filters for name in names]
    assert found == [16, 16, 64, 128, 512]


@pytest.mark.parametrize("name", ["stem", "stage2_block1_a"])
def test_padding_is_the_same_on_all_sides(tiny, name):
    model = tiny("resnet18")
    pad, conv = model.get_layer(f"{name}_pad"), model.get_layer(f"{name}_conv")
    size, channels = conv.kernel_size[0], conv.kernel.shape[2]
    image = np.ones((1, 16, 16, channels), "float32")
    with ones(conv.kernel):
        found = np.asarray(conv(pad(image)))[0, :, :, 0] / channels
    # Windows begin at -(size // 2), 2 - (size // 2), ...: taps inside the image.
    first = [max(0, 2 * i - size // 2) for i in range(8)]
    last = [min(15, 2 * i - size // 2 + size - 1) for i in range(8)]
    inside = np.subtract(last, first) + 1
    np.testing.assert_array_equal(found, np.outer(inside, inside))
    assert found[0, 0] == (size // 2 + 1) ** 2


def test_max_pool_ignores_the_padding(tiny):
    model = tiny("resnet18")
    image = np.random.RandomState(0).rand(1, 16, 16, 4).astype("float32")
    pool = model.get_layer("stem_pool")
    found = np.asarray(pool(model.get_layer("stem_pool_pad")(image)))
    expected = np.zeros((1, 8, 8, 4))
    for i in range(8):
        for j in range(8):
            rows, columns = (
                slice(max(0, 2 * i - 1), 2 * i + 2),
                slice(max(0, 2 * j - 1), 2 * j + 2),
            )
            expected[:, i, j] = image[:, rows, columns].max((1, 2))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", LAST)
def test_each_block_is_initially_its_shortcut(tiny, name):
    model = tiny(name)
    relus = [f"stage{s}_block{b}_relu" for s in (1, 2, 3, 4) for b in (1, 2)]
    shortcuts = [f"stage{s}_block1_shortcut_bn" for s in (2, 3, 4)]
    outputs = [model.get_layer(n).output for n in relus + shortcuts]
    images = np.random.RandomState(0).rand(2, 32, 32, 3).astype("float32")
    found = keras.Model(model.input, outputs)(images, training=True)
    found = dict(zip(relus + shortcuts, map(np.asarray, found), strict=True))
    for stage in (1, 2, 3, 4):
        first, second = (found[f"stage{stage}_block{b}_relu"] for b in (1, 2))
        assert first.any()
        np.testing.assert_array_equal(second, first)
        if stage > 1:
            shortcut = found[f"stage{stage}_block1_shortcut_bn"]
            np.testing.assert_array_equal(first, np.maximum(shortcut, 0))


@pytest.mark.parametrize(("name", "last"), LAST.items())
def test_only_the_last_gamma_of_each_block_is_zero(tiny, name, last):
    for layer in tiny(name).layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            expected = 0 if layer.name.endswith(f"_{last}_bn") else 1
            np.testing.assert_array_equal(np.asarray(layer.gamma), expected)
            assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)


def test_bottleneck_matches_the_docstring_equation(tiny):
    model = tiny("resnet50")
    layer = model.get_layer
    images = np.random.RandomState(0).rand(2, 32, 32, 3).astype("float32")
    places = [layer(f"stage1_block{block}_relu").output for block in (1, 2)]
    with ones(layer("stage1_block2_c_bn").gamma):
        x, found = keras.Model(model.input, places)(images)
        y = x
        for place in "abc":
            y = layer(f"stage1_block2_{place}_conv")(y)
            y = np.asarray(layer(f"stage1_block2_{place}_bn")(y))
            y = y if place == "c" else np.maximum(y, 0)
    expected = np.maximum(np.asarray(x) + y, 0)
    assert np.abs(expected - np.asarray(x)).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_initial_kernels_have_he_fan_out_variance(resnet50):
    layer = resnet50.get_layer
    for name in ("stem", "stage2_block1_a", "stage3_block2_b", "stage4_block1_c"):
        conv = layer(f"{name}_conv")
        fan_out = conv.kernel_size[0] ** 2 * conv.filters
        variance = np.var(np.asarray(conv.kernel))
        assert variance == pytest.approx(2 / fan_out, rel=0.05)
    assert np.std(np.asarray(layer("logits").kernel)) == pytest.approx(0.01, rel=0.01)
    # Layers of one shape start from different numbers.
    one, other = (layer(f"stage3_block{b}_b_conv").kernel for b in (2, 3))
    assert not np.array_equal(np.asarray(one), np.asarray(other))


def test_wrong_arguments_say_what_was_received():
    with pytest.raises(ValueError, match="Received: depth=20"):
        imagenet_resnet(20, 1, (32, 32, 3), 10)
    with pytest.raises(ValueError, match="Received: depth=18, inner_width=2"):
        imagenet_resnet(18, 2, (32, 32, 3), 10)
