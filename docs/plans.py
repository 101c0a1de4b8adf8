"""Writes docs/plans.md: the costs of each flagfile, planned by launch/plan.py.

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
# Planned cost of each flagfile

Counted by `launch/plan.py` for one device; nothing is measured. `python docs/plans.py`
writes this page. Parameters, in millions: all, kept in A, updated in B. FLOPs: training
for the whole run, with the ratio to dense. Memory of the accelerator with the whole
batch, in GB (10^9 bytes): the dense twin, the sparse run as executed here, and the
sparse run with truly sparse storage. Exchanged: the gradient that a worker contributes
to the sum, in MB per step, dense and packed to B. The items, and the time on a device
described by flags, are printed by `python launch/plan.py --flagfile=FILE`.

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
