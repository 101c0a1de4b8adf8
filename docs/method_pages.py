"""Writes docs/methods/NAME.md and its picture for each method of `sparse_scope`.

    python docs/method_pages.py [NAME ...]

Equations, arguments and sources are those of the docstrings, defaults those of the
signatures, states and densities those of small models, pictures those of steps that are
trained for them, and results rows of CSVs in docs/. Nothing there is written by hand.
"""

import collections
import dataclasses
import inspect
import pathlib
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # Run as a file, Python looks for modules in docs/ and not in the project.
    sys.path[0] = str(ROOT)

import keras  # noqa: E402

import swat_tf  # noqa: E402
import topkast_tf as tk  # noqa: E402
from benchmarks import methods as benchmark  # noqa: E402
from docs.tools import docstrings, method_picture  # noqa: E402
from docs.tools.marked import rows, table  # noqa: E402
from docs.tools.method_steps import (  # noqa: E402
    FINDS_SPARSITY,
    NAMES,
    SPARSITY,
    STEPS,
    steps_of,
)
from topkast_tf.methods import METHODS, SETTINGS  # noqa: E402

DOCS, FOLDER = ROOT / "docs", ROOT / "docs/methods"
PUBLISHED = DOCS / "published_accuracy.csv"
SWEEP, STEP = DOCS / "results/sweep_cifar10/sweep.csv", DOCS / "benchmarks/methods.csv"
SCOPES: dict[str, Callable] = {
    "dsg": swat_tf.dsg_scope,
    "meprop": swat_tf.meprop_scope,
    "swat": swat_tf.swat_scope,
    "topkast": tk.topkast_scope,
}
"""Methods that have a scope of their own, which documents them."""
SHARED = (
    *("distribution", "exempt", "include", "seed"),
    *("kernels", "storage", "theta_dir", "power"),
)
"""Arguments of every scope."""
ANY_LENGTH = ("dnw", "nm", "swat", "topkast")
"""Methods that do without the length of training."""
RUN = 10_000
"""Steps of the runs whose densities and schedules the pages have."""


def page(name: str) -> str:
    """The text of a method's page."""
    known = docstrings.parsed(documented(name))
    is_about_scope = name in ("topkast", "swat")
    lead = docstrings.parsed(METHODS[name]).lead if is_about_scope else known.lead
    parts = [
        f"# {name}",
        lead,
        opening(name),
        known.text,
        "## What is sparse",
        f"![Zeros of the products of {name}]({name}.svg)",
        picture_text(name),
        table(("", ""), facts(name)),
        "## Arguments",
        table(("argument", "default", ""), arguments(name)),
        common_arguments(name),
        "## Results",
        *results(name),
    ]
    if known.source:
        parts += ["## Source", known.source[0].upper() + known.source[1:]]
    return "\n\n".join(part for part in parts if part) + "\n"


def documented(name: str) -> Callable:
    """What has the docstring of a method."""
    return SCOPES.get(name) or SETTINGS.get(name) or METHODS[name]


def opening(name: str) -> str:
    """How to open its scope, with the arguments that it needs."""
    given = "".join(f", {key}={value!r}" for key, value in needed(name).items())
    lines = [f'with sparse_scope("{name}"{given}):', "    model = build()"]
    package = "swat_tf" if name in ("swat", "meprop", "dsg") else ""
    head = ["import swat_tf  # registers it"] if package else []
    head += ["from topkast_tf import sparse_scope", ""]
    if name in ("grasp", "synflow"):
        batch = "(images, labels)" if name == "grasp" else ""
        head[-2] = "from topkast_tf import prune, sparse_scope"
        lines.append(f"prune(model{', ' * bool(batch)}{batch})")
    return "\n".join(["```python", *head, *lines, "```"])


def needed(name: str) -> dict[str, Any]:
    """The arguments at 90 %, those that have no default and the length of training."""
    given: dict[str, Any] = {} if name in FINDS_SPARSITY else {"sparsity": 0.9}
    if name == "topkast":
        given["bwd"] = 0.8
    if name == "nm":
        given["sparsity"] = 0.5
    if "total_steps" in fields(name) and name not in ANY_LENGTH:
        given["total_steps"] = RUN
    return given


def fields(name: str) -> dict[str, Any]:
    """Argument of a method -> its default; `inspect.Parameter.empty` if it has none."""
    if name in SETTINGS:
        given = {"sparsity": 0.9}
        if name.endswith("itop"):
            given["total_steps"] = RUN
        made = SETTINGS[name](**given)
        taken = inspect.signature(SETTINGS[name]).parameters
        found = dataclasses.asdict(made)
        if not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
            found = {key: found.get(key) for key in taken}
        empty = inspect.Parameter.empty
        return {key: empty if key in given else found[key] for key in found}
    taken = inspect.signature(documented(name)).parameters
    return {key: p.default for key, p in taken.items() if key not in shared(name)}


def shared(name: str) -> list[str]:
    """The arguments of a method's scope that mean the same in every scope."""
    taken = inspect.signature(SCOPES.get(name, tk.sparse_scope)).parameters
    # With SWAT's products it is activations that are stored.
    is_own = ("storage",) if name in ("swat", "meprop", "dsg") else ()
    return [key for key in SHARED if key in taken and key not in is_own]


def common_arguments(name: str) -> str:
    """A sentence on the arguments that the table leaves out."""
    *most, last = [f"`{key}`" for key in shared(name)]
    text = f"{', '.join(most)} and {last} are those of [every scope](../api/topkast_tf.md)."
    if name not in SCOPES:
        text += " What a method cannot combine with, its scope refuses."
    if name == "topkast":
        text += " In `sparse_scope` `fwd` is called `sparsity`."
    return text


def arguments(name: str) -> Iterator[Sequence[str]]:
    """Rows of argument, default and meaning."""
    meanings = dict(docstrings.parsed(documented(name)).arguments)
    classes = () if name in SCOPES else type_of(name).__mro__
    for cls in classes:
        if cls.__module__.startswith("topkast_tf"):
            for key, text in docstrings.parsed(cls).arguments.items():
                inherits = meanings.get(key, "").startswith("as in `")
                meanings[key] = text if inherits else meanings.get(key, text)
    for key, default in fields(name).items():
        yield f"`{key}`", default_text(default), meanings[key]


def default_text(default: Any) -> str:
    """A default as code; nothing if there is none."""
    if default is inspect.Parameter.empty:
        return ""
    is_long = isinstance(default, float) and len(repr(default)) > 8
    return f"`{default:.4g}`" if is_long else f"`{default!r}`"


def type_of(name: str) -> type:
    """The class of a method."""
    if name in SETTINGS:
        total = {"total_steps": RUN} if name.endswith("itop") else {}
        return type(SETTINGS[name](sparsity=0.9, **total))
    return METHODS[name]


def facts(name: str) -> Iterator[tuple[str, str]]:
    """What a layer of 160 inputs and 100 outputs says of the method."""
    with tk.sparse_scope(name, **needed(name)):
        layer = keras.layers.Dense(100, use_bias=False, name="dense")
        model = keras.Sequential([keras.Input((160,)), layer])
    model.compile("sgd", "mse")
    [weight] = tk.sparse_weights(model)
    method = weight.method
    if method.prunes_before_training:
        tk.prune(
            model, (keras.random.normal((8, 160), seed=0), keras.ops.ones((8, 100)))
        )
    row = tk.count_flops(model).rows[0]
    shares = [
        f"{made / whole:.3g}"
        for made, whole in zip(
            dataclasses.astuple(row.run), dataclasses.astuple(row.dense), strict=True
        )
    ]
    given = ", ".join(f"{key}={value}" for key, value in needed(name).items())
    average = f"averaged over {RUN:,} steps" if row.mean else "in each step"
    if name not in ("str", "dst", "cs"):
        yield (
            f"counted FLOPs over dense, with {given}, {average}",
            "forward {}, input gradient {}, weight gradient {}".format(*shares),
        )
    else:
        yield "counted FLOPs over dense", "as dense until training has found zeros"
    if name not in ("meprop", "dsg"):
        yield "the sets change", schedule_text(method)
    updated = "every entry" if method.dense_updates or method.bwd == 0 else "B"
    yield "a step updates", "A" if method.one_mask else updated
    looks = [f"the dense {kind}" for kind in method.inputs]
    yield (
        "an update looks at",
        "θ, the sets" + "".join(f", {kind}" for kind in looks)
        if name not in ("meprop", "dsg")
        else "nothing: there are no sets",
    )
    slots = {variable.path.rpartition("/")[2] for variable in model.trainable_variables}
    yield (
        "slots of an optimizer such as Adam, dense storage",
        " and ".join(f"`{slot}`" for slot in sorted(slots)),
    )
    known = {"kernel", "kernel_sets", "kernel_clock"}
    extra = [
        f"`{variable.path.rpartition('/')[2]}` {shape_text(variable.shape)}"
        for variable in layer.variables
        if variable.path.rpartition("/")[2] not in known
    ]
    yield "state beside θ and the sets (a byte an entry)", ", ".join(extra) or "none"
    distributions = ("uniform", "er", "erk", "global")
    names = (*(method.distributions or distributions), *method.own_distributions)
    if name in ("meprop", "dsg"):
        names = ("uniform",)
    yield (
        "distributions by name",
        "none: training finds the sparsities"
        if method.finds_sparsity
        else ", ".join(f"`{each}`" for each in names),
    )


def shape_text(shape: Iterable[int]) -> str:
    """How many numbers a variable of the layer of 160 inputs and 100 outputs has."""
    shape = tuple(shape)
    size = 1
    for length in shape:
        size *= length
    return {1: "(one number)", 100: "(one an output)", 16_000: "(one an entry)"}.get(
        size, f"({size} numbers)"
    )


def schedule_text(method: Any) -> str:
    """At which steps the sets of a method change."""
    if method.prunes_before_training:
        return "before training alone"
    due = [t for t in range(RUN + 1) if bool(method.schedule.due(t))]
    if not due:
        return "never"
    first = ", ".join(f"{t:,}" for t in due[:3])
    rest = f", ... {due[-1]:,}" if len(due) > 4 else f", {due[-1]:,}" * (len(due) > 3)
    if due[0] == 0:
        return f"at steps {first}{rest}"
    return f"after {first}{rest} steps"


def picture_text(name: str) -> str:
    """What the picture shows."""
    at = "" if name in FINDS_SPARSITY else f" at {SPARSITY:.0%}"
    return (
        f"{method_picture.ABOUT} The run{at} takes {STEPS} steps; steps that look like the "
        "one before are left out. Nothing is drawn by hand: a layer is trained, and its "
        "zeros are read."
    )


def results(name: str) -> Iterator[str]:
    """Published accuracies, our own, and what a step takes."""
    published = [row for row in rows(PUBLISHED) if row["method"] == name]
    if published:
        yield (
            "Published top-1 accuracies, in %, as printed by the method's authors or by "
            "others. They were not reproduced here."
        )
        yield table(
            ("network, data", "sparsity, %", "", "accuracy", "dense", "printed in"),
            (
                (
                    f"{row['network']}, {row['data']}",
                    row["sparsity"],
                    row["setting"],
                    row["accuracy"],
                    row["dense"] or "not printed",
                    f"{row['source']} ({row['printed_by']})",
                )
                for row in published
            ),
        )
    own = sorted(own_results(name))
    if own:
        yield (
            "Our own, in small: a network of 390,186 parameters on CIFAR-10, 2,340 steps "
            "([setting and all methods](../results/sweep_cifar10.md))."
        )
        yield table(
            (
                "variant",
                "sparsity",
                "seeds",
                "test accuracy, %",
                "training FLOPs over dense",
            ),
            own,
        )
    measured = list(step_figures(name))
    if measured:
        yield (
            "A training step of a ResNet-20 at 90 % beside the dense one, on one thread "
            "([what was measured](../benchmarks.md#every-method-beside-dense)):"
        )
        yield table(("variant", "processor time", "peak memory", "rounds"), measured)
    if not (published or own or measured):
        yield "None yet: no published figure was confirmed, and none was measured here."


def own_results(name: str) -> Iterator[Sequence[str]]:
    """Rows of the sweep: those of the method, of static masks and of the dense network."""
    found = collections.defaultdict(list)
    for row in rows(SWEEP):
        found[row["sparsity"], row["method"], row["variant"]].append(row)
    if not any(method == name for _, method, _ in found):
        return
    for (sparsity, method, variant), runs in found.items():
        if method in (name, "dense") or variant == "static":
            accuracies = [100 * float(row["test_accuracy"]) for row in runs]
            ratios = [float(row["training_flops_ratio"]) for row in runs]
            yield (
                f"`{variant}`",
                sparsity or "0",
                str(len(runs)),
                f"{statistics.mean(accuracies):.1f}",
                f"{statistics.mean(ratios):.3f}",
            )


def step_figures(name: str) -> Iterator[Sequence[str]]:
    """What a step takes over a dense one, by the benchmark of all methods."""
    measured = collections.defaultdict(dict)
    for row in rows(STEP):
        measured[row["variant"]][row["round"]] = benchmark.figures_of(row)
    for variant, (method, _) in benchmark.METHODS.items():
        if method != name or variant not in measured:
            continue
        pairs = [
            (own, measured["dense"][number])
            for number, own in measured[variant].items()
            if number in measured["dense"]
        ]
        time, memory = (
            statistics.median(own[figure] / dense[figure] for own, dense in pairs)
            for figure in ("cpu_ms", "memory_bytes")
        )
        yield f"`{variant}`", f"{time:.2f}", f"{memory:.2f}", str(len(pairs))


def picture(name: str) -> str:
    """The SVG of a method."""
    return method_picture.svg(name, steps_of(name), STEPS - 1)


def main(names: Sequence[str]) -> None:
    """Writes the pages of some methods, or of all."""
    unknown = set(names) - set(NAMES)
    if unknown:
        sys.exit(f"Expected methods of {', '.join(NAMES)}. Received: {sorted(unknown)}")
    FOLDER.mkdir(exist_ok=True)
    for name in names or NAMES:
        (FOLDER / f"{name}.md").write_text(page(name), encoding="utf-8")
        (FOLDER / f"{name}.svg").write_text(picture(name), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
