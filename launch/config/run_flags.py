"""The flags of the devices, of the folder and of the records of a run."""

from launch.config.flag import AT_LEAST_0, AT_LEAST_1, Flag

STRATEGIES = ("none", "mirrored", "multiworker", "tpu")
REDUCTIONS = ("packed", "dense")

DEVICES = (
    "Several devices",
    (
        Flag(
            "string",
            "strategy",
            "none",
            "none (one device), mirrored (all of one host), multiworker (one "
            "process per host, by TF_CONFIG; see launch/multiworker.py), or tpu",
            choices=STRATEGIES,
        ),
        Flag(
            "integer",
            "devices",
            None,
            "with mirrored, the number of accelerators or, if there are none, of virtual "
            "CPU devices; default all accelerators, else 2",
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
            "parts of a batch, computed one after another to save memory; a step is "
            "still one update, from the whole batch",
            AT_LEAST_1,
        ),
        Flag(
            "string",
            "reduce",
            "packed",
            "gradients that replicas exchange: packed (the backward sets only, exact) "
            "or dense",
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
            affects_result=False,
        ),
        Flag("integer", "seed", 0, "seed of weights, batches and sets", AT_LEAST_0),
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
            "number of the newest to keep; the best one is kept as well",
            AT_LEAST_1,
            affects_result=False,
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
            "deterministic ops, so that a resumed run is bitwise the same",
        ),
        Flag(
            "boolean",
            "verbose",
            False,
            "do not silence TensorFlow",
            affects_result=False,
        ),
    ),
)
