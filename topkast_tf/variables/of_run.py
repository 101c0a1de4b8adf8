"""What is of a run and not of a model, for models that are loaded."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

from topkast_tf.core.context_values import holding
from topkast_tf.kernels import choice
from topkast_tf.variables import packing
from topkast_tf.variables.active_scopes import active_scope


class OfRun(NamedTuple):
    """What a scope has of its run.

    Attributes:
      kernels: what computes the products (`topkast_tf.kernels.choice`).
      storage: what the optimizer trains.
    """

    kernels: str = "auto"
    storage: packing.Storage = packing.DENSE


_of_loaded: contextvars.ContextVar[OfRun | None] = contextvars.ContextVar(
    "of_loaded", default=None
)


@contextlib.contextmanager
def loading_with(
    kernels: str = "auto", storage: str = "dense", theta_dir: str | None = None
) -> Iterator[None]:
    """Within it, models that are loaded outside of a scope get these.

    Args:
      kernels: one of `choice.KERNELS`.
      storage: one of `packing.STORAGES`; of models whose method has it.
      theta_dir: as of `packing.storage_of`.
    """
    choice.check(kernels)
    of_run = OfRun(kernels, packing.storage_of(storage, theta_dir))
    with holding(_of_loaded, of_run):
        yield


def of_loaded() -> OfRun:
    """What models that are loaded here get: as the open scope, or as `loading_with`."""
    active = active_scope()
    if active is None:
        return _of_loaded.get() or OfRun()
    return OfRun(active.kernels, active.storage)
