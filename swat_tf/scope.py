"""`swat_scope`: trains any Keras model built in it with sparse passes."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from swat_tf.method import SWAT
from swat_tf.recipe import OPERANDS
from swat_tf.rule import SparseBackward
from topkast_tf.kernels import choice
from topkast_tf.layers.product_rule import activated_rule, active_rule
from topkast_tf.scope import ReusableScope, open_scope, register_scope
from topkast_tf.variables.active_scopes import active_scope
from topkast_tf.variables.placement import Placement
from topkast_tf.variables.scope_state import SparsityScope


@register_scope("swat")
def swat_scope(
    sparsity: float,
    *,
    distribution: str | Mapping | Callable = "uniform",
    structured: str | None = None,
    topk_period: int = 1,
    topk_period_of: str = "all",
    activations: float | None = None,
    activations_per: str = "batch",
    errors: float = 0.0,
    errors_per: str = "batch",
    forward: str | Sequence[str] = ("weights",),
    backward: str | Sequence[str] = OPERANDS,
    updates: str = "dense",
    freeze_at: int | None = None,
    total_steps: int | None = None,
    storage: str = "dense",
    exempt: str | Sequence[str] = (),
    include: str | Sequence[str] | None = None,
    seed: int = 0,
    kernels: str = "auto",
) -> ReusableScope:
    r"""Trains any Keras model built in it with sparse weights and activations.

    For each layer whose product is linear in input a and kernel w (dense, einsum and
    convolution layers, plain, depthwise and transposed)::

        y  = product(a, w~)                         forward: dense a, top-k w
        da = input gradient of dy at w~             dense dy, top-k w; not masked
        dw = weight gradient of dy at a~            dense dy, top-k a; dense result

    where w~ keeps the ``kept(n, s)`` largest of the layer's n weights by magnitude, and
    a~ the same fraction of the activations of the whole batch (of each replica's part of
    it under a strategy). All weights are updated, including inactive ones, so that the
    next w~ may differ. Evaluation uses w~ and dense activations (unless `forward`
    includes the activations: then predictions depend on the whole batch). Whatever the
    dtype, entries are ranked in float32. Other layers are left dense, which is logged
    once and shown by `topkast_tf.summary`; for custom code see `swat_tf.ops`.

    Inside or around `topkast_tf.topkast_scope`, Top-KAST sparsifies the weights and SWAT
    only the activations, with `sparsity` (or `activations`) as their sparsity.

    Args:
      sparsity: fraction of zeros of the weights, in [0, 1).
      distribution: ``"uniform"`` (SWAT-U), ``"erk"`` (SWAT-ERK), ``"er"``,
        ``"momentum"`` (SWAT-M: whenever thresholds are computed, layers with a larger
        mean momentum are given more weights), ``"global"``, or a custom budget: a
        mapping from regexes on paths to sparsities, or a function from {path: shape}.
      structured: ``"channel"``: the (input channel, filter) slices of a convolution
        kernel with the largest L1 norm are kept, over the whole layer, so that
        different filters keep different channels; ``"filter"``: whole filters; None:
        single weights. Dense and einsum layers, and activations, always keep single
        entries.
      topk_period: P, in optimizer steps: thresholds of weights and of activations are
        computed at steps 0, P, 2P, ... In between, entries that reach the last
        threshold are kept.
      topk_period_of: what the period applies to. ``"all"``, the default: the weights and
        activations of every layer. ``"convolutions"``, as in the authors' code and in
        the flagfiles of the published runs: the single weights and the activations of
        convolutions; slices (`structured`), and the weights and activations of dense and
        einsum layers, are selected at each step. With ``"momentum"``, so are the counts
        of those; the convolutions' part of the budget changes every P steps.
      activations: sparsity of the activations; by default that of the layer's weights.
      activations_per: ``"batch"``, or ``"sample"``: each example keeps its own largest,
        selected at each step.
      errors: sparsity of the gradient dy before both backward products, selected at each
        step. SWAT leaves it dense; this option shows why.
      errors_per: ``"batch"``, or ``"sample"`` as in meProp.
      forward: the operands that are sparse in the forward pass: ``"weights"``,
        ``"activations"``.
      backward: those that are sparse in the backward pass.
      updates: ``"dense"``, or ``"masked"``: only active weights are updated.
      freeze_at: the step from which the active weights are fixed, or None.
      total_steps: the length of training, in steps, if it is known. With P > 1 the
        thresholds of weights are then not computed anew after the last step. Without it,
        and where P divides the number of steps, they are, and what is evaluated and
        saved was not trained. Counted costs use it, too.
      storage: ``"dense"``, or ``"packed"``: tensors saved for the backward pass are
        stored as values and one bit per entry, and a ReLU saves one bit per entry; it
        takes more time (docs/benchmarks.md measures the saving). XLA, which needs static
        sizes, does not support it: Keras does not compile such a model by XLA, whatever
        `jit_compile` says.
      exempt: regexes on paths of weights that stay dense, with their activations; also
        ``"first"`` (SWAT-U leaves the first layer dense) and ``"last"``.
      include: regexes on weight paths: if given, only the matching weights.
      seed: saved with the model; SWAT uses no random numbers.
      kernels: as for `topkast_tf.topkast_scope`. Native kernels compute the weight
        gradient from the entries of a~ alone; they need weights that are sparse in both
        passes.

    Returns:
      A context manager that yields the `topkast_tf.SparsityScope`; also a decorator.
      It may be used any number of times, and opens a new scope each time.

    Raises:
      ValueError: for an argument out of range, a regex that matches nothing, a scope with
        nothing to sparsify, `structured` without a convolution, a scope inside another
        `swat_scope`, or an argument about weights combined with Top-KAST.

    >>> import keras
    >>> from swat_tf import swat_scope
    >>> with swat_scope(0.9, topk_period=10):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])
    >>> model.compile("sgd", "mse")  # and `fit`: nothing else to call

    Source: Raihan & Aamodt, Sparse Weight Activation Training, NeurIPS 2020. Departs
    from the authors' code in ties (broken by the lower index at a refresh), in the
    period, which counts steps throughout and does not restart at each epoch, and in the
    default of `topk_period_of`.
    """
    uses_momentum = distribution == "momentum"
    if structured and distribution == "global":
        raise ValueError(
            "Expected a distribution that plans each layer separately with "
            "`structured`, as slices and single weights have no common scale. "
            "Received: distribution='global'"
        )
    if (
        topk_period_of == "convolutions"
        and topk_period != 1
        and distribution == "global"
    ):
        raise ValueError(
            "Expected topk_period_of='all' with distribution='global', which selects all "
            "weights at once. Received: topk_period_of='convolutions'"
        )
    placement = Placement(
        distribution="uniform" if uses_momentum else distribution,
        exempt=exempt,
        include=include,
        seed=seed,
    )
    rule = SparseBackward(
        sparsity=sparsity,
        activations=activations,
        topk_period=topk_period,
        topk_period_of=topk_period_of,
        forward=forward,
        backward=backward,
        activations_per=activations_per,
        errors=errors,
        errors_per=errors_per,
        storage=storage,
    )
    method = SWAT(
        sparsity=sparsity,
        topk_period=topk_period,
        topk_period_of=topk_period_of,
        structured=structured,
        momentum=uses_momentum,
        updates=updates,
        freeze_at=freeze_at,
        total_steps=total_steps,
        forward="weights" in rule.forward,
    )
    choice.check(kernels)
    return ReusableScope(lambda: _opened(method, placement, rule, kernels))


def _opened(
    method: SWAT, placement: Placement, rule: SparseBackward, kernels: str
) -> contextlib.AbstractContextManager[SparsityScope]:
    outer = active_scope()
    if outer is None:
        return _scope_of_its_own(method, placement, rule, kernels)
    if kernels not in ("auto", outer.kernels):
        raise ValueError(
            "Expected `kernels` as an argument of the outer scope, which makes the weights "
            f"sparse. Received: kernels={kernels!r} of a `swat_scope` inside a scope with "
            f"kernels={outer.kernels!r}"
        )
    if active_rule() is not None or not _is_plain(method, placement):
        raise ValueError(
            "Expected one `swat_scope` around a model, and inside a scope of another "
            "method only arguments about activations: that method's scope says which "
            "weights are sparse. Received: "
            + (
                "two nested `swat_scope`s"
                if active_rule()
                else f"{method}, {placement}"
            )
        )
    return _beside(outer, rule)


def _is_plain(method: SWAT, placement: Placement) -> bool:
    """Whether the only argument about weights is a sparsity."""
    plain = SWAT(
        method.sparsity,
        method.topk_period,
        method.topk_period_of,
        total_steps=method.total_steps,
    )
    return method == plain and placement == Placement(seed=placement.seed)


@contextlib.contextmanager
def _scope_of_its_own(
    method: SWAT, placement: Placement, rule: SparseBackward, kernels: str
) -> Iterator[SparsityScope]:
    with activated_rule(rule), open_scope(method, placement, kernels) as scope:
        yield scope
        if scope.has_inner and not scope.weights and not _is_plain(method, placement):
            raise ValueError(
                "Expected only arguments about activations in a `swat_scope` around "
                "another method's scope, as none of the weights is its own (or a model "
                f"that is built inside it). Received: {method}, {placement}"
            )


@contextlib.contextmanager
def _beside(outer: SparsityScope, rule: SparseBackward) -> Iterator[SparsityScope]:
    """The outer scope; the products of its layers follow the rule."""
    with activated_rule(rule):
        yield outer
