"""Memory of small runs: as launch/plan.py plans it, and as it is measured.

Planned: all on the accelerator, `as run here`, and the graph of the step on the host: on
a CPU they are one. Measured: the most memory that was ever resident in a process that
builds the model and takes --steps training steps by Keras (`train_on_batch`), less what
was resident before the model was built.

Target: measured over planned between 0.8 and 1.2.

What the figures do not say: memory of an accelerator, whose allocator is another.
TensorFlow's on a CPU keeps what it once had, so what is measured is a peak. The graph's
part of the plan was fitted to such measurements; the rest was not.

The CSV holds each round, and only grows: the same command goes on where it stopped, and
--rounds is the total.

Example: python benchmarks/plan_memory.py --runs=text_topkast --rounds=3
"""

import functools
import json
import pathlib
import sys
from collections.abc import Sequence

if __name__ == "__main__":
    # Run as a file, Python looks for modules in benchmarks/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags
from tqdm import tqdm

from benchmarks import common

_RESNET = ("--dataset=cifar10", "--model=resnet20", "--width=2", "--batch_size=256")
_TEXT = ("--dataset=python", "--model=txl_small", "--batch_size=192")
_VGG = ("--dataset=cifar10", "--model=vgg16_cifar", "--batch_size=128")
RUNS: dict[str, tuple[str, ...]] = {
    "resnet_dense": (*_RESNET, "--method=dense"),
    "resnet_topkast": (*_RESNET, "--method=topkast"),
    "resnet_swat": (*_RESNET, "--method=swat"),
    "resnet_packed": (*_RESNET, "--method=swat", "--storage=packed"),
    "text_dense": (*_TEXT, "--method=dense"),
    "text_topkast": (*_TEXT, "--method=topkast"),
    "text_packed": (*_TEXT, "--method=topkast", "--storage=packed"),
    "vgg_dense": (*_VGG, "--method=dense"),
    "vgg_topkast": (*_VGG, "--method=topkast"),
}
COLUMNS = ("run", "steps", "round", "planned_bytes", "measured_bytes")


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this benchmark."""
    flags.DEFINE_list("runs", list(RUNS), "which ones", flag_values=values)
    flags.DEFINE_string(
        "csv", "plan_memory.csv", "where the rounds are kept", flag_values=values
    )
    for name, default, text in (
        ("steps", 3, "training steps"),
        ("rounds", 3, "rounds, each of a process a run"),
    ):
        flags.DEFINE_integer(name, default, text, 1, flag_values=values)
    flags.DEFINE_list(
        "measure", None, "measure a run of these flags in this process, without their "
        "dashes, and print JSON (what the benchmark does in its own processes)",
        flag_values=values,
    )  # fmt: skip


def measure(arguments: Sequence[str], steps: int) -> dict[str, int]:
    """Plans a run, then takes some steps of it in this process.

    Args:
      arguments: flags of `launch/plan.py`.
      steps: how many.

    Returns:
      `planned_bytes` and `measured_bytes`.
    """
    import tensorflow as tf

    from launch import data
    from launch.config import plan_flags
    from launch.cost_model.memory import GRAPH
    from launch.cost_model.plan import plan_of
    from launch.run import building, sparsity
    from launch.tasks import task_of

    settings = plan_flags.parse(["plan_memory.py", *arguments])
    plan = plan_of(
        settings,
        settings.method,
        functools.partial(sparsity.scope, settings.method, settings),
    )
    task = task_of(settings)
    source = data.find(settings.dataset)
    if source.kind == "text":
        shape = (settings.batch_size, task.config.segment_length)
        batch = targets = tf.random.uniform(
            shape, 0, task.text.vocabulary_size, tf.int32
        )
    else:
        batch = tf.random.normal((settings.batch_size, *source.image_shape))
        classes = tf.random.uniform([settings.batch_size], 0, source.classes, tf.int32)
        targets = tf.one_hot(classes, source.classes)
    before = common.resident_bytes()
    if before is None:
        common.fail("Expected a system that says what is resident, in /proc/self/statm")
    model = building.build(task, settings.method)
    for _ in range(steps):
        model.train_on_batch(batch, targets)
    graph = sum(item.here for item in plan.memory.host if item.name == GRAPH)
    return {
        "planned_bytes": plan.memory.total("here") + graph,
        "measured_bytes": common.peak_bytes() - before,
    }


def measure_elsewhere(arguments: Sequence[str], steps: int) -> dict[str, int]:
    """`measure` in a process of its own."""
    asked = ",".join(argument.removeprefix("--") for argument in arguments)
    command = [sys.executable, __file__, f"--measure={asked}", f"--steps={steps}"]
    return common.json_of_process(command)


def table_row(run: str, rows: Sequence[dict[str, str]]) -> Sequence[str]:
    """The row of the table for one run."""
    planned = [int(row["planned_bytes"]) for row in rows]
    measured = [int(row["measured_bytes"]) for row in rows]
    ratio = [m / p for m, p in zip(measured, planned, strict=True)]
    middle = (common.spread([n / 2**20 for n in each]) for each in (planned, measured))
    return (
        run,
        *(f"{spread.median:,.0f} MiB" for spread in middle),
        str(common.spread(ratio)),
    )


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = common.parse(argv, __doc__ or "", define_flags)
    if values.measure:
        arguments = [f"--{argument}" for argument in values.measure]
        print(json.dumps(measure(arguments, values.steps)))
        return
    if not values.runs or not set(values.runs) <= set(RUNS):
        common.fail(f"Expected --runs of {', '.join(RUNS)}. Received: {values.runs}")
    rows: list[Sequence[str]] = [("run", "planned", "measured", "over planned")]
    for run in values.runs:
        settings = {"run": run, "steps": values.steps}
        results = common.Results(values.csv, COLUMNS, settings)
        done = len(results.rows)
        for number in tqdm(range(done, values.rounds), run, unit="round", disable=None):
            found = measure_elsewhere(RUNS[run], values.steps)
            results.add(round=number, **found)
        rows.append(table_row(run, results.rows))
    print(common.table(rows))
    print("median (quartiles) over the rounds; target: 0.8 to 1.2")


if __name__ == "__main__":
    main(sys.argv)
