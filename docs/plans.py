"""Writes docs/plans.md: what each flagfile would cost, by launch/plan.py.

python docs/plans.py
"""

import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # Run as a file, Python looks for modules in docs/ and not in the project.
    sys.path[0] = str(ROOT)

from launch import plan  # noqa: E402
from launch.config import plan_flags  # noqa: E402

FLAGFILES = pathlib.Path("launch/flagfiles")
HEAD = """\
# What each flagfile would cost

Counted by `launch/plan.py` for one device, nothing measured; `python docs/plans.py` writes
this page. Parameters are in millions: all, those kept in A, those updated in B. FLOPs are
those of training, of the whole run, with the ratio to dense. Memory is that of the
accelerator with the whole batch on it, in GB (10^9 bytes): the dense twin, as it runs here,
and as truly sparse storage would need it. Exchanged is the gradient that a worker gives to
the sum, in MB a step: dense, and packed to B. `python launch/plan.py --flagfile=FILE` has
the items, and the time on devices that are described to it.

| flagfile | parameters | FLOPs | memory | exchanged |
|---|---|---|---|---|
"""


def main():
    rows = []
    for path in sorted(FLAGFILES.rglob("*.cfg")):
        if path.stem == "base" or path.stem.endswith("_base"):
            continue
        settings = plan_flags.parse(["plan.py", f"--flagfile={path}", "--json"])
        if "studies" not in settings:
            rows.append(row(path, json.loads(plan.run(settings))))
    (ROOT / "docs" / "plans.md").write_text(HEAD + "".join(rows), encoding="utf-8")


def row(path, planned):
    counts, flops = planned["parameters"]["all"], planned["flops"]
    memory = planned["memory_bytes"]["accelerator"]["all"]
    exchange = planned["exchange_bytes"]
    ratio = flops["all_sparse"] / flops["all_dense"]
    cells = (
        f"`{path.relative_to(FLAGFILES)}`",
        " / ".join(f"{n / 1e6:.3g}" for n in counts.values()),
        f"{flops['all_sparse']:.2e} ({ratio:.3f})",
        " / ".join(f"{n / 1e9:.3g}" for n in memory.values()),
        f"{exchange['gradients_dense'] / 1e6:.3g} / "
        f"{exchange['gradients_packed'] / 1e6:.3g}",
    )
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    main()
