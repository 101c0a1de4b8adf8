"""The methods that a run may have: the flags of each, and the scopes it is built in.

A new method is an entry here and its file in `topkast_tf/methods`. TensorFlow is imported
when a scope is made, and not before.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from launch.config.flag import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    FACTOR,
    NOT_NEGATIVE,
    SHARE,
    Flag,
    nearest,
    whole_numbers,
)
from launch.support.errors import UserError

Scope = contextlib.AbstractContextManager
_NAMES = ("uniform", "er", "erk", "global")
_OPERANDS = ("weights", "activations")
_PER = ("batch", "sample")


@dataclasses.dataclass(frozen=True)
class RunMethod:
    """How a run is made sparse.

    Attributes:
      about: what it is, in a few words.
      flag_names: the flags that concern it, beside those that concern every run.
      scopes: from the flags and the number of optimizer steps of the run (None where it
        is not known) to the scopes in which the model is built, the outermost first.
      distributions: the names that --distribution may have.
      has_penalty: whether it may add an exploration loss.
      sparse_activations: whether the backward pass keeps sparse activations.
    """

    about: str
    flag_names: tuple[str, ...] = ()
    scopes: Callable[[flags.FlagValues, int | None], Sequence[Scope]] = (
        lambda settings, total_steps: []
    )
    distributions: tuple[str, ...] = ()
    has_penalty: bool = False
    sparse_activations: bool = False


SPARSITY = Flag(
    "float",
    "sparsity",
    0.9,
    "of the weights (SWAT: and activations), a fraction of zeros; Top-KAST has --fwd",
    range=SHARE,
)

TOPKAST = (
    Flag("float", "fwd", 0.9, "forward sparsity, a fraction of zeros", range=SHARE),
    Flag("float", "bwd", 0.8, "backward sparsity, at most --fwd", range=SHARE),
    Flag(
        "integer",
        "refresh_every",
        1,
        "steps between two selections of the sets",
        bounds=AT_LEAST_1,
    ),
    Flag(
        "float",
        "exploration",
        1e-4,
        "coefficient of the exploration loss, the weight decay of sparse kernels",
        range=NOT_NEGATIVE,
    ),
    Flag(
        "string",
        "exploration_norm",
        "l2",
        "l2 (squared), or l1, the form that the paper prints",
        choices=("l2", "l1"),
    ),
    Flag("string", "backward", "topk", "topk or random", choices=("topk", "random")),
    Flag(
        "integer",
        "stop_exploring_at",
        None,
        "step from which the backward set is the forward set",
        bounds=AT_LEAST_0,
    ),
    Flag("list", "block", None, "rows,cols of the blocks that are selected"),
    Flag(
        "string",
        "block_reduce",
        "sum",
        "score of a block: sum or max",
        choices=("sum", "max"),
    ),
)

SWAT = (
    Flag(
        "integer",
        "topk_period",
        1,
        "steps for which a threshold of weights or activations serves",
        bounds=AT_LEAST_1,
    ),
    Flag(
        "string",
        "topk_period_of",
        "all",
        "what that is for: all; or convolutions, as in the authors' code: dense "
        "layers and structured weights are selected at each step",
        choices=("all", "convolutions"),
    ),
    Flag(
        "string",
        "structured",
        None,
        "channel or filter: slices of convolution kernels; default weights",
        choices=("channel", "filter"),
    ),
    Flag(
        "float",
        "activations",
        None,
        "sparsity of the activations; default that of the layer's weights",
        range=SHARE,
    ),
    Flag("string", "activations_per", "batch", "batch or sample", choices=_PER),
    Flag("float", "errors", 0.0, "sparsity of the error gradients", range=SHARE),
    Flag("string", "errors_per", "batch", "batch or sample (meProp)", choices=_PER),
    Flag(
        "list",
        "forward_sparse",
        ["weights"],
        "what is sparse in the forward pass: weights, activations",
        choices=_OPERANDS,
    ),
    Flag(
        "list",
        "backward_sparse",
        ["weights", "activations"],
        "what is sparse in the backward pass",
        choices=_OPERANDS,
    ),
    Flag(
        "string",
        "updates",
        "dense",
        "dense, or masked: active weights only",
        choices=("dense", "masked"),
    ),
    Flag(
        "integer",
        "freeze_at",
        None,
        "step from which the active weights stay the same ones",
        bounds=AT_LEAST_1,
    ),
    Flag(
        "string",
        "storage",
        "dense",
        "of what the backward pass needs: dense, or packed, which takes more time",
        choices=("dense", "packed"),
    ),
)

FIXED_SPARSITY = (
    Flag(
        "string",
        "first_mask",
        "random",
        "random; or magnitude: the largest weights",
        choices=("random", "magnitude"),
    ),
    Flag(
        "float",
        "drop_fraction",
        0.3,
        "of the active weights that an update of SET or RigL replaces, at first",
        range=FACTOR,
    ),
    Flag("integer", "update_every", 100, "steps between two updates", AT_LEAST_1),
    Flag("integer", "update_from", 0, "the first step with an update", AT_LEAST_0),
    Flag(
        "float",
        "update_until",
        None,
        "the last one: a step, or below 1 a share of the run; default set: the end, "
        "rigl: 0.75",
        range=ABOVE_0,
    ),
    Flag(
        "string",
        "anneal",
        None,
        "how the drop fraction ends: constant, cosine or exponential_K; default set: "
        "constant, rigl: cosine",
    ),
    Flag(
        "string",
        "drop",
        "magnitude",
        "the smallest of all; or signs: of the positive and of the negative ones",
        choices=("magnitude", "signs"),
    ),
    Flag(
        "string",
        "grow_init",
        "zeros",
        "new weights: zeros, random_normal_D, random_uniform_D; rigl: grad_scale_D, "
        "grad_sign_D",
    ),
    Flag(
        "float",
        "drop_noise",
        1e-5,
        "deviation of what is added to magnitudes, to break ties",
        range=SHARE,
    ),
    Flag(
        "float",
        "slot_scale",
        0.0,
        "rigl: momentum of new weights, as a multiple of their gradient",
        range=NOT_NEGATIVE,
    ),
    Flag(
        "boolean",
        "update_replaces_step",
        True,
        "rigl: an update takes the place of a step, as in the authors' code",
    ),
)

GROUPS = (
    ("Top-KAST", TOPKAST),
    ("SWAT", SWAT),
    ("Static masks, SET, RigL", FIXED_SPARSITY),
)


def distribution_of(settings: flags.FlagValues) -> Any:
    """`--distribution` as the scopes take it: a name, or a mapping.

    Raises:
      UserError: for a name that no method has, or text that is no mapping.
    """
    given = settings.distribution
    names = tuple(dict.fromkeys(n for m in METHODS.values() for n in m.distributions))
    if not given.lstrip().startswith("{"):
        if given not in names:
            raise UserError(
                f"Expected --distribution to be one of {', '.join(names)}, or a "
                f"JSON mapping. Received: {given!r}" + nearest(given.lower(), names)
            )
        return given
    try:
        mapping = json.loads(given)
    except ValueError as error:
        raise UserError(
            "Expected --distribution to be a name or a JSON mapping such as "
            f'{{"stage1/.*": 0.8}} ({error}). Received: {given}'
        ) from None
    return {
        pattern: tuple(asked) if isinstance(asked, list) else asked
        for pattern, asked in mapping.items()
    }


# Only the form is settled here; the scopes check the values.


def _placement(settings: flags.FlagValues) -> dict[str, Any]:
    return {
        "distribution": distribution_of(settings),
        "exempt": tuple(settings.exempt),
        "include": _include(settings),
        "seed": settings.seed,
    }


def _include(settings: flags.FlagValues) -> tuple[str, ...] | None:
    if not settings.sparse_embeddings:
        return tuple(settings.include) if settings.include else None
    # Imported where it is needed, as it imports TensorFlow.
    from launch.models.transformer_xl_counts import sparse_patterns

    return sparse_patterns(sparse_embeddings=True)


def _topkast(settings: flags.FlagValues, total_steps: int | None) -> list[Scope]:
    from topkast_tf import topkast_scope

    arguments: dict[str, Any] = {f.name: settings[f.name].value for f in TOPKAST}
    arguments["block"] = whole_numbers(settings, "block") or None
    return [topkast_scope(**arguments, **_placement(settings))]


def _swat_products(settings: flags.FlagValues) -> dict[str, Any]:
    """The keyword arguments of `swat_scope` that speak of products and activations."""
    return {
        "sparsity": settings.sparsity,
        "topk_period": settings.topk_period,
        "topk_period_of": settings.topk_period_of,
        "activations": settings.activations,
        "activations_per": settings.activations_per,
        "errors": settings.errors,
        "errors_per": settings.errors_per,
        "forward": tuple(settings.forward_sparse),
        "backward": tuple(settings.backward_sparse),
        "storage": settings.storage,
    }


def _swat(settings: flags.FlagValues, total_steps: int | None) -> list[Scope]:
    from swat_tf import swat_scope

    of_weights = {
        "structured": settings.structured,
        "updates": settings.updates,
        "freeze_at": settings.freeze_at,
        **_placement(settings),
    }
    return [swat_scope(**_swat_products(settings), **of_weights)]


def _topkast_swat(settings: flags.FlagValues, total_steps: int | None) -> list[Scope]:
    from swat_tf import swat_scope

    beside = swat_scope(**_swat_products(settings), seed=settings.seed)
    return [*_topkast(settings, total_steps), beside]


def _sparse_scope(name: str, *names: str) -> Callable:
    """The scope of a method of `sparse_scope`, with the arguments of some flags.

    A flag that is not set leaves the method's own default.
    """

    def scopes(settings: flags.FlagValues, total_steps: int | None) -> list[Scope]:
        from topkast_tf import sparse_scope

        arguments: dict[str, Any] = {n: settings[n].value for n in names}
        arguments = {n: v for n, v in arguments.items() if v is not None}
        until = arguments.get("update_until")
        if until is not None and until >= 1:
            arguments["update_until"] = int(until)
        if "drop_noise" in arguments:
            arguments["noise"] = arguments.pop("drop_noise")
            arguments["total_steps"] = total_steps
            _check_length(name, until, total_steps)
        return [
            sparse_scope(
                name, sparsity=settings.sparsity, **arguments, **_placement(settings)
            )
        ]

    return scopes


def _check_length(name: str, until: float | None, total_steps: int | None) -> None:
    from topkast_tf.methods import METHODS as KNOWN

    default = KNOWN[name].update_until  # type: ignore[attr-defined]
    until = default if until is None else until
    if total_steps is None and until is not None and until < 1:
        raise UserError(
            f"Expected --steps, as --update_until={until} is a share of the run. "
            "Received: a run whose length in steps is not known"
        )


def _names(*groups: Sequence[Flag]) -> tuple[str, ...]:
    return tuple(flag.name for group in groups for flag in group)


_OF_RIGL = ("slot_scale", "update_replaces_step")
_OF_ALL = ("distribution", "exempt", "include")
_OF_RIGL_AND_SET = tuple(
    name for name in _names(FIXED_SPARSITY) if name not in _OF_RIGL
)

METHODS: dict[str, RunMethod] = {
    "dense": RunMethod("no zeros"),
    "topkast": RunMethod(
        "Top-KAST",
        (*_OF_ALL, *_names(TOPKAST)),
        _topkast,
        _NAMES,
        has_penalty=True,
    ),
    "swat": RunMethod(
        "SWAT",
        (*_OF_ALL, "sparsity", *_names(SWAT)),
        _swat,
        (*_NAMES, "momentum"),
        sparse_activations=True,
    ),
    "topkast_swat": RunMethod(
        "Top-KAST weights, SWAT activations",
        (*_OF_ALL, "sparsity", *_names(TOPKAST, SWAT)),
        _topkast_swat,
        _NAMES,
        has_penalty=True,
        sparse_activations=True,
    ),
    "static": RunMethod(
        "a mask that stays",
        (*_OF_ALL, "sparsity", "first_mask"),
        _sparse_scope("static", "first_mask"),
        _NAMES[:3],
    ),
    "set": RunMethod(
        "SET",
        (*_OF_ALL, "sparsity", *_OF_RIGL_AND_SET),
        _sparse_scope("set", *_OF_RIGL_AND_SET),
        _NAMES[:3],
    ),
    "rigl": RunMethod(
        "RigL",
        (*_OF_ALL, "sparsity", *_names(FIXED_SPARSITY)),
        _sparse_scope("rigl", *_names(FIXED_SPARSITY)),
        _NAMES[:3],
    ),
}
"""Name, as `--method` has it -> the method."""


def without_effect(method: str) -> set[str]:
    """The flags of other methods, which do not concern this one."""
    every = {name for each in METHODS.values() for name in each.flag_names}
    return every - set(METHODS[method].flag_names)
