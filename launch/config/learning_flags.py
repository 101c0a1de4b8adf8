"""The flags of the length of a run, its optimizer and its regularization."""

from launch.config.flag import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    FACTOR,
    NOT_NEGATIVE,
    SHARE,
    Flag,
)

SCHEDULES = ("cosine", "steps", "constant")
OPTIMIZERS = ("sgd", "adam")
DECAYED = ("kernels", "all")

LENGTH = (
    "Length, optimizer and regularization",
    (
        Flag(
            "integer",
            "epochs",
            30,
            "length of the run; if --steps is given too, the later one wins",
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
            "images or segments per step, over all devices",
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
            "steps at which `steps` drops; default 1/2 and 3/4 of the run",
            only_with=("lr_schedule", "steps"),
        ),
        Flag(
            "float",
            "lr_drop",
            0.1,
            "factor of each drop, in (0, 1)",
            range=FACTOR,
            only_with=("lr_schedule", "steps"),
        ),
        Flag(
            "integer",
            "warmup_steps",
            0,
            "steps of linear warm-up, for any schedule",
            AT_LEAST_0,
        ),
        Flag(
            "float",
            "momentum",
            0.9,
            "momentum of SGD, in [0, 1)",
            range=SHARE,
            only_with=("optimizer", "sgd"),
        ),
        Flag(
            "boolean",
            "nesterov",
            False,
            "Nesterov momentum",
            only_with=("optimizer", "sgd"),
        ),
        Flag(
            "float",
            "weight_decay",
            1e-4,
            "L2 of kernels (gradient weight_decay * w); Top-KAST's have --exploration",
            range=NOT_NEGATIVE,
        ),
        Flag(
            "string",
            "decay",
            "kernels",
            "what --weight_decay applies to: kernels, or all (biases and norms too)",
            choices=DECAYED,
        ),
        Flag(
            "float",
            "label_smoothing",
            0.0,
            "in [0, 1)",
            range=SHARE,
            data="image",
        ),
        Flag(
            "float",
            "clip_norm",
            0.0,
            "largest norm of the whole gradient, which is scaled down to it; 0: no limit",
            range=NOT_NEGATIVE,
        ),
    ),
)
