"""Tracks whether a forward pass or an optimizer's update is running.

Forward passes must read a sparse variable as alpha; optimizers, savers and distribution
strategies must read it as theta. TensorFlow does not distinguish them, so public methods
of each Keras library are wrapped once, when the first scope opens: ``Layer.__call__``, the
optimizer's ``apply``, and the averaging of weights. The wrappers mark the current thread
and run registered callbacks; without sparse variables they change no result.
"""

import contextlib
import dataclasses
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from topkast_tf import compat
from topkast_tf.variables import broadcast
from topkast_tf.variables.replaced_step import run_unless


class _Depths(threading.local):
    forward = 0
    forward_around_build = 0
    update = 0
    swap = 0
    dense = 0


_depths = _Depths()
_updates_under_way = 0  # in all threads
_wrapped: set[type] = set()
_lock = threading.RLock()


@contextlib.contextmanager
def _deeper(name: str) -> Iterator[None]:
    setattr(_depths, name, getattr(_depths, name) + 1)
    try:
        yield
    finally:
        setattr(_depths, name, getattr(_depths, name) - 1)


def in_forward_pass() -> bool:
    """Whether the call of a Keras layer is running in this thread."""
    return _depths.forward > _depths.forward_around_build


@contextlib.contextmanager
def building() -> Iterator[None]:
    """Within it no forward pass is running, unless another layer call begins.

    The first call of a layer builds it: reads and assignments in the build use theta, as
    if the layer had been built before.
    """
    around, _depths.forward_around_build = _depths.forward_around_build, _depths.forward
    try:
        yield
    finally:
        _depths.forward_around_build = around


def in_update() -> bool:
    """Whether an optimizer's update is running.

    Under a strategy the optimizer delegates updates to another thread, which TensorFlow
    marks itself (the mark has no public accessor). TensorFlow marks other assignments,
    such as those of a checkpoint, in the same way, but no optimizer waits for them.
    """
    return _depths.update > 0 or (handed_over() and _updates_under_way > 0)


def in_swap() -> bool:
    """Whether a Keras callback is swapping weights and their averages."""
    return _depths.swap > 0


def handed_over() -> bool:
    """Whether a strategy is running an assignment, of an optimizer or another caller."""
    return compat.is_handed_over()


@contextlib.contextmanager
def _updating() -> Iterator[None]:
    global _updates_under_way
    with _lock:
        _updates_under_way += 1
    try:
        with _deeper("update"):
            yield
    finally:
        with _lock:
            _updates_under_way -= 1


@contextlib.contextmanager
def dense_reads() -> Iterator[None]:
    """Within it, every sparse variable reads as theta, its dense parameter.

    Needed only in custom code that reads a scope's `tf.Variable` outside Keras layers and
    needs theta, such as a hand-written weight decay, or that assigns back what it has
    read: ``w.assign(tf.clip_by_value(w, -1, 1))``.

    >>> import tensorflow as tf
    >>> from topkast_tf import dense_reads, topkast_scope
    >>> with topkast_scope(fwd=0.5, bwd=0.5):
    ...     w = tf.Variable([[1.0, 2.0]], name="w")
    >>> (w * 1.0).numpy()
    array([[0., 2.]], dtype=float32)
    >>> with dense_reads():
    ...     (w * 1.0).numpy()
    array([[1., 2.]], dtype=float32)
    """
    with _deeper("dense"):
        yield


def dense_reads_requested() -> bool:
    """Whether `dense_reads` is active in this thread."""
    return _depths.dense > 0


@dataclasses.dataclass
class Update:
    """One call of an optimizer.

    Attributes:
      variables: the trainable variables.
      gradients: their gradients as passed to the optimizer; empty if unknown. The
        optimizer receives them as changed by the contexts of `around_update`.
      optimizer: the optimizer.
      replaced: boolean scalar, set by the contexts of `around_update`: whether the
        optimizer must change nothing; None if this cannot happen.
    """

    variables: Sequence[Any]
    gradients: list[Any]
    optimizer: Any
    replaced: tf.Tensor | None = None


around_update: list[Callable[[Update], contextlib.AbstractContextManager]] = []
"""Contexts that are entered around each call of an optimizer."""

around_call: list[Callable[[Any], contextlib.AbstractContextManager]] = []
"""Contexts that are entered around each call of a Keras layer, which they receive."""

after_outermost_call: list[Callable[[Any], None]] = []
"""Callbacks that receive a Keras layer after an outermost call of it returns."""


def install() -> None:
    """Wraps the loaded Keras libraries, unless they are wrapped already."""
    with _lock:
        for library in loaded_keras_libraries():
            optimizer = library.optimizers.Optimizer
            method = "apply" if hasattr(optimizer, "apply") else "apply_gradients"
            _wrap_layer(library.layers.Layer)
            _wrap_optimizer(optimizer, method)
            _wrap_swap(getattr(library.callbacks, "SwapEMAWeights", None))
            if hasattr(library.optimizers, "legacy"):
                _refuse_sparse(
                    getattr(library.optimizers.legacy, "Optimizer", None),
                    f"{library.__name__}.optimizers.Optimizer",
                )
        _refuse_sparse(tf.compat.v1.train.Optimizer, "a Keras optimizer")
        broadcast.install()


def loaded_keras_libraries() -> list[Any]:
    """The modules `keras` and `tf_keras`, if imported."""
    modules = [sys.modules.get(name) for name in ("keras", "tf_keras")]
    return [module for module in modules if hasattr(module, "optimizers")]


def wrap_method(owner: type, name: str, wrap: Callable[[Callable], Callable]) -> None:
    """Wraps a method once, in the class that defines it, for all its subclasses.

    Args:
      owner: a class; nothing is done if it has no such method.
      name: the method's name.
      wrap: maps the original method to the new one.
    """
    defining = [cls for cls in owner.__mro__ if name in vars(cls)]
    if not defining or hasattr(original := getattr(owner, name), "_topkast_original"):
        return
    made = functools.wraps(original)(wrap(original))
    made._topkast_original = original  # type: ignore[attr-defined]
    setattr(defining[0], name, made)


def wrap_property(owner: type, name: str, wrap: Callable[[Callable], Callable]) -> None:
    """As `wrap_method`, of a property that is only read.

    Args:
      owner: a class that has it, or inherits it.
      name: the property's name.
      wrap: maps the original function to the new one.
    """
    defining = next(cls for cls in owner.__mro__ if name in vars(cls))
    original = vars(defining)[name].fget
    if hasattr(original, "_topkast_original"):
        return
    made = functools.wraps(original)(wrap(original))
    made._topkast_original = original  # type: ignore[attr-defined]
    setattr(defining, name, property(made))


def _wrap_layer(layer_class: type) -> None:
    if layer_class in _wrapped:
        return
    original = layer_class.__call__  # type: ignore[operator]

    @functools.wraps(original)
    def call(self, *args, **kwargs):
        with _deeper("forward"), contextlib.ExitStack() as stack:
            for context in around_call:
                stack.enter_context(context(self))
            # A returned variable would be read after the pass, as theta.
            outputs = _read_variables(original(self, *args, **kwargs))
        if not _depths.forward:
            for callback in after_outermost_call:
                callback(self)
        return outputs

    layer_class.__call__ = call  # type: ignore[operator]
    _wrapped.add(layer_class)


def _wrap_swap(callback_class: type | None) -> None:
    if callback_class is None or callback_class in _wrapped:
        return

    def wrapped(original: Callable) -> Callable:
        @functools.wraps(original)
        def call(self, *args, **kwargs):
            with _deeper("swap"):
                return original(self, *args, **kwargs)

        return call

    for name, method in list(vars(callback_class).items()):
        if name.startswith("on_"):
            setattr(callback_class, name, wrapped(method))
    _wrapped.add(callback_class)


def _refuse_sparse(optimizer_class: type | None, instead: str) -> None:
    """Makes an optimizer that bypasses assignments refuse sparse variables."""
    if optimizer_class is None or "apply_gradients" not in vars(optimizer_class):
        return
    if optimizer_class in _wrapped:
        return
    original = optimizer_class.apply_gradients

    @functools.wraps(original)
    def apply_gradients(self, grads_and_vars, *args, **kwargs):
        pairs = list(grads_and_vars)
        for _, variable in pairs:
            if hasattr(variable, "_topkast"):
                raise ValueError(
                    "Expected an optimizer that assigns to variables. This one writes to "
                    "them by fused kernels, where the update cannot be masked: use "
                    f"{instead}, or `topkast_getter` in a TensorFlow 1 graph. "
                    f"Received: {type(self).__module__}.{type(self).__name__}"
                )
        return original(self, pairs, *args, **kwargs)

    optimizer_class.apply_gradients = apply_gradients  # type: ignore[attr-defined]
    _wrapped.add(optimizer_class)


def _read_variables(outputs: Any) -> Any:
    if type(outputs) in (list, tuple):
        return type(outputs)(map(_read_variables, outputs))
    if type(outputs) is dict:
        return {key: _read_variables(value) for key, value in outputs.items()}
    is_variable = isinstance(_variable_of(outputs), tf.Variable)
    return tf.convert_to_tensor(outputs) if is_variable else outputs


def _variable_of(output: Any) -> Any:
    return compat.raw_variable(output) if hasattr(output, "__dict__") else output


def _wrap_optimizer(optimizer_class: type, method: str) -> None:
    # The method may be inherited: it is wrapped in the class that defines it.
    owner = next(cls for cls in optimizer_class.__mro__ if method in vars(cls))
    if owner in _wrapped:
        return
    original = getattr(owner, method)

    @functools.wraps(original)
    def apply(self, *args, **kwargs):
        update, arguments = _read_arguments(self, method, args, kwargs)

        def run():
            args, kwargs = arguments()
            with _updating():
                return original(self, *args, **kwargs)

        with contextlib.ExitStack() as around:
            for enter in around_update:
                around.enter_context(enter(update))
            if update.replaced is None:
                return run()
            return run_unless(update.replaced, run, self, update.variables)

    finalize = owner.finalize_variable_values

    @functools.wraps(finalize)
    def finalize_variable_values(self, *args, **kwargs):
        # At the end of `fit` it overwrites weights with their averages: also an update.
        with _updating():
            return finalize(self, *args, **kwargs)

    setattr(owner, method, apply)
    owner.finalize_variable_values = finalize_variable_values
    _wrapped.add(owner)


def _read_arguments(
    optimizer: Any, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Update, Callable[[], tuple[list, dict]]]:
    """Reads the arguments of one call into an `Update`; iterators are read once.

    Returns:
      The update, and a function that returns the call's arguments for its final state.
    """
    args, kwargs = list(args), dict(kwargs)

    def argument(position: int, name: str) -> list | None:
        given = args[position] if len(args) > position else kwargs.get(name)
        return None if given is None else list(given)

    def with_argument(position: int, name: str, value: list) -> tuple[list, dict]:
        if len(args) > position:
            return [*args[:position], value, *args[position + 1 :]], kwargs
        return args, {**kwargs, name: value}

    if method == "apply_gradients":
        pairs = argument(0, "grads_and_vars") or []
        made = [variable for _, variable in pairs]
        update = Update(made, [gradient for gradient, _ in pairs], optimizer)
        return update, lambda: with_argument(
            0, "grads_and_vars", list(zip(update.gradients, made, strict=True))
        )
    gradients = argument(0, "grads")
    given = argument(1, "trainable_variables")
    if given is not None:
        args, kwargs = with_argument(1, "trainable_variables", given)
    else:
        given = compat.trainable_variables(optimizer)
    update = Update(given, gradients or [], optimizer)
    if gradients is None:
        return update, lambda: (args, kwargs)
    return update, lambda: with_argument(0, "grads", update.gradients)
