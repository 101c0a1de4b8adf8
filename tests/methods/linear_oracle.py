"""A linear layer with moving masks, in NumPy and float64, from the definitions."""

import keras
import numpy as np
import tensorflow as tf

import topkast_tf as tk
from tests import zoo

RATE, MOMENTUM = 0.1, 0.9


def batches(steps, inputs=12, outputs=6):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(steps, 8, inputs)).astype("float32")
    return x, np.tanh(x @ rng.normal(size=(inputs, outputs))).astype("float32")


def layers(name, sizes=((12, 6),), seed=0, **arguments):
    """A model of dense layers without biases, compiled with SGD and momentum."""
    keras.utils.set_random_seed(seed)
    with tk.sparse_scope(name, seed=seed, **arguments):
        model = keras.Sequential(
            [
                keras.Input((sizes[0][0],)),
                *(keras.layers.Dense(out, use_bias=False) for _, out in sizes),
            ]
        )
    model.compile(keras.optimizers.SGD(RATE, momentum=MOMENTUM), "mse")
    return model


class Linear:
    """``y = x alpha_1 alpha_2 ...`` with mean squared error, trained by SGD with momentum.

    Attributes:
      thetas, velocities: one array a layer.
      forward: the masks A.
      backward: the masks B, of the gradient that the optimizer gets and of the update.
      dense_slots: whether the optimizer gets the gradient of every entry.
    """

    def __init__(self, model, dense_slots=False):
        weights = tk.sparse_weights(model)
        self.thetas = [weight.dense().astype(float) for weight in weights]
        self.forward = [weight.forward_mask() for weight in weights]
        self.backward = [weight.backward_mask() for weight in weights]
        self.velocities = [np.zeros_like(theta) for theta in self.thetas]
        self.dense_slots = dense_slots

    def gradients(self, x, y):
        """The dense gradients of the loss with respect to each alpha."""
        alphas = [t * a for t, a in zip(self.thetas, self.forward, strict=True)]
        inputs = [x.astype(float)]
        for alpha in alphas:
            inputs.append(inputs[-1] @ alpha)
        upstream = 2 * (inputs[-1] - y) / y.size
        found = []
        for alpha, value in zip(alphas[::-1], inputs[-2::-1], strict=True):
            found.append(value.T @ upstream)
            upstream = upstream @ alpha.T
        return found[::-1]

    def step(self, x, y):
        """Takes an optimizer step; returns the dense gradients before it."""
        found = self.gradients(x, y)
        for i, gradient in enumerate(found):
            seen = gradient if self.dense_slots else gradient * self.backward[i]
            self.velocities[i] = MOMENTUM * self.velocities[i] - RATE * seen
            self.thetas[i] = self.thetas[i] + self.velocities[i] * self.backward[i]
        return found

    def set_masks(self, masks):
        """A = B = masks."""
        self.forward = [mask.copy() for mask in masks]
        self.backward = [mask.copy() for mask in masks]

    def check(self, model, atol=2e-6):
        """Theta and sets of a model are these."""
        for i, weight in enumerate(tk.sparse_weights(model)):
            np.testing.assert_array_equal(weight.forward_mask(), self.forward[i])
            np.testing.assert_array_equal(weight.backward_mask(), self.backward[i])
            np.testing.assert_allclose(weight.dense(), self.thetas[i], atol=atol)


def largest(scores, count, among=None):
    """The mask of so many of the largest scores; ties go to the lower index."""
    flat = np.asarray(scores, float).ravel().copy()
    if among is not None:
        flat[~among.ravel()] = -np.inf
    mask = np.zeros(flat.size, bool)
    mask[np.argsort(-flat, kind="stable")[:count]] = True
    return mask.reshape(np.shape(scores))


def check_saved(model, path, x, y):
    """A model that is saved now goes on as itself, and strips to one dense kernel."""
    model.save(path)
    loaded = keras.saving.load_model(path)
    for a, b in zip(x, y, strict=True):
        for each in (model, loaded):
            each.train_on_batch(a, b)
    [one], [other] = tk.sparse_weights(model), tk.sparse_weights(loaded)
    np.testing.assert_array_equal(one.dense(), other.dense())
    np.testing.assert_array_equal(one.codes(), other.codes())
    plain = tk.strip(model)
    assert [w.name for w in plain.weights] == ["kernel"]
    np.testing.assert_allclose(
        plain.predict(x[0], verbose=0), model.predict(x[0], verbose=0), rtol=1e-5
    )


def check_replicas(name, steps, rtol, atol, **arguments):
    """Two devices train a method as one does."""
    found = []
    for strategy in (tf.distribute.get_strategy(), zoo.two_devices()):
        with strategy.scope():
            model = layers(name, **arguments)
        x, y = (np.reshape(part, (-1, part.shape[-1])) for part in batches(steps))
        model.fit(x, y, batch_size=8, verbose=0, shuffle=False)
        [weight] = tk.sparse_weights(model)
        found.append((weight.dense(), weight.forward_mask()))
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, rtol=rtol, atol=atol)
