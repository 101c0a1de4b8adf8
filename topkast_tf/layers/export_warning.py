"""Warns of the export of a sparse model without `strip`.

The export computes the same as the stripped model, but holds theta, which has no zeros,
and the sets: it is larger than a dense model and does not compress.
"""

import contextvars
import functools
import inspect
import threading
from collections.abc import Callable, Iterable
from typing import Any

from absl import logging

from topkast_tf import compat
from topkast_tf.core.context_values import holding
from topkast_tf.layers.weights import weights_of
from topkast_tf.variables import hooks

_warned: set[str] = set()
"""The scopes already warned about; each makes one model."""
_lock = threading.Lock()
_converting = contextvars.ContextVar("converting", default=False)
_exporting = contextvars.ContextVar("exporting", default=False)


def install(library: Any) -> None:
    """Wraps the public export methods of a Keras library, once.

    Args:
      library: the module `keras` or `tf_keras`.
    """
    of_model = functools.partial(_warning, given_model=False)
    hooks.wrap_method(library.Model, "export", of_model)
    if hasattr(library, "export") and hasattr(library.export, "ExportArchive"):
        # Keras chooses the class of an archive at its construction.
        archive = type(library.export.ExportArchive())
        hooks.wrap_method(
            archive, "track", functools.partial(_warning, given_model=True)
        )
        hooks.wrap_method(archive, "add_endpoint", _marking)
    hooks.wrap_method(library.Model, "export", _marking)


def is_exporting() -> bool:
    """Whether a model is being exported, so that what is traced must run elsewhere."""
    return _exporting.get() or compat.is_saving_graphs()


def _marking(original: Callable) -> Callable:
    def method(*args, **kwargs):
        with holding(_exporting, True):
            return original(*args, **kwargs)

    return method


def warn_of_theta(layers: Iterable[Any]) -> None:
    """Warns, once per scope, that the weights of layers are about to be exported.

    Args:
      layers: the model's layers; those whose alpha is theta give no warning.
    """
    if _converting.get():
        return
    scopes = {
        layer._topkast_scope.uid
        for layer in layers
        if any(w.fwd > 0 and not w.exempt for w in weights_of(layer))
    }
    with _lock:
        new = scopes - _warned
        _warned.update(new)
    if new:
        logging.warning(
            "The export of a sparse model holds its dense parameters and its sets, so "
            "that it is larger than a dense one and does not compress: export "
            "`topkast_tf.strip(model)`, which has the same outputs and zeros in its "
            "kernels."
        )


def _warning(original: Callable, given_model: bool) -> Callable:
    def method(self, *args, **kwargs):
        given = inspect.signature(original).bind(self, *args, **kwargs).arguments
        model = given["resource"] if given_model else self
        form = given.get("format")
        if form == "litert":
            # It holds alpha as constants; theta is only in a temporary SavedModel.
            with holding(_converting, True):
                return original(self, *args, **kwargs)
        warn_of_theta(compat.layers_within(model))
        return original(self, *args, **kwargs)

    return method
