"""Each family of models is trained sparse, and in mixed precision."""

import functools

import keras
import numpy as np
import pytest

from launch import models
from launch.models.densenet import densenet
from swat_tf import swat_scope
from topkast_tf import sparse_weights, topkast_scope
from topkast_tf.core.sparsities import kept

SCOPES = {
    "topkast": functools.partial(topkast_scope, fwd=0.9, bwd=0.8),
    "swat": functools.partial(swat_scope, 0.9),
}
# A builder, its width, and the number of convolutions and dense layers.
FAMILIES = {
    "resnet8": (models.find("resnet8"), 1 / 4, 10),
    "resnet18": (models.find("resnet18"), 1 / 16, 21),
    "resnet18_cifar": (models.find("resnet18_cifar"), 1 / 16, 21),
    "vgg16_cifar": (models.find("vgg16_cifar"), 1 / 16, 16),
    "densenet": (functools.partial(densenet, (1, 1)), 1 / 8, 7),
    "fast_resnet": (models.find("fast_resnet"), 1 / 4, 6),
    "wrn10_1": (models.find("wrn10_1"), 1 / 4, 11),
}
RESNET50 = (models.find("resnet50"), 1 / 16, 54)


def fit_two_steps(family, scope, eager):
    builder, width, products = family
    with SCOPES[scope]():
        model = builder((32, 32, 3), 10, width)
    model.compile(
        keras.optimizers.SGD(0.05, 0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=eager,
        jit_compile=False,
    )
    random = np.random.RandomState(0)
    images = random.rand(8, 32, 32, 3).astype("float32")
    before = [np.asarray(w.dense()) for w in sparse_weights(model)]
    history = model.fit(images, np.arange(8), batch_size=4, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    weights = sparse_weights(model)
    assert len(weights) == products
    for weight, old in zip(weights, before, strict=True):
        expected = kept(old.size, 0.9)
        assert np.count_nonzero(weight.forward_mask()) == expected
        assert not np.array_equal(weight.dense(), old), weight.path


# Eager, as tracing a graph takes longer than a few steps.
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_trained_sparse(family, scope):
    fit_two_steps(FAMILIES[family], scope, eager=True)


@pytest.mark.slow
@pytest.mark.parametrize("scope", SCOPES)
def test_bottlenecks_are_trained_sparse_in_a_graph(scope):
    fit_two_steps(RESNET50, scope, eager=False)


@pytest.mark.parametrize("family", [*FAMILIES, "resnet50"])
def test_logits_are_float32_in_mixed_precision(family):
    builder, width, _ = (FAMILIES | {"resnet50": RESNET50})[family]
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = builder((32, 32, 3), 10, width)
    assert model.get_layer("pool").output.dtype == "bfloat16"
    logits = model(np.random.RandomState(0).rand(2, 32, 32, 3))
    assert logits.dtype == "float32"
    assert np.isfinite(np.asarray(logits)).all()
