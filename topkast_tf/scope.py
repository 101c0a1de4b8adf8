"""`topkast_scope`: makes the weights of any model built in it sparse."""

import contextlib
import inspect
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec

from topkast_tf.kernels import choice
from topkast_tf.layers import sparse_layer
from topkast_tf.methods import METHODS, SETTINGS, Method, TopKAST
from topkast_tf.variables import creators, hooks, packing
from topkast_tf.variables.active_scopes import activated
from topkast_tf.variables.placement import Placement
from topkast_tf.variables.scope_checks import check_power
from topkast_tf.variables.scope_state import SparsityScope


class ReusableScope(contextlib.ContextDecorator):
    """The return value of `topkast_scope`: a context manager and a function decorator.

    Each `with` opens a new scope with the same arguments: the models of two uses share
    nothing.

    Args:
      opened: returns a context manager for one use.
    """

    def __init__(
        self, opened: Callable[[], contextlib.AbstractContextManager[SparsityScope]]
    ):
        self._opened = opened
        self._of_thread = threading.local()

    def __enter__(self) -> SparsityScope:
        context = self._opened()
        scope = context.__enter__()
        self._of_thread.__dict__.setdefault("open", []).append(context)
        return scope

    def __exit__(self, *error: Any) -> bool | None:
        return self._of_thread.open.pop().__exit__(*error)


def open_scope(
    method: Method,
    placement: Placement,
    kernels: str = "auto",
    storage: str = "dense",
    theta_dir: str | os.PathLike | None = None,
    power: float = 1.0,
) -> ReusableScope:
    """The scope of any method: weights created in it join it.

    Args:
      method: how the sets are selected, such as `topkast_tf.methods.TopKAST`.
      placement: which weights are sparsified.
      kernels: as for `topkast_scope`.
      storage: as for `topkast_scope`.
      theta_dir: as for `topkast_scope`.
      power: as for `topkast_scope`.

    Returns:
      A context manager that yields the `SparsityScope`.
    """
    choice.check(kernels)
    check_power(method, power)
    of_run = packing.storage_of(storage, theta_dir)
    return ReusableScope(lambda: _opened(method, placement, kernels, of_run, power))


@contextlib.contextmanager
def _opened(
    method: Method,
    placement: Placement,
    kernels: str,
    storage: packing.Storage,
    power: float,
) -> Iterator[SparsityScope]:
    scope = SparsityScope(
        method, placement, kernels=kernels, storage=storage, power=power
    )
    hooks.install()
    with contextlib.ExitStack() as stack:
        stack.enter_context(activated(scope))
        stack.enter_context(scope.opened())
        for library in hooks.loaded_keras_libraries():
            sparse_layer.register_for_loading(library)
            stack.enter_context(sparse_layer.constructing_sparse(library))
        stack.enter_context(creators.creating_sparse(scope))
        yield scope
    scope.finish()


SCOPES: dict[str, Callable[..., ReusableScope]] = {}
"""Name of a method -> its scope, if that needs more than the method and a placement."""


_P = ParamSpec("_P")


def register_scope(
    name: str,
) -> Callable[[Callable[_P, ReusableScope]], Callable[_P, ReusableScope]]:
    """Decorator: `sparse_scope` opens this scope for a method.

    Args:
      name: the method's name.
    """

    def registered(scope: Callable[_P, ReusableScope]) -> Callable[_P, ReusableScope]:
        SCOPES[name] = scope
        return scope

    return registered


def sparse_scope(
    name: str,
    *,
    sparsity: float | None = None,
    distribution: str | Mapping | Callable = "uniform",
    exempt: str | Sequence[str] = (),
    include: str | Sequence[str] | None = None,
    seed: int = 0,
    kernels: str = "auto",
    storage: str = "dense",
    theta_dir: str | os.PathLike | None = None,
    power: float = 1.0,
    **of_the_method: Any,
) -> ReusableScope:
    """Makes the weights of any model built in it sparse, by any method.

    ``alpha = theta on A, 0 elsewhere`` in each forward pass; the method defines A and the
    backward set B, and when they change. A Keras model needs nothing else: no callback,
    no optimizer wrapper.

    Args:
      name: the method: one of `topkast_tf.methods.METHODS` or
        `topkast_tf.methods.SETTINGS`, and ``"swat"``, ``"meprop"`` and ``"dsg"`` once
        `swat_tf` is imported (docs/methods.md).
      sparsity: forward sparsity, the fraction of zeros in alpha, in [0, 1). Methods that
        find their own (``"str"``, ``"dst"``) need none.
      distribution: how it is distributed over the weights, as for `topkast_scope`.
        Methods with their own mask (static, SET, RigL, ...) do not support ``"global"``.
      exempt: as for `topkast_scope`.
      include: as for `topkast_scope`.
      seed: the random seed.
      kernels: as for `topkast_scope`.
      storage: as for `topkast_scope`; SWAT has a storage of its own.
      theta_dir: as for `topkast_scope`.
      power: as for `topkast_scope`; SWAT and meProp have none.
      **of_the_method: the method's own arguments: the attributes of its class in
        `topkast_tf.methods` (for Top-KAST and SWAT those of their scopes, such as
        ``bwd=0.8``).

    Returns:
      A context manager, as from `topkast_scope`.

    Raises:
      ValueError: for an unknown name, and as `topkast_scope`.
      TypeError: for an argument that the method does not have.

    >>> import keras
    >>> from topkast_tf import sparse_scope, sparse_weights
    >>> with sparse_scope("rigl", sparsity=0.9, update_until=1000, update_every=50):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])
    >>> [kernel] = sparse_weights(model)
    >>> int(kernel.forward_mask().sum())
    10
    """
    common = {
        "distribution": distribution,
        "exempt": exempt,
        "include": include,
        "seed": seed,
    }
    if not isinstance(name, str) or name not in {*SCOPES, *METHODS, *SETTINGS}:
        raise ValueError(
            f"Expected one of the methods {sorted({*METHODS, *SETTINGS, *SCOPES})} "
            "('swat', 'meprop' and 'dsg' are among them once `swat_tf` is imported). "
            f"Received: {name!r}"
        )
    if sparsity is not None:
        of_the_method["sparsity"] = sparsity
    if name in SCOPES:
        own = {**of_the_method, "kernels": kernels, "storage": storage}
        if theta_dir is not None:
            own["theta_dir"] = theta_dir
        if power != 1:
            own["power"] = power
        try:
            inspect.signature(SCOPES[name]).bind(**common, **own)
        except TypeError as error:
            raise _unexpected(name, str(error), of_the_method) from None
        return SCOPES[name](**common, **own)
    make = SETTINGS.get(name, METHODS.get(name))
    try:
        inspect.signature(make).bind(**of_the_method)
        method = make(**of_the_method)
    except TypeError as error:
        raise _unexpected(name, str(error), of_the_method) from None
    return open_scope(method, Placement(**common), kernels, storage, theta_dir, power)


def _unexpected(name: str, why: str, given: Mapping[str, Any]) -> TypeError:
    """The error of arguments that a method does not have, or that are missing."""
    make = SCOPES.get(name) or SETTINGS.get(name) or METHODS[name]
    known = ", ".join(inspect.signature(make).parameters)
    received = ", ".join(sorted(given)) or "none"
    return TypeError(
        f"Expected arguments of {name!r} out of {known} ({why}). Received: {received}"
    )


def topkast_scope(
    fwd: float,
    bwd: float,
    *,
    refresh_every: int = 1,
    distribution: str | Mapping | Callable = "uniform",
    exploration: float = 1e-4,
    exploration_norm: str = "l2",
    backward: str = "topk",
    stop_exploring_at: int | None = None,
    block: tuple[int, int] | None = None,
    block_reduce: str = "sum",
    slots: str | None = None,
    total_steps: int | None = None,
    exempt: str | Sequence[str] = (),
    include: str | Sequence[str] | None = None,
    seed: int = 0,
    kernels: str = "auto",
    storage: str = "dense",
    theta_dir: str | os.PathLike | None = None,
    power: float = 1.0,
) -> ReusableScope:
    r"""Makes the weights of any model built in it sparse, by Top-KAST.

    With theta the dense parameter, A the ``kept(n, fwd)`` and B the ``kept(n, bwd)``
    largest of its n entries by magnitude, and C the rest::

        alpha_i = theta_i if i in A, else 0               (every forward pass)
        update_i = update_i if i in B, else 0             (every optimizer step)
        loss += c * (1/2 sum_A theta^2 + 1/(2D) sum_{B\A} theta^2),   D = |A| / n

    A Keras model needs nothing else: no callback, no optimizer wrapper. In a custom loop
    over `tf.Variable`s, add the penalties to the loss:
    ``sum(w.penalty() for w in sparse_weights(module))``. The penalties of Keras layers
    have dtype ``floatx``, like Keras's own losses, whatever the layers' dtypes, so they
    can be added; a float64 weight still gets its gradient in float64. Layers constructed
    in the scope may build later. Entries of C are bitwise unchanged. Optimizer slots
    (momentum, second moments) are not masked unless `slots` says so: outside B they see a
    zero gradient, so they decay, and an entry that returns to B starts from its remaining
    momentum.

    A second weight decay is applied, with a warning at the first step. It pulls A and
    B \ A at one rate, while the exploration loss pulls B \ A 1/D times as hard; C is
    bitwise unchanged. An optimizer's `weight_decay` has no other effect. A
    `kernel_regularizer` is computed from theta: C counts in the loss, and moves the
    optimizer's momentum, with which an entry starts when it enters B.

    Args:
      fwd: forward sparsity, the fraction of zeros in alpha, in [0, 1).
      bwd: backward sparsity, the fraction of entries not updated, in [0, fwd].
      refresh_every: N, in optimizer steps: the sets are selected at steps 0, N, 2N, ...
        Those of step k N are selected at the end of the step before.
      distribution: ``"uniform"`` (each weight the same), ``"er"`` or ``"erk"``
        (Erdos-Renyi, -Kernel), ``"global"`` (one threshold for all weights), a mapping
        from regexes on paths to a sparsity or a pair (fwd, bwd), or a function from
        {path: shape} to such a mapping on paths.
      exploration: c, the coefficient of the exploration loss, at least 0. It is the
        weight decay of the sparse weights: give them no other (above). Keras includes it
        in `loss` and in `val_loss`.
      exploration_norm: ``"l2"``, as above, or ``"l1"``, c * (sum_A |theta| + 1/D
        sum_{B\A} |theta|).
      backward: ``"topk"``, or ``"random"``: B \ A is sampled uniformly at each refresh.
      stop_exploring_at: the step from which B = A, or None.
      block: (rows, cols): whole blocks of the kernel's 2-D view (inputs x outputs) are
        kept or dropped. At the edges blocks may be smaller; a block larger than a
        kernel is clamped to it.
      block_reduce: ``"sum"`` (of magnitudes) or ``"max"``: how a block is scored.
      slots: what becomes of the optimizer's slots outside B: ``"decay"``, as above, or
        ``"reset"``: they are zero, and an entry that enters B starts from zero. None is
        ``"decay"``, and with packed storage, which has no others, ``"reset"``.
      total_steps: the length of training, in steps, if it is known. With N > 1 no sets are
        then selected for the step after the last one. Without it, and where N divides the
        number of steps, sets are selected after the last step, and are evaluated and
        saved untrained. (So are those that are evaluated after an epoch of a multiple of N
        steps; training goes on with them.) Counted costs use it, too.
      exempt: regexes on paths of weights that stay dense; also ``"first"`` and ``"last"``
        of the kernels, in the order of their creation (the untied output projection of
        a `ReversibleEmbedding`: of its first use).
      include: regexes on weight paths: if given, exactly the matching weights are
        sparsified, including embeddings. By default every matmul or convolution kernel is
        (docs/what_is_sparsified.md has the rule).
      seed: the random seed.
      kernels: what computes the products of layers on a CPU: ``"masked"``, TensorFlow
        with zeros in alpha; ``"native"``, kernels that leave the zeros out, and an error
        for a layer that has none; or ``"auto"``, native where a cost model expects them
        to be faster. Unless ``"masked"``, native operations also select the sets and
        apply updates, with the same bits, from 100,000 sparse entries on
        (docs/kernels.md). It is of the run, and not saved with a model.
      storage: what the optimizer trains: ``"dense"``, theta, whose updates are masked; or
        ``"packed"``, the vector of B's entries: gradients and slots are then as long as
        B. It is of the run, too: a model's files are the same, apart from the optimizer.
      theta_dir: of packed storage, a folder on a disk: theta and the sets, which only a
        selection reads, are then in files there, 6 bytes for each entry, and not in
        memory (docs/packed.md). The files have no names, and end with the process.
        None is memory.
      power: p of Powerpropagation, at least 1: theta is initialized to the p-th root of a
        layer's initial weight, and ``alpha = theta |theta|^(p - 1)`` on A. Sets are the
        same for any p; regularizers, constraints and the exploration loss are those of
        theta, as weight decay. Not for methods in which entries start again at zero, where
        theta has no gradient (docs/methods.md).

    Returns:
      A context manager that yields the `SparsityScope`; also a decorator. It may be used
      any number of times, and opens a new scope each time.

    Raises:
      ValueError: for an argument out of range, a regex that matches nothing, or a scope
        with nothing to sparsify.

    >>> import keras
    >>> from topkast_tf import sparse_weights, topkast_scope
    >>> with topkast_scope(fwd=0.9, bwd=0.8):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])
    >>> [kernel] = sparse_weights(model)
    >>> int(kernel.forward_mask().sum()), int(kernel.backward_mask().sum())
    (10, 20)

    Source: Jayakumar et al., Top-KAST, NeurIPS 2020. Here the update is masked, not
    only the gradient, so that momentum and weight decay do not change C; how the paper
    treats them is not known.
    """
    return open_scope(
        TopKAST(
            fwd=fwd,
            bwd=bwd,
            refresh_every=refresh_every,
            total_steps=total_steps,
            exploration=exploration,
            exploration_norm=exploration_norm,
            backward=backward,
            stop_exploring_at=stop_exploring_at,
            block=block,
            block_reduce=block_reduce,
            slots=slots or ("reset" if storage == "packed" else "decay"),
        ),
        Placement(distribution=distribution, exempt=exempt, include=include, seed=seed),
        kernels,
        storage,
        theta_dir,
        power,
    )


@register_scope("topkast")
def _topkast(sparsity: float, *, bwd: float, **arguments: Any) -> ReusableScope:
    return topkast_scope(sparsity, bwd, **arguments)


# What `sparse_scope` checks its arguments against.
_topkast.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        each.replace(name="sparsity") if each.name == "fwd" else each
        for each in inspect.signature(topkast_scope).parameters.values()
    ]
)
