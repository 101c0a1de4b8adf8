"""A rule that computes a layer's own product gives the output of the layer itself.

Where a rule is active, this library computes the bias and the activation of a layer
instead of Keras. The output must be the same, for every supported layer.
"""

import dataclasses
from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import topkast_tf as tk
from topkast_tf.layers.product_rule import RULES, ProductRule, activated_rule
from topkast_tf.layers.products import _products


@dataclasses.dataclass(frozen=True)
class Identity(ProductRule):
    """The product as it is."""

    name: ClassVar[str] = "identity of a test"
    calls: list = dataclasses.field(default_factory=list, compare=False)

    def __call__(self, product, inputs, kernel, weight):
        self.calls.append(weight.path)
        return product(inputs, tf.convert_to_tensor(kernel))

    def get_config(self):
        return {}


IMAGES = (2, 9, 9, 4)
CASES = {
    "Dense": [((2, 6), {"units": 5}), ((2, 3, 6), {"units": 5})],
    "EinsumDense": [
        ((2, 3, 6), {"equation": "abc,cde->abde", "output_shape": (None, 4, 5)}),
        (
            (2, 3, 6),
            {"equation": "abc,cd->abd", "output_shape": (None, 5), "bias_axes": "d"},
        ),
        (
            (2, 3, 4, 5),
            {
                "equation": "abcd,cde->abe",
                "output_shape": (None, 6),
                "bias_axes": "e",
            },
        ),
    ],
    "Conv1D": [
        ((2, 9, 4), {"filters": 6, "kernel_size": 3}),
        ((2, 9, 4), {"filters": 6, "kernel_size": 3, "padding": "causal"}),
        (
            (2, 9, 4),
            {"filters": 6, "kernel_size": 3, "padding": "causal", "dilation_rate": 2},
        ),
    ],
    "Conv2D": [
        (IMAGES, {"filters": 6, "kernel_size": 3, "padding": "same", "strides": 2}),
        (IMAGES, {"filters": 6, "kernel_size": (3, 1), "dilation_rate": 2}),
        (IMAGES, {"filters": 6, "kernel_size": 1, "groups": 2}),
        (IMAGES, {"filters": 1, "kernel_size": 3}),
    ],
    "Conv3D": [((2, 5, 5, 5, 2), {"filters": 3, "kernel_size": 2, "strides": 2})],
    "DepthwiseConv1D": [((2, 9, 4), {"kernel_size": 3, "depth_multiplier": 2})],
    "DepthwiseConv2D": [
        (IMAGES, {"kernel_size": 3, "depth_multiplier": 2, "padding": "same"}),
    ],
    "Conv1DTranspose": [((2, 9, 4), {"filters": 6, "kernel_size": 3, "strides": 2})],
    "Conv2DTranspose": [
        (
            IMAGES,
            {"filters": 6, "kernel_size": 3, "strides": 2, "output_padding": 1},
        ),
        (IMAGES, {"filters": 6, "kernel_size": 3, "padding": "same", "strides": 2}),
    ],
    "Conv3DTranspose": [((2, 4, 4, 4, 2), {"filters": 3, "kernel_size": 2})],
}
ACTIVATIONS = (None, "gelu", "softmax")


def always_the_same(shape, dtype=None, **_):
    """A fixed initializer; assigning weights would select the sets a second time."""
    return tf.constant(np.random.default_rng(1).normal(0, 0.3, shape), dtype)


def served(library):
    names = [name for name in CASES if hasattr(library.layers, name)]
    known = _products(library)
    return [name for name in names if _is_known(getattr(library.layers, name), known)]


def _is_known(cls, known):
    return next(base for base in cls.__mro__ if "call" in vars(base)) in known


def cases():
    for library in (keras, tf_keras):
        for name in served(library):
            for number, (shape, arguments) in enumerate(CASES[name]):
                yield pytest.param(
                    library,
                    name,
                    shape,
                    arguments,
                    id=f"{library.__name__}-{name}-{number}",
                )


def test_every_kind_of_layer_has_a_case():
    for library in (keras, tf_keras):
        owners = {
            next(b for b in getattr(library.layers, n).__mro__ if "call" in vars(b))
            for n in served(library)
        }
        assert owners == set(_products(library))


@pytest.mark.parametrize(("library", "name", "shape", "arguments"), list(cases()))
@pytest.mark.parametrize("use_bias", [True, False])
def test_identity_rule_changes_nothing(library, name, shape, arguments, use_bias):
    has_bias_flag = name != "EinsumDense"
    if not has_bias_flag and not use_bias:
        pytest.skip("EinsumDense has a bias by its `bias_axes`")
    inputs = np.random.default_rng(0).normal(size=shape).astype("float32")
    given = {
        **arguments,
        **({"use_bias": use_bias} if has_bias_flag else {}),
        f"{'depthwise' if 'Depthwise' in name else 'kernel'}_initializer": (
            always_the_same
        ),
        "bias_initializer": always_the_same,
    }
    cls = getattr(library.layers, name)
    own = cls(**given)
    for activation in ACTIVATIONS:
        own.activation, rule = library.activations.get(activation), Identity()
        expected = own(inputs)
        with tk.topkast_scope(0, 0, exploration=0), activated_rule(rule):
            layer = cls(**given, activation=activation)
            layer.build(shape)
        for mine, theirs in zip(layer.trainable_variables, own.weights, strict=True):
            np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
        np.testing.assert_allclose(layer(inputs), expected, rtol=1e-5, atol=1e-6)
        assert len(rule.calls) == 1, "the rule has not computed the product"


def test_identity_rule_is_not_registered():
    assert Identity.name not in RULES
