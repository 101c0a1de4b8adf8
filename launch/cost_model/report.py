"""A plan as text and as JSON."""

from collections.abc import Sequence
from typing import Any

from launch.cost_model.costs import CASES
from launch.cost_model.memory import FORMS
from launch.cost_model.plan import Plan
from launch.storage.report import aligned

_COLUMNS = ("dense twin", "as run here", "truly sparse")


def bytes_text(count: float) -> str:
    """A number of bytes with three digits.

    >>> bytes_text(5 * 2**30), bytes_text(1536)
    ('5.00 GiB', '1.50 KiB')
    """
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 2**power:
            return f"{_digits(count / 2**power)} {unit}"
    return f"{count:.0f} B"


def flops_text(count: float) -> str:
    """A number of FLOPs with three digits.

    >>> flops_text(3.2e18), flops_text(5e9)
    ('3.20 EFLOP', '5.00 GFLOP')
    """
    for power, unit in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if count >= 10**power:
            return f"{_digits(count / 10**power)} {unit}FLOP"
    return f"{count:.0f} FLOP"


def seconds_text(seconds: float) -> str:
    """A time with three digits.

    >>> seconds_text(0.0042), seconds_text(7200.0), seconds_text(1e6)
    ('4.20 ms', '2.00 hours', '11.6 days')
    """
    for length, unit in ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "s")):
        if seconds >= length:
            return f"{_digits(seconds / length)} {unit}"
    if seconds >= 1e-3:
        return f"{_digits(seconds * 1e3)} ms"
    return f"{_digits(seconds * 1e6)} us"


def _digits(number: float) -> str:
    return f"{number:.{max(0, 2 - len(str(int(number))) + 1)}f}"


def text(plan: Plan) -> str:
    """The plan as tables."""
    network = plan.network
    parts = [
        f"{network.name}, {plan.method}: {plan.steps:,} steps of {plan.batch:,} x "
        f"{network.unit}" + (f", on {plan.devices} devices" * (plan.devices > 1)),
        _titled("Parameters", _parameter_rows(plan)),
        _titled("FLOPs, counted", _flops_rows(plan)),
        _titled(_memory_title(plan), _memory_rows(plan)),
    ]
    if plan.fits:
        parts.append(_fit_text(plan))
    parts.append(_titled("Between workers, a step", _exchange_rows(plan)))
    if plan.times:
        parts.append(_titled("Time, at least (roofline)", _time_rows(plan)))
    else:
        parts.append("Time: give --device_flops and --device_bandwidth.")
    parts += plan.notes
    return "\n\n".join(parts)


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as numbers: bytes, FLOPs and seconds."""
    dense, sparse = plan.flops_in_all
    names = ("dense", "forward", "backward")
    return {
        "model": plan.network.name,
        "method": plan.method,
        "steps": plan.steps,
        "batch_size": plan.batch,
        "devices": plan.devices,
        "parameters": {
            **{
                kind: dict(zip(names, counts, strict=True))
                for kind, *counts in plan.counts()
            },
            "all": dict(zip(names, plan.in_all(), strict=True)),
        },
        "flops": {
            "step_dense": plan.flops.dense.training,
            "step_sparse": plan.flops.run.training,
            "training_ratio": plan.flops.run_ratio,
            "inference_ratio": plan.flops.inference_ratio,
            "all_dense": dense,
            "all_sparse": sparse,
        },
        "memory_bytes": {
            place: {
                **{
                    item.name: {form: getattr(item, form) for form in FORMS}
                    for item in getattr(plan.memory, place)
                },
                "all": {form: plan.memory.total(form, place) for form in FORMS},
            }
            for place in ("accelerator", "host")
        },
        "fits": {
            form: {"fits": fit.fits, "least_devices": fit.devices}
            for form, fit in plan.fits.items()
        },
        "exchange_bytes": {
            "gradients_dense": plan.exchange.dense,
            "gradients_packed": plan.exchange.packed,
            "sent_dense": plan.exchange.sent("dense"),
            "sent_packed": plan.exchange.sent("sparse"),
            "host_at_refresh": plan.exchange.refresh,
        },
        "seconds": {
            form: {
                "compute": time.compute,
                "memory": time.memory,
                "network": time.network,
                "step": time.total,
                "all": time.total * plan.steps,
            }
            for form, time in zip(CASES, plan.times, strict=False)
        },
        "notes": list(plan.notes),
    }


def _titled(title: str, rows: Sequence[Sequence[str]]) -> str:
    (_, *header), *body = rows
    return aligned([(title, *header), *body])


def _parameter_rows(plan: Plan) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("", "dense", "kept in A", "updated in B")]
    for kind, *counts in [*plan.counts(), ("all", *plan.in_all())]:
        rows.append((kind, *(f"{count:,}" for count in counts)))
    return rows


def _flops_rows(plan: Plan) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("", "dense twin", "sparse", "ratio")]
    step = plan.flops
    dense, sparse = plan.flops_in_all
    for name, before, after in (
        ("forward pass, a step", step.dense.forward, step.sparse.forward),
        ("training step", step.dense.training, step.run.training),
        ("the whole run", dense, sparse),
    ):
        ratio = after / before if before else 1.0
        rows.append((name, flops_text(before), flops_text(after), f"{ratio:.3f}"))
    return rows


def _memory_title(plan: Plan) -> str:
    return "Memory of each accelerator" if plan.devices > 1 else "Memory"


def _memory_rows(plan: Plan) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("", *_COLUMNS)]
    for place, title in (
        ("accelerator", "on the accelerator"),
        ("host", "on the host"),
    ):
        items = getattr(plan.memory, place)
        for item in items:
            cells = (bytes_text(getattr(item, form)) for form in FORMS)
            name = f"host: {item.name}" if place == "host" else item.name
            rows.append((name, *cells))
        if items:
            totals = (bytes_text(plan.memory.total(form, place)) for form in FORMS)
            rows.append((f"all {title}", *totals))
    return rows


def _fit_text(plan: Plan) -> str:
    memory = plan.device.memory or 0
    lines = [f"A device has {memory / 1e9:g} GB ({bytes_text(memory)}):"]
    for form, column in zip(FORMS, _COLUMNS, strict=True):
        fit, needed = plan.fits[form], bytes_text(plan.memory.total(form))
        if fit.fits:
            verdict = "fits"
        elif fit.devices is None:
            verdict = (
                f"does not fit, nor would it on {plan.batch} devices: with one "
                f"{plan.network.unit} each needs {bytes_text(fit.least)}"
            )
        else:
            share = plan.batch // fit.devices
            verdict = (
                f"does not fit; it would on {fit.devices} devices, with {share} of the "
                "batch on each"
            )
        lines.append(f"  {column}: {needed} {verdict}.")
    return "\n".join(lines)


def _exchange_rows(plan: Plan) -> list[Sequence[str]]:
    exchange = plan.exchange
    rows: list[Sequence[str]] = [("", "dense", "packed to B")]
    rows.append(("gradients", bytes_text(exchange.dense), bytes_text(exchange.packed)))
    if plan.devices > 1:
        sent = (bytes_text(exchange.sent(form)) for form in ("dense", "sparse"))
        rows.append((f"each of {plan.devices} sends", *sent))
    if exchange.refresh:
        rows.append(
            ("with its host, a refresh", "", bytes_text(exchange.refresh)),
        )
    return rows


def _time_rows(plan: Plan) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [
        ("", "compute", "memory", "network", "a step", "the whole run")
    ]
    for time in plan.times:
        network = "?" if time.network is None else seconds_text(time.network)
        rows.append(
            (
                time.case,
                seconds_text(time.compute),
                seconds_text(time.memory),
                network,
                seconds_text(time.total),
                seconds_text(time.total * plan.steps),
            )
        )
    return rows
