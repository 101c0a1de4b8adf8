"""What a method does in a step, observed: a small layer is trained, and its zeros are read.

The layer has 12 inputs and 8 outputs, a batch four examples. The entries that the forward
pass uses, those that a step changes, and the activations and error gradients that are left
out follow from values and gradients. A method that looks at the dense gradient in a step
declares it (`SparseWeight.looks_at_gradient`).
"""

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import swat_tf  # noqa: F401  registers its methods
import topkast_tf as tk
from topkast_tf.methods import GRADIENT, METHODS, SETTINGS
from topkast_tf.scope import SCOPES

INPUTS, OUTPUTS, EXAMPLES, STEPS = 12, 8, 4, 12
SPARSITY = 0.75
NAMES = tuple(sorted({*METHODS, *SETTINGS, *SCOPES}))
"""Every name that `topkast_tf.sparse_scope` takes."""
FINDS_SPARSITY = ("cs", "dst", "str")
"""Methods whose training finds the sparsity."""

_UPDATES = {"total_steps": STEPS, "update_every": 2}
_EXACT = {**_UPDATES, "noise": 0.0}  # else rounding decides between close scores
ARGUMENTS: dict[str, dict[str, Any]] = {
    "acdc": {
        "total_steps": STEPS,
        "warm_up": 0.2,
        "phase": 0.2,
        "last_dense_from": 0.6,
        "last_compressed_from": 0.8,
    },
    "cs": {"total_steps": STEPS, "rounds": 1, "penalty_coefficient": 0.01},
    "dsg": {"dimension": 6, "threshold": "each"},
    "dsr": {**_UPDATES, "threshold": 0.2},
    "dst": {"penalty_coefficient": 0.04},
    "granet": {**_UPDATES, "prune_until": 1.0},
    "mest": {**_UPDATES, "mutation": 0.1},
    "nm": {"m": 4},
    "pruning": {**_UPDATES, "update_from": 2, "update_until": 10},
    "rigl": _EXACT,
    "rigl_itop": _EXACT,
    "set": _EXACT,
    "set_itop": _EXACT,
    "snfs": _UPDATES,
    "spartan": {"total_steps": STEPS},
    "srigl": _UPDATES,
    "str": {"initial_threshold": -1.0, "decay": 0.3},
    "topkast": {"bwd": 0.5},
}
"""Name -> arguments of a run that is `STEPS` steps long."""


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One step of training; all arrays are boolean.

    Attributes:
      number: which one.
      forward: entries of the weight in the forward pass and the input gradient,
        [inputs, outputs].
      outputs: outputs that are not left out, [examples, outputs].
      errors: error gradients that the backward pass uses, [examples, outputs].
      activations: activations that the weight gradient uses, [examples, inputs].
      gradient: entries of the weight whose gradient is used.
      changed: entries that the step changes.
    """

    number: int
    forward: np.ndarray
    outputs: np.ndarray
    errors: np.ndarray
    activations: np.ndarray
    gradient: np.ndarray
    changed: np.ndarray

    def looks_like(self, other: "Step") -> bool:
        """Whether all arrays are equal."""
        names = [field.name for field in dataclasses.fields(self)][1:]
        return all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in names
        )


def steps_of(name: str) -> list[Step]:
    """The first step of a run, one in the middle, and the last, if they differ."""
    found: list[Step] = []
    for number in (0, STEPS // 2 - 1, STEPS - 1):
        step = observed(name, number)
        if not found or not step.looks_like(found[-1]):
            found.append(step)
    return found


def observed(name: str, number: int) -> Step:
    """One step of a run."""
    model = trained(name, number)
    [weight] = tk.sparse_weights(model)
    x, _ = batch()
    y, dx, dw = _products(model, x, _errors())
    alpha, gradient = weight.effective(), dw != 0
    forward = weight.forward_mask()
    if GRADIENT in weight.method.inputs and not weight.looks_at_gradient:
        gradient &= weight.backward_mask()
    if weight.method.dense_slots:
        gradient = np.ones_like(gradient)
    activations = np.ones(x.shape, bool)
    if weight.method.name == "swat":  # its product rule alone selects activations
        activations = _used_activations(model, x)
    before = weight.dense()
    model.train_on_batch(*batch())
    changed = weight.dense() != before
    return Step(
        number,
        forward,
        (y != 0) | ~forward.any(0),
        _used_errors(dx, alpha),
        activations,
        gradient,
        changed,
    )


def trained(name: str, steps: int = 0) -> keras.Model:
    """A model of the one layer, after some steps."""
    given = {**ARGUMENTS.get(name, {})}
    if name not in FINDS_SPARSITY:
        given["sparsity"] = SPARSITY
    with tk.sparse_scope(name, kernels="masked", **given):
        layer = keras.layers.Dense(OUTPUTS, use_bias=False, name="dense")
        model = keras.Sequential([keras.Input((INPUTS,)), layer])
    rng = np.random.default_rng(1)
    theta = 0.5 * rng.standard_normal((INPUTS, OUTPUTS))
    layer.kernel.assign(theta.astype("float32"))
    model.compile(keras.optimizers.SGD(0.3), "mse", run_eagerly=True)
    if name in ("grasp", "snip", "synflow"):
        tk.prune(model, batch())
    for _ in range(steps):
        model.train_on_batch(*batch())
    return model


def batch() -> tuple[tf.Tensor, tf.Tensor]:
    """The inputs and targets of each step."""
    rng = np.random.default_rng(2)
    return _normal(rng, INPUTS), _normal(rng, OUTPUTS)


def _errors() -> tf.Tensor:
    return _normal(np.random.default_rng(3), OUTPUTS)


def _normal(rng: np.random.Generator, size: int) -> tf.Tensor:
    return tf.constant(rng.standard_normal((EXAMPLES, size)), tf.float32)


def _products(
    model: keras.Model, x: tf.Tensor, dy: tf.Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, and the gradients of ``sum(y dy)`` with respect to x and the weight."""
    kernel = model.layers[0].kernel.value
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model(x, training=True)
        loss = tf.reduce_sum(y * dy)
    return y.numpy(), *(g.numpy() for g in tape.gradient(loss, [x, kernel]))


def _used_errors(dx: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Where dy~ is not zero, from ``dx = dy~ alpha^T``."""
    dy = _errors().numpy()
    if np.allclose(dx, dy @ alpha.T, atol=1e-5):
        return np.ones(dy.shape, bool)
    used, *_ = np.linalg.lstsq(alpha, dx.T, rcond=None)
    return np.abs(used.T) > 1e-4


def _used_activations(model: keras.Model, x: tf.Tensor) -> np.ndarray:
    """Where the weight gradient of one example's errors depends on x."""
    used = []
    for example in range(EXAMPLES):
        dy = np.zeros((EXAMPLES, OUTPUTS), "float32")
        dy[example] = 1
        dw = _products(model, x, tf.constant(dy))[2]
        used.append((dw != 0).any(1))
    return np.stack(used)
