"""Packed storage of a sparse weight: the optimizer trains the entries of B as a vector.

Theta stays as it was when the sets were last selected. What is read as theta, alpha or the
exploration loss is put together from both. Whoever assigns sets has the entries follow:
those that leave B are written to theta, and those that enter it are read from there.
"""

import pathlib
from typing import Any, NamedTuple

import tensorflow as tf

from topkast_tf import compat
from topkast_tf.core.mixing import mixed
from topkast_tf.core.packing import packed
from topkast_tf.kernels import library, training
from topkast_tf.methods.base import RESET, Method
from topkast_tf.variables import hooks, optimizer_files
from topkast_tf.variables.components import components
from topkast_tf.variables.placement import Placement

STORAGES = ("dense", "packed")
"""What a scope may ask for: theta as the trained variable, or the entries of B alone."""
ENTRIES = "_topkast_entries"
"""Attribute of a Keras variable: its `SparseWeight`, whose entries are trained instead."""


class Storage(NamedTuple):
    """What the optimizer trains, and where the rest of a weight is.

    Attributes:
      kind: one of `STORAGES`.
      theta_dir: a folder, in whose files theta and the sets of packed weights are; None
        for memory.
    """

    kind: str = "dense"
    theta_dir: str | None = None

    @property
    def is_packed(self) -> bool:
        """Whether the entries of B are trained."""
        return self.kind == "packed"


DENSE = Storage()


def storage_of(kind: str, theta_dir: Any = None) -> Storage:
    """The storage that a scope asks for.

    Args:
      kind: one of `STORAGES`.
      theta_dir: a path, or None.

    Raises:
      ValueError: for another kind; for a folder that is not there, has no room or is in
        memory, or that dense storage does not use; with an accelerator, and without
        native kernels, which alone map files.
    """
    if kind not in STORAGES:
        raise ValueError(f"Expected storage in {STORAGES}. Received: storage={kind!r}")
    if theta_dir is None:
        return Storage(kind)
    folder = pathlib.Path(theta_dir).resolve()
    if kind != "packed":
        raise ValueError(
            "Expected storage='packed' with theta_dir, as dense storage updates theta in "
            f"each step. Received: storage={kind!r}, theta_dir={str(theta_dir)!r}"
        )
    if not folder.is_dir():
        raise ValueError(
            "Expected theta_dir to be a folder that is there. Received: "
            f"theta_dir={str(theta_dir)!r}"
        )
    received = f"Received: theta_dir={str(theta_dir)!r}"
    if compat.has_accelerator():
        raise ValueError(
            f"Expected theta_dir on a machine without a GPU or TPU. {received}"
        )
    if not library.is_available():
        raise ValueError(
            "Expected native kernels for theta_dir, which map its files "
            f"(`python -m topkast_tf.kernels` says why there are none). {received}"
        )
    try:
        with tf.init_scope():
            training.map_variables([tf.Variable(0.0, trainable=False)], str(folder))
    except tf.errors.OpError as error:
        raise ValueError(f"{error.message.split(' [Op:')[0]} ({received})") from error
    return Storage(kind, str(folder))


def check_scope(method: Method, placement: Placement) -> None:
    """Raises a ValueError for a scope whose weights cannot be packed."""
    has_own_b = not (method.dense_updates or method.varying_counts or method.resets)
    if method.inputs or not has_own_b or method.computes_alpha:
        raise ValueError(
            "Expected a method whose updates and selections need theta on B alone, such as "
            f"'topkast' or 'static', for storage='packed'. Received: {method.name!r}"
        )
    if method.slots != RESET and not method.one_mask:
        raise ValueError(
            "Expected slots='reset' for storage='packed', in which there are no slots "
            f"outside B. Received: slots={method.slots!r}"
        )
    if placement.distribution == "global" or method.budget == "global":
        raise ValueError(
            "Expected a distribution that gives each weight its own number of entries, for "
            "storage='packed'. Received: distribution='global'"
        )


class Packed(NamedTuple):
    """The variables of a packed weight.

    Attributes:
      entries: a Keras variable, the entries of B in the order of the weight, with zeros
        behind them if they are fewer than it has places.
      members: a `tf.Variable`, their set codes.
    """

    entries: Any
    members: Any

    @property
    def size(self) -> int:
        """The places of the vector."""
        return self.entries.shape[0]


class _PackedEntries:
    """Mixin of the entries: a step of the optimizer is one of their weight."""

    _topkast: Any

    def assign(self, value, use_locking=None, name=None, read_value=True):
        self._note_step()
        return super().assign(value, use_locking, name, read_value)

    def assign_add(self, delta, use_locking=None, name=None, read_value=True):
        self._note_step()
        return super().assign_add(delta, use_locking, name, read_value)

    def assign_sub(self, delta, use_locking=None, name=None, read_value=True):
        self._note_step()
        return super().assign_sub(delta, use_locking, name, read_value)

    def assign_directly(self, value):
        """As `assign`, but no step."""
        return super().assign(value, read_value=False)

    def _note_step(self):
        if hooks.in_update():
            self._topkast.mark_updated()


class _FollowedSets:
    """Mixin of the sets of a packed weight: the entries follow what is assigned."""

    _topkast_replica: Any

    def assign(self, value, use_locking=None, name=None, read_value=True):
        theta = self._topkast_replica.read_theta()
        result = super().assign(value, use_locking, name, read_value)
        self._topkast_replica.store(theta)
        return result


def make(theta: Any, sets: Any, size: int) -> Packed:
    """The variables of a packed weight; its entries are those of theta.

    Args:
      theta: its Keras variable, which has values.
      sets: its sets, as a `tf.Variable`.
      size: the places of the vector.
    """
    import keras

    raw = compat.raw_variable(theta)
    strategy = getattr(raw, "distribute_strategy", None)
    around = strategy.scope() if strategy else tf.init_scope()
    with tf.init_scope(), around:
        code = components(sets)[0].read_value()
        values = packed(components(raw)[0]._topkast.read_theta(), code, size)
        entries = keras.Variable(
            values,
            dtype=raw.dtype.name,  # a Keras variable names that of the layer that computes
            trainable=True,
            aggregation=theta.aggregation,
            name=theta.name,
        )
        entries._path = theta.path
        entries.regularizer = _of_theta(theta)
        members = tf.Variable(
            packed(code, code, size),
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            name=f"{theta.name}_members",
        )
    for index, own in enumerate(components(compat.raw_variable(entries))):
        replica = components(raw)[index]._topkast
        own._topkast = replica
        own.__class__ = mixed(_PackedEntries, type(own), "Packed")
        of_replica = components(sets)[index]
        of_replica._topkast_replica = replica
        if not isinstance(of_replica, _FollowedSets):
            of_replica.__class__ = mixed(_FollowedSets, type(of_replica), "Packed")
    return Packed(entries, members)


def _of_theta(theta: Any) -> Any:
    """The regularizer of a weight for its entries, of which Keras asks for it."""
    import keras

    own = theta.regularizer
    if own is None or getattr(own, "ignores_its_argument", False):
        return own

    class OfTheta(keras.regularizers.Regularizer):
        def __call__(self, _):
            return own(theta)

    return OfTheta()


def trained(variables: list[Any]) -> list[Any]:
    """The variables that an optimizer trains: of a packed weight its entries.

    Args:
      variables: the trainable variables of a layer.
    """
    found = []
    for variable in variables:
        weight = getattr(variable, ENTRIES, None)
        made = None if weight is None else weight.pack()
        found.append(variable if made is None else made.entries)
    return found


def install(keras: Any) -> None:
    """Lets the layers of Keras 3 list the entries of packed weights as trainable, once.

    Args:
      keras: the module.
    """
    optimizer_files.install(keras.optimizers.Optimizer)
    for name in ("trainable_variables", "trainable_weights"):
        hooks.wrap_property(keras.layers.Layer, name, _listing)


def _listing(original: Any) -> Any:
    def listed(self):
        return trained(original(self))

    return listed
