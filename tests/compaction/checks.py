"""What tests of `compact` share: random weights with dead outputs, and equal outputs."""

import numpy as np
import tensorflow as tf

import topkast_tf as tk


def randomized(model, rng, dead=0.5):
    """Random weights and statistics; a share of the outputs of each kernel is zero."""
    for layer in model.layers:
        values = []
        for weight in layer.weights:
            value = rng.normal(size=weight.shape) * 0.5
            if weight.name == "moving_variance":
                value = np.abs(value) + 0.5
            axis = -2 if "Transpose" in type(layer).__name__ else -1
            if (
                weight.name.endswith("kernel")
                and "Depthwise" not in type(layer).__name__
            ):
                outputs = np.moveaxis(value, axis, -1)
                outputs[..., rng.random(outputs.shape[-1]) < dead] = 0
            values.append(value)
        if values:
            layer.set_weights(values)
    return model


def inputs_of(model, rng):
    found = [
        tf.constant(rng.normal(size=[3, *x.shape[1:]]).astype("float32"))
        for x in model.inputs
    ]
    return found if len(found) > 1 else found[0]


def checked(model, seed=0, fewer=True, atol=1e-5):
    """The compacted model, whose outputs are those of the given one."""
    small = tk.compact(model)
    data = inputs_of(model, np.random.default_rng(seed))
    before, after = (tf.nest.flatten(m(data)) for m in (model, small.model))
    for one, other in zip(before, after, strict=True):
        scale = float(np.abs(one).max())
        np.testing.assert_allclose(other, one, rtol=0, atol=atol * scale)
    first, last = small.parameters
    assert last == small.model.count_params() and (last < first) == fewer
    return small


def reasons(small):
    return {(kept.layer, kept.units): kept.reason for kept in small.kept_dead}
