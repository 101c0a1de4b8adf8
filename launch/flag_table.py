"""Every flag of `launch/train.py`: its type, its default, its meaning, its help."""

from collections.abc import Callable
from typing import Any, NamedTuple

from absl import flags


class Range(NamedTuple):
    """The numbers that a flag may have.

    Attributes:
      words: after "Expected --flag to be".
      holds: whether a number is one of them.
    """

    words: str
    holds: Callable[[float], bool]


_INFINITY = float("inf")
SHARE = Range("in [0, 1)", lambda number: 0 <= number < 1)
FACTOR = Range("in (0, 1)", lambda number: 0 < number < 1)
ABOVE_0 = Range("above 0", lambda number: 0 < number < _INFINITY)
NOT_NEGATIVE = Range("at least 0", lambda number: 0 <= number < _INFINITY)
# A hundred times as wide, a ResNet-20 has ten thousand times its parameters.
WIDTH = Range("above 0 and at most 100", lambda number: 0 < number <= 100)


class Flag(NamedTuple):
    """One flag: the suffix of an absl `DEFINE_` function and its arguments.

    Attributes:
      bounds: what else absl is told.
      choices: the words that it, or each item of a list, may be; empty: any.
      range: the numbers that a float may be; None: any.
    """

    kind: str
    name: str
    default: Any
    help: str
    bounds: dict[str, Any] = {}
    choices: tuple[str, ...] = ()
    range: Range | None = None


def _at_least(number: float) -> dict[str, Any]:
    return {"lower_bound": number}


METHODS = ("dense", "topkast", "swat", "topkast_swat")
SCHEDULES = ("cosine", "steps", "constant")
OPTIMIZERS = ("sgd", "adam")
DECAYED = ("kernels", "all")
STRATEGIES = ("none", "mirrored", "multiworker", "tpu")
REDUCTIONS = ("packed", "dense")
# What the scopes take, here too: to import them is to import TensorFlow.
DISTRIBUTIONS = ("uniform", "er", "erk", "global", "momentum")
PER = ("batch", "sample")
_OPERANDS = ("weights", "activations")


Groups = tuple[tuple[str, tuple[Flag, ...]], ...]

GROUPS: Groups = (
    (
        "What is trained",
        (
            Flag(
                "string",
                "dataset",
                "digits",
                "digits (bundled), cifar10, cifar100, imagenet2012; text: python "
                "(bundled), enwik8, text8, wikitext103, wikitext2, bytes, words",
            ),
            Flag(
                "string",
                "data_dir",
                None,
                "folder of prepared tensorflow-datasets (default $TFDS_DATA_DIR, else "
                "~/tensorflow_datasets), or of a text",
            ),
            Flag(
                "integer",
                "train_examples",
                None,
                "train on the first N examples of a fixed permutation; default all",
                _at_least(1),
            ),
            Flag(
                "string",
                "model",
                None,
                "resnet8, resnet20, resnet32, resnet56, wrn16_8 (any wrn<depth>_<width>), "
                "resnet18_cifar, vgg16_cifar, densenet121_cifar; for 224 pixels resnet18, "
                "34, 50, 101, 152, wrn50_2; for text txl_small, enwik8_base, enwik8_large, "
                "wikitext103_base, wikitext103_large, ...; default by data set",
            ),
            Flag(
                "float",
                "width",
                1.0,
                "factor on the number of channels of an image model, at most 100",
                range=WIDTH,
            ),
        ),
    ),
    (
        "Text",
        (
            Flag(
                "integer",
                "segment_length",
                None,
                "tokens of a segment in training; default by model",
                _at_least(1),
            ),
            Flag(
                "integer",
                "memory_length",
                None,
                "states remembered of earlier segments; default by model",
                _at_least(0),
            ),
            Flag(
                "integer",
                "evaluation_segment",
                None,
                "tokens of a segment in evaluation; default by model",
                _at_least(1),
            ),
            Flag(
                "integer",
                "evaluation_memory",
                None,
                "states remembered in evaluation; default by model",
                _at_least(0),
            ),
            Flag(
                "integer",
                "evaluation_batch",
                10,
                "rows that the text is cut into in evaluation; each begins without "
                "memory",
                _at_least(1),
            ),
            Flag("float", "dropout", None, "in [0, 1); default by model", range=SHARE),
            Flag(
                "float",
                "attention_dropout",
                None,
                "in [0, 1); default by model",
                range=SHARE,
            ),
            Flag(
                "boolean",
                "sparse_embeddings",
                False,
                "make embedding and softmax sparse too (Top-KAST only)",
            ),
            Flag(
                "string",
                "text_cache",
                None,
                "folder of the encoded text; default beside it",
            ),
        ),
    ),
    (
        "How it is made sparse",
        (
            Flag(
                "string",
                "method",
                "topkast",
                "dense, topkast, swat, or topkast_swat: Top-KAST weights, SWAT "
                "activations",
                choices=METHODS,
            ),
            Flag(
                "boolean",
                "compare_dense",
                False,
                "first train the dense twin: same seed, same steps, same batches",
            ),
            Flag(
                "string",
                "distribution",
                "uniform",
                "uniform, er, erk, global, momentum (swat only), or a JSON mapping of "
                "regex to sparsity",
            ),
            Flag(
                "list",
                "exempt",
                [],
                "weights left dense: first, last, regexes on their paths",
            ),
            Flag("list", "include", None, "only these weights are made sparse"),
        ),
    ),
    (
        "Top-KAST",
        (
            Flag(
                "float",
                "fwd",
                0.9,
                "forward sparsity, a fraction of zeros",
                range=SHARE,
            ),
            Flag("float", "bwd", 0.8, "backward sparsity, at most --fwd", range=SHARE),
            Flag(
                "integer",
                "refresh_every",
                1,
                "steps between two selections of the sets",
                bounds=_at_least(1),
            ),
            Flag(
                "float",
                "exploration",
                1e-4,
                "coefficient of the exploration loss, the weight decay of sparse "
                "kernels",
                range=NOT_NEGATIVE,
            ),
            Flag(
                "string",
                "exploration_norm",
                "l2",
                "l2 (squared), or l1, the form that the paper prints",
                choices=("l2", "l1"),
            ),
            Flag(
                "string",
                "backward",
                "topk",
                "topk or random",
                choices=("topk", "random"),
            ),
            Flag(
                "integer",
                "stop_exploring_at",
                None,
                "step from which the backward set is the forward set",
                bounds=_at_least(0),
            ),
            Flag("list", "block", None, "rows,cols of the blocks that are selected"),
            Flag(
                "string",
                "block_reduce",
                "sum",
                "score of a block: sum or max",
                choices=("sum", "max"),
            ),
        ),
    ),
    (
        "SWAT",
        (
            Flag(
                "float",
                "sparsity",
                0.9,
                "of weights and activations, a fraction of zeros",
                range=SHARE,
            ),
            Flag(
                "integer",
                "topk_period",
                1,
                "steps for which a threshold of weights or activations serves",
                bounds=_at_least(1),
            ),
            Flag(
                "string",
                "topk_period_of",
                "all",
                "what that is for: all; or convolutions, as in the authors' code: dense "
                "layers and structured weights are selected at each step",
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
            Flag("string", "activations_per", "batch", "batch or sample", choices=PER),
            Flag(
                "float", "errors", 0.0, "sparsity of the error gradients", range=SHARE
            ),
            Flag(
                "string", "errors_per", "batch", "batch or sample (meProp)", choices=PER
            ),
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
                bounds=_at_least(1),
            ),
            Flag(
                "string",
                "storage",
                "dense",
                "of what the backward pass needs: dense, or packed, which takes more time",
                choices=("dense", "packed"),
            ),
        ),
    ),
    (
        "How long and how fast it learns",
        (
            Flag(
                "integer",
                "epochs",
                30,
                "length of the run; of this and --steps the later one counts",
                _at_least(1),
            ),
            Flag(
                "integer",
                "steps",
                None,
                "length in optimizer steps, instead of --epochs",
                _at_least(1),
            ),
            Flag(
                "integer",
                "batch_size",
                128,
                "images or segments a step, over all devices",
                _at_least(1),
            ),
            Flag(
                "string",
                "optimizer",
                None,
                "sgd or adam; default sgd, adam for text",
                choices=OPTIMIZERS,
            ),
            Flag(
                "float",
                "learning_rate",
                None,
                "the highest learning rate; default 0.1, with adam 2.5e-4",
                range=ABOVE_0,
            ),
            Flag(
                "string",
                "lr_schedule",
                "cosine",
                "cosine, steps or constant",
                choices=SCHEDULES,
            ),
            Flag(
                "list",
                "lr_drop_steps",
                [],
                "steps from which `steps` is lower; default 1/2 and 3/4 of the run",
            ),
            Flag(
                "float",
                "lr_drop",
                0.1,
                "factor of each such step, in (0, 1)",
                range=FACTOR,
            ),
            Flag(
                "integer",
                "warmup_steps",
                0,
                "steps of linear warm-up, for any schedule",
                _at_least(0),
            ),
            Flag("float", "momentum", 0.9, "momentum of SGD, in [0, 1)", range=SHARE),
            Flag("boolean", "nesterov", False, "Nesterov momentum"),
            Flag(
                "float",
                "weight_decay",
                1e-4,
                "L2 of the kernels that are left dense (gradient weight_decay * w)",
                range=NOT_NEGATIVE,
            ),
            Flag(
                "string",
                "decay",
                "kernels",
                "what --weight_decay is of: kernels, or all (biases and norms too)",
                choices=DECAYED,
            ),
            Flag("float", "label_smoothing", 0.0, "in [0, 1)", range=SHARE),
            Flag(
                "float",
                "clip_norm",
                0.0,
                "the norm that the whole gradient is scaled down to; 0: as it is",
                range=NOT_NEGATIVE,
            ),
        ),
    ),
    (
        "Many devices",
        (
            Flag(
                "string",
                "strategy",
                "none",
                "none (one device), mirrored (all of one host), multiworker (one "
                "process a host, by TF_CONFIG; see launch/multiworker.py), or tpu",
                choices=STRATEGIES,
            ),
            Flag(
                "integer",
                "devices",
                None,
                "with mirrored, how many: accelerators, or where there is none virtual "
                "devices of the CPU; default all accelerators, else 2",
                _at_least(1),
            ),
            Flag(
                "string",
                "tpu",
                None,
                "with tpu, its name or address; default the local one",
            ),
            Flag(
                "integer",
                "accumulate",
                1,
                "parts that a batch is computed in, one after the other, to need less "
                "memory; a step is still one update, of the whole batch",
                _at_least(1),
            ),
            Flag(
                "string",
                "reduce",
                "packed",
                "gradients that replicas exchange: packed (of the backward sets only, "
                "exact) or dense",
                choices=REDUCTIONS,
            ),
        ),
    ),
    (
        "The run",
        (
            Flag(
                "string",
                "run_dir",
                None,
                "folder of the run; default runs/DATASET-MODEL-METHOD",
            ),
            Flag("integer", "seed", 0, "of weights, batches and sets", _at_least(0)),
            Flag(
                "integer",
                "evaluate_every",
                None,
                "steps between two evaluations, each with a row of metrics and a "
                "checkpoint; default an epoch",
                _at_least(1),
            ),
            Flag(
                "integer",
                "checkpoint_steps",
                0,
                "also write a checkpoint every N steps; 0: only with each evaluation",
                _at_least(0),
            ),
            Flag(
                "integer",
                "keep_checkpoints",
                2,
                "how many of the newest to keep; the best one is kept beside them",
                _at_least(1),
            ),
            Flag(
                "integer",
                "dynamics_every",
                100,
                "steps between two rows of mask dynamics; 0: none",
                _at_least(0),
            ),
            Flag(
                "boolean",
                "mixed_precision",
                False,
                "compute in bfloat16, keep variables in float32",
            ),
            Flag("boolean", "jit", False, "compile with XLA; needs --nodeterministic"),
            Flag(
                "boolean",
                "deterministic",
                True,
                "deterministic ops: what makes a resumed run equal bit for bit",
            ),
            Flag("boolean", "verbose", False, "do not silence TensorFlow"),
        ),
    ),
)


def new_flags(groups: Groups = GROUPS) -> flags.FlagValues:
    """The flags of a launcher with their defaults, nothing parsed yet."""
    values = flags.FlagValues()
    for _, group in groups:
        for flag in group:
            define = getattr(flags, f"DEFINE_{flag.kind}")
            define(
                flag.name, flag.default, flag.help, flag_values=values, **flag.bounds
            )
    return values
