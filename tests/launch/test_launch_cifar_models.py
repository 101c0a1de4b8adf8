"""The models of SWAT's CIFAR experiments: counts, equations, initialisation."""

import functools
import re

import keras
import numpy as np
import pytest

from launch import models
from launch.models.cifar_resnet import cifar_resnet
from launch.models.densenet import densenet
from launch.models.wide_resnet import wide_resnet
from topkast_tf.analysis.flops import count_macs


@pytest.fixture(scope="module")
def full_size():
    """Builds a model once for this file."""

    @functools.cache
    def build(name):
        keras.utils.set_random_seed(0)
        return models.find(name)((32, 32, 3), 10)

    return build


def count(variables):
    return sum(int(np.prod(v.shape)) for v in variables)


def kernels(model):
    return [v for v in model.trainable_variables if len(v.shape) > 1]


def convolutions(model):
    return [v for v in model.layers if isinstance(v, keras.layers.Conv2D)]


# Millions of parameters, millions of multiply-adds and convolutions, as in SWAT, which
# counts the parameters of kernels only; the totals are derived below.
@pytest.mark.parametrize(
    ("name", "millions", "millions_of_macs", "convs", "total"),
    [
        ("resnet18_cifar", 11.16, 555, 20, 11_178_762),
        ("vgg16_cifar", 33.63, 332, 13, 33_646_666),
        ("densenet121_cifar", 6.87, 888, 120, 6_956_298),
        ("wrn16_8", 10.95, 1548, 16, 10_961_370),
    ],
)
def test_counts_match_the_paper(
    full_size, name, millions, millions_of_macs, convs, total
):
    model = full_size(name)
    assert round(count(kernels(model)) / 1e6, 2) == millions
    assert round(sum(count_macs(model).values()) / 1e6) == millions_of_macs
    assert len(convolutions(model)) == convs
    assert count(model.trainable_variables) == total


def test_total_of_vgg16_by_hand():
    channels = [3, 64, 64, 128, 128, 256, 256, 256] + 6 * [512]
    convs = sum(9 * a * b for a, b in zip(channels, channels[1:], strict=False))
    biases_and_norms = 3 * sum(channels[1:])
    units = [512, 4096, 4096, 10]
    dense = sum((a + 1) * b for a, b in zip(units, units[1:], strict=False))
    assert convs + biases_and_norms + dense == 33_646_666


def test_counts_of_fast_resnet_by_hand():
    model = models.find("fast_resnet")((32, 32, 3), 10)
    convs = {16: 27 * 32, 8: 0, 4: 2 * 9 * 128 * 128}
    convs[16] += 9 * 32 * 64  # before the pool
    convs[8] += 9 * 64 * 128
    norms = 2 * (32 + 64 + 3 * 128)
    total = sum(convs.values()) + norms + 128 * 10 + 10
    assert count(model.trainable_variables) == total
    macs = sum(side**2 * each for side, each in convs.items()) + 1280
    assert sum(count_macs(model).values()) == macs
    assert model.get_layer("pool").input.shape[1:] == (4, 4, 128)


def test_total_of_wrn16_8_by_hand():
    total = 27 * 16 + 2 * 512 + 512 * 10 + 10
    inputs = 16
    for filters in (128, 256, 512):
        total += 9 * filters * (inputs + 3 * filters) + inputs * filters
        total += 2 * (inputs + 3 * filters)
        inputs = filters
    assert total == 10_961_370


def test_wrn28_10_has_the_parameters_of_its_paper():
    # It says 36.5M.
    model = models.find("wrn28_10")((32, 32, 3), 10)
    assert count(model.trainable_variables) == 36_479_194


@pytest.mark.parametrize(
    ("name", "side", "channels"),
    [
        ("resnet18_cifar", 4, 512),
        ("vgg16_cifar", 1, 512),
        ("densenet121_cifar", 4, 1024),
        ("wrn16_8", 8, 512),
    ],
)
def test_input_shape_of_the_last_pooling(full_size, name, side, channels):
    assert full_size(name).get_layer("pool").input.shape[1:] == (side, side, channels)


@pytest.mark.parametrize(
    "name",
    ["fast_resnet", "resnet18_cifar", "vgg16_cifar", "densenet121_cifar", "wrn10_1"],
)
def test_models_accept_images_of_8_pixels(name):
    model = models.find(name)((8, 8, 1), 10, 1 / 16)
    assert model(np.zeros((2, 8, 8, 1))).shape == (2, 10)


def test_width_scales_every_stage():
    def built(builder):
        return builder((32, 32, 3), 10, 0.25)

    def filters(model, *layers):
        return [model.get_layer(f"{layer}_conv").filters for layer in layers]

    stages = [f"stage{s}_block1" for s in (1, 2, 3, 4)]
    vgg = built(models.find("vgg16_cifar"))
    assert filters(vgg, *stages) == [16, 32, 64, 128]
    assert vgg.get_layer("hidden2").units == 1024
    places = [f"{stage}_a" for stage in stages]
    residual = built(models.find("resnet18_cifar"))
    assert filters(residual, "stem", *places) == [16, 16, 32, 64, 128]
    wide = built(models.find("wrn16_8"))
    assert filters(wide, "stem", *places[:3]) == [16, 32, 64, 128]
    names = ("stem", "stage1_block1_a", "stage1_block1_b", "transition1")
    # Only the first stage of DenseNet-121, as building the others takes long.
    dense = built(functools.partial(densenet, (6, 1)))
    assert filters(dense, *names) == [16, 32, 8, 32]


@pytest.mark.parametrize(
    ("name", "bias", "place"),
    [
        ("resnet18_cifar", True, r"stem|stage[1-4]_block[12]_(a|b|shortcut)"),
        ("vgg16_cifar", True, r"stage[1-5]_block[123]"),
        ("densenet121_cifar", False, r"stem|stage[1-4]_block\d+_[ab]|transition[123]"),
        ("wrn16_8", False, r"stem|stage[123]_block[12]_(a|b|shortcut)"),
    ],
)
def test_names_and_biases_of_convolutions(full_size, name, bias, place):
    model = full_size(name)
    for conv in convolutions(model):
        assert re.fullmatch(f"({place})_conv", conv.name)
        assert conv.use_bias is bias
    for norm in model.layers:
        if isinstance(norm, keras.layers.BatchNormalization):
            assert re.fullmatch(f"({place}|last)_bn", norm.name)
            assert (norm.momentum, norm.epsilon) == (0.9, 1e-5)


@pytest.mark.parametrize(
    ("name", "rates"), [("vgg16_cifar", [0.5, 0.5]), ("wrn16_8", 6 * [0.3])]
)
def test_dropout(full_size, name, rates):
    found = [
        v.rate for v in full_size(name).layers if isinstance(v, keras.layers.Dropout)
    ]
    assert found == rates


def test_order_of_layers_in_vgg(full_size):
    names = [layer.name for layer in full_size("vgg16_cifar").layers]
    one = ["stage2_block2_conv", "stage2_block2_bn", "stage2_block2_relu"]
    begin = names.index(one[0])
    assert names[begin : begin + 5] == [*one, "stage2_pool", "stage3_block1_conv"]
    tail = [f"hidden{i}{part}" for i in (1, 2) for part in ("", "_relu", "_dropout")]
    assert names[-8:] == ["pool", *tail, "logits"]


def between(model, start, end, images):
    """The values at two places of a model."""
    outputs = [model.get_layer(name).output for name in (start, end)]
    return map(np.asarray, keras.Model(model.input, outputs)(images))


def branch(model, name, x):
    """conv_b(ReLU(BN_b(conv_a(ReLU(BN_a(x)))))), and the first of these ReLUs."""
    y, first = x, None
    for place in "ab":
        y = np.maximum(model.get_layer(f"{name}_{place}_bn")(y), 0)
        first = y if first is None else first
        y = model.get_layer(f"{name}_{place}_conv")(y)
    return np.asarray(y), first


@pytest.fixture
def images():
    return np.random.RandomState(0).rand(2, 16, 16, 3).astype("float32")


def test_wide_blocks_match_the_docstring_equations(images):
    model = wide_resnet(16, 2, (16, 16, 3), 10, 0.25)
    place = "stage2_block2"
    x, found = between(model, "stage2_block1_add", f"{place}_add", images)
    y, _ = branch(model, place, x)
    np.testing.assert_allclose(found, x + y, rtol=1e-4, atol=1e-5)
    place = "stage2_block1"
    x, found = between(model, "stage1_block2_add", f"{place}_add", images)
    y, first = branch(model, place, x)
    shortcut = np.asarray(model.get_layer(f"{place}_shortcut_conv")(first))
    np.testing.assert_allclose(found, shortcut + y, rtol=1e-4, atol=1e-5)


def test_wide_network_of_factor_one_has_no_shortcut_in_its_first_stage():
    names = {layer.name for layer in wide_resnet(10, 1, (16, 16, 3), 10).layers}
    shortcuts = {name for name in names if name.endswith("shortcut_conv")}
    assert shortcuts == {f"stage{s}_block1_shortcut_conv" for s in (2, 3)}


def test_dense_block_and_transition_match_the_docstring_equations(images):
    model = densenet((2, 1), (16, 16, 3), 10, 0.125)
    assert model.name == "densenet9_cifar"
    place = "stage1_block2"
    x, found = between(model, "stage1_block1_concat", f"{place}_concat", images)
    y, _ = branch(model, place, x)
    np.testing.assert_allclose(found, np.concatenate([x, y], -1), rtol=1e-4, atol=1e-5)
    x, found = between(model, f"{place}_concat", "transition1_pool", images)
    y = np.maximum(model.get_layer("transition1_bn")(x), 0)
    y = np.asarray(model.get_layer("transition1_conv")(y))
    assert y.shape[-1] == x.shape[-1] // 2
    y = y.reshape(2, 8, 2, 8, 2, -1).mean((2, 4))
    np.testing.assert_allclose(found, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("resnet18_cifar", "stage4_block2_b_conv"),
        ("vgg16_cifar", "stage5_block2_conv"),
        ("vgg16_cifar", "hidden1"),
        ("densenet121_cifar", "transition3_conv"),
        ("wrn16_8", "logits"),
    ],
)
def test_initial_kernels_are_uniform_by_fan_in(full_size, name, place):
    kernel = np.asarray(full_size(name).get_layer(place).kernel)
    bound = np.prod(kernel.shape[:-1]) ** -0.5
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    assert np.var(kernel) == pytest.approx(bound**2 / 3, rel=0.05)


def test_wide_network_kernels_have_he_fan_out_variance(full_size):
    kernel = full_size("wrn16_8").get_layer("stage3_block1_a_conv").kernel
    assert np.var(np.asarray(kernel)) == pytest.approx(2 / (9 * 512), rel=0.03)


def test_wrong_arguments_say_what_was_received():
    with pytest.raises(ValueError, match="6 \\* n \\+ 4. Received: depth=17"):
        wide_resnet(17, 8, (32, 32, 3), 10)
    with pytest.raises(ValueError, match="Received: k=0"):
        wide_resnet(16, 0, (32, 32, 3), 10)
    with pytest.raises(ValueError, match="Received: depth=50"):
        cifar_resnet(50, (32, 32, 3), 10)
