"""`swat_scope`: trains any Keras model that is built in it with sparse passes."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from swat_tf.method import SWAT
from swat_tf.recipe import OPERANDS
from swat_tf.rule import SparseBackward
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
    storage: str = "dense",
    exempt: str | Sequence[str] = (),
    include: str | Sequence[str] | None = None,
    seed: int = 0,
) -> ReusableScope:
    r"""Trains any Keras model that is built in it with sparse weights and activations.

    For each layer whose product is linear in input a and kernel w (dense, einsum and
    convolution layers, plain, depthwise and transposed)::

        y  = product(a, w~)                         forward: dense a, top-k w
        da = input gradient of dy at w~             dense dy, top-k w; not masked
        dw = weight gradient of dy at a~            dense dy, top-k a; dense result

    where w~ keeps the ``kept(n, s)`` largest of the layer's n weights by magnitude, and
    a~ as large a share of the activations of the whole batch (of each replica's part of
    it under a strategy). All weights are updated, also those that are not active, so
    that the next w~ may be another. Evaluation uses w~ and dense activations (unless
    `forward` names the activations: then what is predicted depends on the whole batch).
    Whatever the dtype, entries are ranked in float32. Other layers are left dense, which
    is logged once and shown by `topkast_tf.summary`; for code of your own see
    `swat_tf.ops`.

    Opened inside or around `topkast_tf.topkast_scope`, the weights are Top-KAST's and
    only the activations are SWAT's, with `sparsity` (or `activations`) as theirs.

    Args:
      sparsity: fraction of zeros of the weights, in [0, 1).
      distribution: ``"uniform"`` (SWAT-U), ``"erk"`` (SWAT-ERK), ``"er"``,
        ``"momentum"`` (SWAT-M: each time the thresholds are found, layers with a larger
        mean momentum are given more weights), ``"global"``, or a budget of your own: a
        mapping from regexes on paths to sparsities, or a function from {path: shape}.
      structured: ``"channel"``: the (input channel, filter) slices of a convolution
        kernel with the largest L1 norm are kept, over the whole layer, so that
        different filters keep different channels; ``"filter"``: whole filters; None:
        single weights. Dense and einsum layers keep single weights always, and
        activations too.
      topk_period: P, in optimizer steps: thresholds of weights and of activations are
        found at steps 0, P, 2P, ... In between, what reaches the last threshold is kept.
      topk_period_of: what the period is for. ``"all"``, the default: the weights and
        activations of every layer. ``"convolutions"``, as in the authors' code and in
        the flagfiles of the published runs: the single weights of convolutions and the
        activations of convolutions; slices (`structured`), and the weights and
        activations of dense and einsum layers, are selected at each step. With
        ``"momentum"``, so are the counts of those; what convolutions keep of the budget
        changes each P steps.
      activations: sparsity of the activations; by default that of the layer's weights.
      activations_per: ``"batch"``, or ``"sample"``: each example keeps its own largest,
        found at each step.
      errors: sparsity of the gradient dy before both backward products, found at each
        step. SWAT leaves it dense; this is to show why.
      errors_per: ``"batch"``, or ``"sample"`` as in meProp.
      forward: what is sparse in the forward pass, of ``"weights"`` and
        ``"activations"``.
      backward: what is sparse in the backward pass, of the same.
      updates: ``"dense"``, or ``"masked"``: only active weights are updated.
      freeze_at: the step from which the active weights stay the same ones, or None.
      storage: ``"dense"``, or ``"packed"``: what is saved for the backward pass is
        stored as values and one bit an entry, and a ReLU keeps one bit an entry; it
        takes more time (what it saves is measured in docs/benchmarks.md). It is not
        for XLA, which needs to know sizes beforehand: Keras does not compile such a
        model by it, whatever `jit_compile` says.
      exempt: regexes on weight paths that stay dense, with their activations; also
        ``"first"`` (SWAT-U leaves the first layer dense) and ``"last"``.
      include: regexes on weight paths: if given, only the weights they match.
      seed: kept with the model; SWAT draws nothing at random.

    Returns:
      A context manager, which gives the `topkast_tf.SparsityScope`; also a
      decorator. It may be used any number of times, and opens a scope of its own each
      time.

    Raises:
      ValueError: for an argument out of range, a regex that matches nothing, a scope in
        which there is nothing to sparsify, `structured` without a convolution, a scope
        inside another `swat_scope`, or an argument about weights beside Top-KAST.

    >>> import keras
    >>> from swat_tf import swat_scope
    >>> with swat_scope(0.9, topk_period=10):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])
    >>> model.compile("sgd", "mse")  # and `fit`: nothing else to call

    Source: Raihan & Aamodt, Sparse Weight Activation Training, NeurIPS 2020. Departs
    from the authors' code in ties (broken by the lower index at a refresh), in the
    period, which counts steps throughout and does not begin anew with each epoch, and in
    the default of `topk_period_of`.
    """
    uses_momentum = distribution == "momentum"
    if structured and distribution == "global":
        raise ValueError(
            "Expected a distribution that plans each layer on its own with "
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
        forward="weights" in rule.forward,
    )
    return ReusableScope(lambda: _opened(method, placement, rule))


def _opened(
    method: SWAT, placement: Placement, rule: SparseBackward
) -> contextlib.AbstractContextManager[SparsityScope]:
    outer = active_scope()
    if outer is None:
        return _scope_of_its_own(method, placement, rule)
    if active_rule() is not None or not _is_plain(method, placement):
        raise ValueError(
            "Expected one `swat_scope` around a model, and inside a scope of another "
            "method only what concerns activations: that method's scope says which "
            "weights are sparse. Received: "
            + (
                "two nested `swat_scope`s"
                if active_rule()
                else f"{method}, {placement}"
            )
        )
    return _beside(outer, rule)


def _is_plain(method: SWAT, placement: Placement) -> bool:
    """Whether nothing is asked of the weights but a sparsity."""
    plain = SWAT(method.sparsity, method.topk_period, method.topk_period_of)
    return method == plain and placement == Placement(seed=placement.seed)


@contextlib.contextmanager
def _scope_of_its_own(
    method: SWAT, placement: Placement, rule: SparseBackward
) -> Iterator[SparsityScope]:
    with activated_rule(rule), open_scope(method, placement) as scope:
        yield scope
        if scope.has_inner and not scope.weights and not _is_plain(method, placement):
            raise ValueError(
                "Expected of a `swat_scope` around another method's scope only what "
                "concerns activations, as none of the weights is its own (or a model "
                f"that is built inside it). Received: {method}, {placement}"
            )


@contextlib.contextmanager
def _beside(outer: SparsityScope, rule: SparseBackward) -> Iterator[SparsityScope]:
    """The weights are the outer scope's; the products of its layers follow the rule."""
    with activated_rule(rule):
        yield outer
