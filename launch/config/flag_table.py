"""Every flag of `launch/train.py`: its type, its default, its meaning, its help."""

from launch.config import methods
from launch.config.flag import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    FACTOR,
    NOT_NEGATIVE,
    SHARE,
    WIDTH,
    Flag,
    Groups,
)

SCHEDULES = ("cosine", "steps", "constant")
OPTIMIZERS = ("sgd", "adam")
DECAYED = ("kernels", "all")
STRATEGIES = ("none", "mirrored", "multiworker", "tpu")
REDUCTIONS = ("packed", "dense")

TRAINED = (
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
            AT_LEAST_1,
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
)

TEXT = (
    "Text",
    (
        Flag(
            "integer",
            "segment_length",
            None,
            "tokens of a segment in training; default by model",
            AT_LEAST_1,
        ),
        Flag(
            "integer",
            "memory_length",
            None,
            "states remembered of earlier segments; default by model",
            AT_LEAST_0,
        ),
        Flag(
            "integer",
            "evaluation_segment",
            None,
            "tokens of a segment in evaluation; default by model",
            AT_LEAST_1,
        ),
        Flag(
            "integer",
            "evaluation_memory",
            None,
            "states remembered in evaluation; default by model",
            AT_LEAST_0,
        ),
        Flag(
            "integer",
            "evaluation_batch",
            10,
            "rows that the text is cut into in evaluation; each begins without memory",
            AT_LEAST_1,
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
)

SPARSE = (
    "How it is made sparse",
    (
        Flag(
            "string",
            "method",
            "topkast",
            "; ".join(f"{name}: {m.about}" for name, m in methods.METHODS.items()),
            choices=tuple(methods.METHODS),
        ),
        Flag(
            "boolean",
            "compare_dense",
            False,
            "first train the dense twin: same seed, same steps, same batches",
        ),
        methods.SPARSITY,
        Flag(
            "string",
            "distribution",
            "uniform",
            "uniform, er, erk, global (Top-KAST, SWAT), momentum (swat), or a JSON "
            "mapping of regex to sparsity",
        ),
        Flag(
            "list",
            "exempt",
            [],
            "weights left dense: first, last, regexes on their paths",
        ),
        Flag("list", "include", None, "only these weights are made sparse"),
    ),
)

LENGTH = (
    "How long and how fast it learns",
    (
        Flag(
            "integer",
            "epochs",
            30,
            "length of the run; of this and --steps the later one counts",
            AT_LEAST_1,
        ),
        Flag(
            "integer",
            "steps",
            None,
            "length in optimizer steps, instead of --epochs",
            AT_LEAST_1,
        ),
        Flag(
            "integer",
            "batch_size",
            128,
            "images or segments a step, over all devices",
            AT_LEAST_1,
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
            AT_LEAST_0,
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
)

DEVICES = (
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
            AT_LEAST_1,
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
            AT_LEAST_1,
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
)

RUN = (
    "The run",
    (
        Flag(
            "string",
            "run_dir",
            None,
            "folder of the run; default runs/DATASET-MODEL-METHOD",
        ),
        Flag("integer", "seed", 0, "of weights, batches and sets", AT_LEAST_0),
        Flag(
            "integer",
            "evaluate_every",
            None,
            "steps between two evaluations, each with a row of metrics and a "
            "checkpoint; default an epoch",
            AT_LEAST_1,
        ),
        Flag(
            "integer",
            "checkpoint_steps",
            0,
            "also write a checkpoint every N steps; 0: only with each evaluation",
            AT_LEAST_0,
        ),
        Flag(
            "integer",
            "keep_checkpoints",
            2,
            "how many of the newest to keep; the best one is kept beside them",
            AT_LEAST_1,
        ),
        Flag(
            "integer",
            "dynamics_every",
            100,
            "steps between two rows of mask dynamics; 0: none",
            AT_LEAST_0,
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
)

GROUPS: Groups = (TRAINED, TEXT, SPARSE, *methods.GROUPS, LENGTH, DEVICES, RUN)
