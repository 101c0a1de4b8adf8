"""Exchange of weights between sparse and dense models, by lists and files.

`get_weights` of a model with sparse weights returns the weights of its dense counterpart,
in the same order, followed by (in tf_keras: mixed with) the sets and counters.
`set_weights` accepts such a list and restores everything. From a list of the dense length,
as from a pretrained model, it starts anew: theta is assigned, the step is 0, and the method
selects the initial sets. The same holds for files. The public methods of each Keras library
are wrapped once; for models without sparse weights they behave as before.
"""

import contextlib
import json
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import h5py
import numpy as np
import tensorflow as tf

from topkast_tf.compat import layers_within
from topkast_tf.layers.weights import state_hidden, weights_of
from topkast_tf.variables import hooks
from topkast_tf.variables.restart import restart
from topkast_tf.variables.weight import SparseWeight

STATE_KEY = "topkast:"
"""Prefix of the name of each state variable in a file of weights."""
_LEGACY_SETS = "_sets:0"
_LEGACY_SUFFIXES = (".h5", ".hdf5")
_STRIP = "`topkast_tf.strip` makes a dense model from a sparse one"


def install(library: Any) -> None:
    """Wraps the methods of a Keras library that exchange weights, once.

    Args:
      library: the module `keras` or `tf_keras`.
    """
    hooks.wrap_method(library.layers.Layer, "get_weights", _get_weights)
    hooks.wrap_method(library.layers.Layer, "set_weights", _set_weights)
    hooks.wrap_method(library.Model, "load_weights", _load_weights)


def sparse_weights_within(layer: Any) -> list[SparseWeight]:
    """The sparse weights of a layer and all its sublayers, each once."""
    found = {
        id(weight): weight
        for each in layers_within(layer)
        for weight in weights_of(each)
    }
    return [weight for weight in found.values() if weight.is_ready]


def _lists_of(layer: Any, sparse: Sequence[SparseWeight]) -> tuple[list, list, set]:
    """The weights that a layer lists, its unlisted state, and the ids of all its state.

    Keras 3 lists no state (`layers._SparseLayer.weights`), tf_keras lists all of it.
    """
    listed = list(layer.weights)
    state = [made for weight in sparse for made in weight.state_variables().values()]
    ids = {id(made) for made in listed}
    behind = [made for made in state if id(made) not in ids]
    return listed, behind, {id(made) for made in state}


def _get_weights(original: Callable) -> Callable:
    def get_weights(self):
        values, sparse = original(self), sparse_weights_within(self)
        _, behind, _ = _lists_of(self, sparse)
        return [*values, *(made.numpy() for made in behind)]

    return get_weights


def _set_weights(original: Callable) -> Callable:
    def set_weights(self, weights):
        sparse, values = sparse_weights_within(self), list(weights)
        if not sparse:
            _refuse_state(self, values)
            return original(self, values)
        listed, behind, state = _lists_of(self, sparse)
        dense = sum(id(made) not in state for made in listed)
        if len(values) == dense:
            given = iter(values)
            values = [
                made.numpy() if id(made) in state else next(given) for made in listed
            ]
            _check_shapes(self, listed, values)
            original(self, values)
            restart(sparse)
        elif len(values) == len(listed) + len(behind):
            by_variable = dict(zip(map(id, [*listed, *behind]), values, strict=True))
            _check_shapes(self, listed, values)
            for weight in sparse:
                own, name = weight.state_variables(), weight.local_name
                weight.check_state(
                    counters=np.asarray(by_variable[id(own[f"{name}_clock"])]),
                    sets=np.asarray(by_variable[id(own[f"{name}_sets"])]),
                )
            original(self, values[: len(listed)])
            for made in behind:
                made.assign(by_variable[id(made)])
        else:
            raise ValueError(
                f"Expected {dense} arrays for {self.name!r}, as for the dense model, "
                f"or {len(listed) + len(behind)} with the sets and counters of its sparse "
                f"weights. Received: {len(values)} arrays"
            )

    return set_weights


def _check_shapes(layer: Any, made: Sequence[Any], values: Sequence[Any]) -> None:
    """Raises a ValueError, before any assignment, unless arrays fit their variables."""
    for variable, value in zip(made, values, strict=False):
        if tuple(variable.shape) != np.shape(value):
            raise ValueError(
                f"Expected an array of shape {tuple(variable.shape)} for "
                f"{getattr(variable, 'path', variable.name)} of {layer.name!r}: the "
                "shapes must match. Received: one of shape "
                f"{np.shape(value)}; nothing was assigned"
            )


def _refuse_state(layer: Any, values: Sequence[Any]) -> None:
    extra = len(values) - len(layer.weights)
    codes = sum(np.asarray(each).dtype.kind in "iu" for each in values)
    # In tf_keras they are mixed with the weights.
    if extra > 0 and codes >= extra and extra % 2 == 0:
        raise ValueError(
            f"Expected {len(layer.weights)} arrays for the dense {layer.name!r}. "
            f"{_STRIP}, whose `get_weights` fits. Received: {len(values)} arrays, "
            "including the sets and counters of a sparse model"
        )


def _load_weights(original: Callable) -> Callable:
    def load_weights(self, filepath, *args, **kwargs):
        sparse = sparse_weights_within(self)
        # The legacy format assigns arrays without calling the layers. In Keras 3 it holds
        # no sets; in tf_keras it does if the model was sparse.
        takes_dense = sparse and _is_legacy(filepath) and not _holds_state(filepath)
        before = [weight.assignments for weight in sparse]
        try:
            with contextlib.ExitStack() as hidden:
                for layer in layers_within(self) if takes_dense else ():
                    if weights_of(layer):
                        hidden.enter_context(state_hidden(layer))
                result = original(self, filepath, *args, **kwargs)
        except ValueError as error:
            if not sparse and _holds_state(filepath):
                raise ValueError(
                    f"Expected the weights of a dense model for {self.name!r}. {_STRIP}, "
                    f"whose file fits. Received: {filepath}, saved by a sparse model"
                ) from error
            raise
        if takes_dense:
            restart(
                weight
                for weight, count in zip(sparse, before, strict=True)
                if weight.assignments > count
            )
        return result

    return load_weights


def _is_legacy(filepath: Any) -> bool:
    name = str(filepath)
    return name.endswith(_LEGACY_SUFFIXES) and not name.endswith(".weights.h5")


def _holds_state(filepath: Any) -> bool:
    """Whether a file of weights holds sets; False if unknown."""
    try:
        if str(filepath).endswith(".json"):  # the index of several files
            index = json.loads(pathlib.Path(filepath).read_text(encoding="utf-8"))
            names = set(tf.nest.flatten(index["weight_map"]))
            return any(_holds_state(pathlib.Path(filepath).parent / n) for n in names)
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(filepath, "rb"))
            if zipfile.is_zipfile(file):
                archive = stack.enter_context(zipfile.ZipFile(file))
                file = stack.enter_context(archive.open("model.weights.h5"))
            weights = stack.enter_context(h5py.File(file, "r"))
            names: list[str] = []
            weights.visit(names.append)
            return any(STATE_KEY in n or n.endswith(_LEGACY_SETS) for n in names)
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile):
        return False
