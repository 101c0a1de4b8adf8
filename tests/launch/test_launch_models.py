"""The small residual networks, counted by hand, and the names of all models."""

import functools
import subprocess
import sys

import keras
import numpy as np
import pytest

from launch import models
from launch.models.resnet import resnet
from launch.support.errors import UserError


@pytest.fixture(scope="module")
def tiny():
    """Builds the model of a name once for this file."""
    return functools.cache(lambda name: models.find(name)((32, 32, 3), 7, 1 / 16))


def parameters(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def test_resnet20_has_the_parameters_of_the_paper_and_of_its_shortcuts():
    model = resnet(20, (32, 32, 3), 10)
    convolutions = 9 * (3 * 16 + 6 * 16 * 16)
    convolutions += 9 * (16 * 32 + 5 * 32 * 32) + 9 * (32 * 64 + 5 * 64 * 64)
    norms = 2 * (7 * 16 + 6 * 32 + 6 * 64)
    logits = 64 * 10 + 10
    shortcuts = 16 * 32 + 32 * 64 + 2 * (32 + 64)
    assert shortcuts == 2752
    assert parameters(model) == convolutions + norms + logits + shortcuts
    assert convolutions + norms + logits == 269_722


@pytest.mark.parametrize("depth", [8, 20, 32, 56])
def test_depth_counts_the_layers_on_the_longest_path(tiny, depth):
    model = tiny(f"resnet{depth}")
    weighted = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense)
    ]
    shortcuts = [layer for layer in weighted if "shortcut" in layer.name]
    assert len(shortcuts) == 2
    assert len(weighted) - len(shortcuts) == depth
    assert model.output_shape == (None, 7)


def test_images_of_8_pixels_end_as_2x2_feature_maps():
    model = resnet(8, (8, 8, 1), 10)
    assert model.get_layer("stage3_block1_relu").output.shape == (None, 2, 2, 64)


def test_width_scales_every_stage():
    model = resnet(8, (8, 8, 1), 10, width=0.5)
    channels = [model.get_layer(f"stage{s}_block1_a_conv").filters for s in (1, 2, 3)]
    assert channels == [8, 16, 32]
    assert model.get_layer("stem_conv").filters == 8


def test_block_matches_the_docstring_equation():
    keras.utils.set_random_seed(0)
    model = resnet(8, (8, 8, 1), 10, width=0.25)
    layer = model.get_layer
    x = np.random.RandomState(0).rand(2, 8, 8, 1).astype("float32")
    inside = keras.Model(model.input, layer("stem_relu").output)(x)
    y = layer("stage1_block1_a_bn")(layer("stage1_block1_a_conv")(inside))
    y = layer("stage1_block1_b_conv")(np.maximum(y, 0))
    y = layer("stage1_block1_b_bn")(y)
    expected = np.maximum(np.asarray(inside) + np.asarray(y), 0)
    found = keras.Model(model.input, layer("stage1_block1_relu").output)(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_initial_kernels_have_he_variance():
    keras.utils.set_random_seed(0)
    kernel = resnet(8, (8, 8, 1), 10).get_layer("stage3_block1_b_conv").kernel
    assert np.var(np.asarray(kernel)) == pytest.approx(2 / (9 * 64), rel=0.03)


def test_wrong_depth_says_what_was_received():
    with pytest.raises(ValueError, match="6 \\* n \\+ 2. Received: depth=18"):
        resnet(18, (8, 8, 1), 10)


@pytest.mark.parametrize("name", [*models.MODELS, "wrn10_1", "wrn16_2"])
def test_each_name_builds_the_model_of_that_name(tiny, name):
    model = tiny(name)
    assert model.name == name
    assert model.input_shape == (None, 32, 32, 3)
    assert model.output_shape == (None, 7)
    assert model.layers[-1].name == "logits"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet19", "resnet18"),
        ("resnet500", "resnet50"),
        ("vgg16", "vgg16_cifar"),
        ("wrn17_8", "wrn16_8"),
        ("wrn4_8", "wrn16_8"),
        ("wrn16_0", "wrn16_8"),
    ],
)
def test_unknown_name_lists_all_and_suggests_the_nearest(name, nearest):
    with pytest.raises(UserError) as caught:
        models.find(name)
    said = str(caught.value)
    assert all(known in said for known in models.MODELS)
    assert "wrn<d>_<k>" in said
    assert said.endswith(f"Received: {name!r}; did you mean {nearest}?")


def test_dissimilar_name_gets_no_suggestion():
    with pytest.raises(UserError, match="Received: 'zzz'$"):
        models.find("zzz")


def test_a_name_is_looked_up_without_tensorflow(root):
    code = (
        "import sys; from launch import models; models.find('wrn28_10'); "
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
