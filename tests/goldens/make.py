"""Makes golden files: models and a run as some version of this library has saved them.

    python -m tests.goldens.make NAME     such as v0_1

`tests/test_goldens.py` checks every later version against them. Existing goldens are
never regenerated; a change of a format adds a new folder.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import sys

import keras
import numpy as np
import tensorflow as tf
import tf_keras

import topkast_tf as tk
from launch import callbacks, train
from swat_tf import swat_scope

FOLDER = pathlib.Path(__file__).resolve().parent
STEPS = 3

INPUTS = np.random.default_rng(0).random((8, 6, 6, 2), np.float32)
LABELS = np.arange(8) % 4


@contextlib.contextmanager
def topkast_with_swat():
    with tk.topkast_scope(0.8, 0.5, refresh_every=2), swat_scope(0.5):
        yield


def kernels_share(shapes):
    """A user-defined distribution, which cannot be serialised."""
    return dict.fromkeys(shapes, (0.75, 0.5))


SCOPES = {
    "topkast": lambda: tk.topkast_scope(0.8, 0.6, refresh_every=2),
    "topkast_random": lambda: tk.topkast_scope(
        0.8, 0.6, backward="random", stop_exploring_at=4, seed=3
    ),
    "topkast_block": lambda: tk.topkast_scope(0.5, 0.25, block=(2, 2)),
    "topkast_global": lambda: tk.topkast_scope(0.8, 0.6, distribution="global"),
    "topkast_erk": lambda: tk.topkast_scope(
        0.6, 0.4, distribution="erk", exempt=("first",), exploration=0.0
    ),
    "topkast_last": lambda: tk.topkast_scope(
        0.8, 0.6, distribution=kernels_share, exempt=("last",), exploration_norm="l1"
    ),
    "swat": lambda: swat_scope(0.8, topk_period=2, activations_per="sample"),
    "swat_momentum": lambda: swat_scope(0.7, distribution="momentum", topk_period=4),
    "swat_channel": lambda: swat_scope(0.5, structured="channel"),
    "topkast_swat": topkast_with_swat,
}
"""The scope of each golden model of Keras 3."""
WITH_WEIGHTS = ("topkast", "swat_momentum")
"""Scopes whose weights are also saved alone."""


@keras.saving.register_keras_serializable("goldens")
class Subclassed(keras.Model):
    """A model whose layers are built at its first call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.convolution = keras.layers.Conv2D(8, 3, strides=2, name="convolution")
        self.hidden = keras.layers.Dense(12, activation="relu", name="hidden")
        self.head = keras.layers.Dense(4, name="head")

    def call(self, inputs):
        x = keras.ops.relu(self.convolution(inputs))
        return self.head(self.hidden(keras.ops.reshape(x, (-1, 2 * 2 * 8))))


def functional(library):
    layers = library.layers
    inputs = library.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, strides=2, activation="relu", name="convolution")(inputs)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(12, activation="relu", name="hidden")(x)
    return library.Model(inputs, layers.Dense(4, name="head")(x))


def compiled(model, library):
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(library.optimizers.SGD(0.1, momentum=0.9), loss, jit_compile=False)
    return model


def step(model):
    """One optimizer step on all of the data."""
    model.train_on_batch(INPUTS, LABELS)


def seen(model):
    """Outputs, and theta, set codes and step of each sparse weight, by name."""
    found = {"outputs": np.asarray(model(INPUTS))}
    for i, weight in enumerate(tk.sparse_weights(model)):
        found[f"{i} theta"] = weight.dense()
        found[f"{i} codes"] = weight.codes()
        found[f"{i} step"] = np.asarray(weight.step)
    return found


def record(folder, before, after):
    """Writes the state of a model when it was saved, and one step later."""
    arrays = {f"saved {key}": value for key, value in before.items()}
    arrays |= {f"next {key}": value for key, value in after.items()}
    np.savez_compressed(folder / "expected.npz", **arrays)


def make_keras_3(root):
    for name, scope in SCOPES.items():
        folder = root / name
        folder.mkdir()
        keras.utils.set_random_seed(1)
        with scope():
            model = compiled(functional(keras), keras)
        for _ in range(STEPS):
            step(model)
        before = seen(model)
        model.save(folder / "model.keras")
        if name in WITH_WEIGHTS:
            model.save_weights(folder / "model.weights.h5")
        step(model)
        record(folder, before, seen(model))
    folder = root / "subclassed"
    folder.mkdir()
    keras.utils.set_random_seed(1)
    with SCOPES["topkast"]():
        model = compiled(Subclassed(), keras)
    for _ in range(STEPS):
        step(model)
    before = seen(model)
    model.save(folder / "model.keras")
    tf.saved_model.save(model, str(folder / "saved_model"))
    tf.train.Checkpoint(model=model).write(str(folder / "checkpoint"))
    step(model)
    record(folder, before, seen(model))


def make_tf_keras(root):
    folder = root / "tf_keras"
    folder.mkdir()
    tf_keras.utils.set_random_seed(1)
    with SCOPES["topkast"]():
        model = compiled(functional(tf_keras), tf_keras)
    for _ in range(STEPS):
        step(model)
    before = seen(model)
    model.save(folder / "model.keras")
    model.save_weights(folder / "weights.h5")
    step(model)
    record(folder, before, seen(model))


class Perceptron(tf.Module):
    """A `tf.Module` with variables made in a scope."""

    def __init__(self):
        super().__init__()
        draw = tf.random.Generator.from_seed(1)
        with SCOPES["topkast"]():
            self.hidden = tf.Variable(draw.normal([72, 12], 0, 0.1), name="hidden")
            self.head = tf.Variable(draw.normal([12, 4], 0, 0.3), name="head")

    def __call__(self, inputs):
        x = tf.nn.relu(tf.reshape(inputs, [-1, 72]) @ self.hidden)
        return x @ self.head

    def train_on_batch(self, inputs, labels):
        variables = [self.hidden, self.head]
        with tf.GradientTape() as tape:
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, self(inputs))
            loss = tf.reduce_mean(loss)
            loss += sum(weight.penalty() for weight in tk.sparse_weights(self))
        gradients = tape.gradient(loss, variables)
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.assign_sub(0.5 * gradient)


def make_module(root):
    folder = root / "module"
    folder.mkdir()
    model = Perceptron()
    for _ in range(STEPS):
        step(model)
    before = seen(model)
    tf.train.Checkpoint(model=model).write(str(folder / "checkpoint"))
    step(model)
    record(folder, before, seen(model))


@contextlib.contextmanager
def getter_session():
    """Inputs, logits, alpha and the training op of a TensorFlow 1 graph, as `fetch`."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        v1.set_random_seed(1)
        getter = tk.topkast_getter(0.8, 0.6, refresh_every=2)
        with v1.variable_scope("net", custom_getter=getter):
            hidden = v1.get_variable("hidden_kernel", [72, 12])
            head = v1.get_variable("head_kernel", [12, 4])
        x = tf.nn.relu(tf.reshape(tf.constant(INPUTS), [-1, 72]) @ hidden)
        outputs = x @ head
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, outputs)
        loss = tf.reduce_mean(loss) + v1.losses.get_regularization_loss()
        train_op = v1.train.MomentumOptimizer(0.1, 0.9).minimize(loss)
        tensors = {"outputs": outputs, "0 alpha": hidden, "1 alpha": head}
        yield session, v1.train.Saver(), train_op, lambda: session.run(tensors)


def make_getter(root):
    folder = root / "getter"
    folder.mkdir()
    with getter_session() as (session, saver, train_op, fetch):
        session.run(tf.compat.v1.global_variables_initializer())
        for _ in range(STEPS):
            session.run(train_op)
        before = fetch()
        saver.save(session, str(folder / "model"), write_meta_graph=False)
        session.run(train_op)
        record(folder, before, fetch())
    (folder / "checkpoint").unlink()  # a list of checkpoints, with this folder's path


RUN_FLAGS = (
    *("--dataset=digits", "--model=resnet8", "--width=0.25", "--train_examples=64"),
    *("--method=topkast_swat", "--fwd=0.8", "--bwd=0.5", "--sparsity=0.5"),
    *("--batch_size=16", "--steps=6", "--evaluate_every=2", "--momentum=0.9"),
    *("--nodeterministic", "--keep_checkpoints=1"),
)


def make_run(root):
    """A run ended by SIGTERM in its third step, and the weights of the whole run."""
    os.chdir(root)  # its flags hold the path that it was given
    assert train.main(["train.py", *RUN_FLAGS, "--run_dir=whole"]) == 0
    model = keras.saving.load_model("whole/topkast_swat/model.keras")
    weights = {variable.path: variable.numpy() for variable in model.weights}
    np.savez_compressed("run_expected.npz", **weights)
    shutil.rmtree("whole")
    begin, calls = callbacks.LearningRate.on_train_batch_begin, []

    def terminated(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return begin(self, *args, **kwargs)

    callbacks.LearningRate.on_train_batch_begin = terminated
    assert train.main(["train.py", *RUN_FLAGS, "--run_dir=run"]) == 143
    callbacks.LearningRate.on_train_batch_begin = begin
    shutil.rmtree("run/topkast_swat/events")
    pathlib.Path("run/.lock").unlink(missing_ok=True)


def main(name):
    root = FOLDER / name
    root.mkdir()  # fails if it exists: goldens are not regenerated
    for make in (make_keras_3, make_tf_keras, make_module, make_getter, make_run):
        make(root)


if __name__ == "__main__":
    main(*sys.argv[1:])
