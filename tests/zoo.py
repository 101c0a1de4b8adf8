"""Models of every kind, each with the inputs it takes and the kernels it has."""

import functools

import keras
import numpy as np
import tensorflow as tf
from keras import layers


@functools.cache
def two_devices():
    """A MirroredStrategy on the two virtual CPUs; one for all tests.

    Each new strategy numbers its collective operations from zero, and TensorFlow
    refuses a number that was used with other shapes.
    """
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def adapted(layer, data):
    """A preprocessing layer that has seen data."""
    layer.adapt(data)
    return layer


@keras.saving.register_keras_serializable("tests")
class OwnDense(layers.Layer):
    """A user's layer, which only calls `add_weight`."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.w = self.add_weight(shape=(input_shape[-1], self.units), name="w")
        self.b = self.add_weight(shape=(self.units,), name="b", initializer="zeros")

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.w) + self.b

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    """A subclassed model, whose layers are built at its first call."""

    def __init__(self, units=24, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.hidden = layers.Dense(units, activation="relu")
        self.norm = layers.BatchNormalization()
        self.head = layers.Dense(10)

    def call(self, inputs, training=False):
        x = keras.ops.reshape(inputs, (-1, 64))
        return self.head(self.norm(self.hidden(x), training=training))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def unbuilt_sequential():
    return keras.Sequential([layers.Flatten(), layers.Dense(16), layers.Dense(10)])


def functional():
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, padding="same")(inputs)
    y = layers.Conv2D(8, 1)(x)
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def shared():
    inputs = keras.Input((8, 8, 1))
    x = layers.Reshape((8, 8))(inputs)
    layer = layers.Dense(8, activation="tanh")
    x = layer(layer(x))
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))


def nested():
    block = keras.Sequential([layers.Dense(16, activation="relu"), layers.Dense(16)])
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, layers.Dense(10)(block(layers.Flatten()(inputs))))


def nested_subclassed():
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, layers.Dense(10)(Subclassed()(inputs)))


def own_layer():
    return keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), OwnDense(16), OwnDense(10)]
    )


def convolutions():
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)
    x = layers.SeparableConv2D(6, 3, padding="same")(x)
    x = layers.Conv2DTranspose(4, 3, strides=2, padding="same")(x)
    x = layers.Conv2D(4, 3, groups=2, dilation_rate=2)(x)
    x = layers.Reshape((12, 48))(x)
    x = layers.Conv1D(6, 3)(x)
    x = layers.Conv1DTranspose(6, 3)(x)
    x = layers.Reshape((12, 6, 1, 1))(x)
    x = layers.Conv3D(4, (3, 3, 1))(x)
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))


def attention():
    inputs = keras.Input((8, 8, 1))
    x = layers.Reshape((8, 8))(inputs)
    x = layers.EinsumDense("abc,cd->abd", (8, 12), bias_axes="d")(x)
    x = layers.MultiHeadAttention(2, 6)(x, x)
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))


def recurrent():
    inputs = keras.Input((8, 8, 1))
    x = layers.Reshape((8, 8))(inputs)
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(x)
    x = layers.GRU(6, return_sequences=True)(x)
    x = layers.RNN(layers.SimpleRNNCell(5))(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def application():
    return keras.applications.MobileNetV2(
        (32, 32, 1), alpha=0.35, weights=None, classes=10, classifier_activation=None
    )


KERNELS = {
    sequential: 2,
    unbuilt_sequential: 2,
    functional: 3,
    shared: 2,
    nested: 3,
    nested_subclassed: 3,
    own_layer: 2,
    Subclassed: 2,
    convolutions: 10,
    attention: 6,
    recurrent: 9,
    application: 53,
}
"""Each builder, and how many kernels its model has."""


def images(builder, count=8):
    """Real-looking inputs of the right shape, always the same."""
    side = 32 if builder is application else 8
    return np.random.default_rng(0).random((count, side, side, 1), np.float32)


def labels(count=8):
    return np.arange(count) % 10


def dense_twin(builder, model, inputs):
    """A dense model that holds the sparse model's alphas: an oracle for its outputs."""
    from topkast_tf import sparse_weights

    twin = builder()
    twin(inputs)
    alphas = {id(w.variable): w.effective() for w in sparse_weights(model)}
    state = ("_sets", "_clock", "_activations", "_average")
    sources = [v for v in model.weights if not v.name.endswith(state)]
    assert len(sources) == len(twin.weights)
    for source, target in zip(sources, twin.weights, strict=True):
        target.assign(alphas.get(id(source.value), source.numpy()))
    return twin
