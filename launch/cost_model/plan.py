"""The plan of one run: all its costs as numbers."""

import dataclasses
from typing import Any

from absl import flags

from launch.config.methods import METHODS
from launch.cost_model.costs import (
    Device,
    Exchange,
    StepTime,
    exchange_of,
    flops_a_step,
    step_times,
)
from launch.cost_model.memory import FORMS, Memory, Storage, memory_of, sparse_entries
from launch.cost_model.network import (
    Network,
    Scope,
    compute_itemsize,
    network_of,
    total_steps,
)
from launch.cost_model.parameters import KINDS
from launch.cost_model.text_sizes import PUBLISHED
from launch.distribute.devices import workers_named
from launch.support.errors import UserError
from topkast_tf.analysis.flops import FlopReport
from topkast_tf.kernels import build

_GIGABYTE = 10**9


@dataclasses.dataclass(frozen=True)
class Plan:
    """The cost of a run.

    Attributes:
      network: the network.
      method: name of the method.
      batch: examples per step, over all devices.
      devices: number of devices, each with an equal part of the batch.
      steps: steps of the whole run.
      flops: FLOPs of a step on all devices.
      flops_in_all: (dense, sparse) FLOPs of the run.
      memory: memory of one device and its host.
      exchange: the exchange between workers.
      times: seconds of a step in each case; empty if the device is unknown.
      fits: form of storage -> whether it fits into the memory of the device.
      notes: sentences about approximations.
    """

    network: Network
    method: str
    batch: int
    devices: int
    steps: int
    flops: FlopReport
    flops_in_all: tuple[float, float]
    memory: Memory
    exchange: Exchange
    times: tuple[StepTime, ...]
    device: Device
    fits: dict[str, "Fit"]
    notes: tuple[str, ...]

    def counts(self) -> list[tuple[str, int, int, int]]:
        """(kind, dense parameters, those in A, those in B) of each kind present."""
        found = []
        for kind in KINDS:
            of_kind = [p for p in self.network.parameters if p.kind == kind]
            if of_kind:
                sums = [
                    sum(getattr(p, name) for p in of_kind)
                    for name in ("size", "forward", "backward")
                ]
                found.append((kind, *sums))
        return found

    def in_all(self) -> tuple[int, int, int]:
        """Dense parameters, those in A, those in B, over all kinds."""
        columns = list(zip(*(row[1:] for row in self.counts()), strict=True))
        return tuple(map(sum, columns))


@dataclasses.dataclass(frozen=True)
class Fit:
    """Whether a run fits into the memory of its devices.

    Attributes:
      fits: whether it fits on the given number of devices.
      devices: the smallest number of devices on which it fits, with the batch divided
        evenly; None if it fits on no number.
      least: bytes of a device with one example of the batch and all weights.
    """

    fits: bool
    devices: int | None
    least: int


def plan_of(settings: flags.FlagValues, method: str, scope: Scope) -> Plan:
    """Plans a run.

    Args:
      settings: the resolved flags, including those of the plan.
      method: `dense` or a sparse method.
      scope: opens the scope of the method.

    Raises:
      UserError: if a necessary size cannot be determined, or flags contradict each other.
    """
    if METHODS[method].is_resized:
        raise UserError(
            "Expected a method whose network has the widths of --width: give the smaller "
            f"--width itself, with --method=dense. Received: --method={method}"
        )
    batch, devices = settings.batch_size, _replicas(settings)
    storage = _storage(settings, method)
    if batch % (devices * storage.parts):
        raise UserError(
            "Expected --batch_size to be a multiple of the devices that share it, and of "
            f"--accumulate on each. Received: --batch_size={batch}, {devices} devices, "
            f"--accumulate={storage.parts}"
        )
    network = network_of(settings, scope)
    steps = _steps(settings, network)
    device = Device(
        settings.device_flops,
        settings.device_bandwidth,
        settings.network_bandwidth,
        settings.device_memory and settings.device_memory * _GIGABYTE,
    )
    flops = flops_a_step(network, batch)
    memory = memory_of(network, storage, batch // devices)
    exchange = exchange_of(network, devices)
    of_one = flops_a_step(network, batch // devices)
    return Plan(
        network,
        method,
        batch,
        devices,
        steps,
        flops,
        _in_all(settings, method, flops, steps),
        memory,
        exchange,
        tuple(step_times(network, of_one, memory, exchange, device)),
        device,
        _fits(network, storage, settings, memory, device),
        tuple(_notes(settings, method, network, device)),
    )


def _replicas(settings: flags.FlagValues) -> int:
    if settings.replicas:
        return settings.replicas
    if "strategy" not in settings:
        return 1
    return (settings.devices or 1) * workers_named(settings)


def _steps(settings: flags.FlagValues, network: Network) -> int:
    total = total_steps(settings, network.steps_per_epoch)
    if total is None:
        raise UserError(
            "Expected --steps, as the length of an epoch depends on the text, which was "
            "not given. Received: only --epochs"
        )
    return total


def _storage(settings: flags.FlagValues, method: str) -> Storage:
    def value(name: str, default: Any = None) -> Any:
        return settings[name].value if name in settings else default

    slots = 2 if settings.optimizer == "adam" else int(settings.momentum > 0)
    packed = METHODS[method].storage_of_weights(settings) == "packed"
    return Storage(
        slots=slots,
        compute_itemsize=compute_itemsize(settings),
        keeps_penalty=METHODS[method].has_penalty and value("exploration", 0) > 0,
        packed=value("storage") == "packed" and METHODS[method].sparse_activations,
        replaces_relu=METHODS[method].sparse_activations,
        parts=value("accumulate", 1),
        weights_packed=packed,
        native=packed and value("kernels") != "masked" and _has_compiler(),
        theta_mapped=packed and value("theta") == "mmap",
    )


def _has_compiler() -> bool:
    """Whether this machine can build the native kernels, which takes a minute."""
    try:
        return bool(build.find_compiler())
    except build.Unavailable:
        return False


def _in_all(
    settings: flags.FlagValues,
    method: str,
    flops: FlopReport,
    steps: int,
) -> tuple[float, float]:
    sparse = steps * flops.run.training
    sparse += METHODS[method].dense_steps(settings) * flops.dense.training
    return steps * flops.dense.training, sparse


def _fits(
    network: Network,
    storage: Storage,
    settings: flags.FlagValues,
    memory: Memory,
    device: Device,
) -> dict[str, Fit]:
    if not device.memory:
        return {}
    batch = settings.batch_size
    counts = [n for n in range(1, batch + 1) if not batch % (n * storage.parts)]
    by_count = {n: memory_of(network, storage, batch // n) for n in counts}
    found = {}
    for form in FORMS:
        enough = (n for n in counts if by_count[n].total(form) <= device.memory)
        found[form] = Fit(
            memory.total(form) <= device.memory,
            next(enough, None),
            by_count[counts[-1]].total(form),
        )
    return found


def _notes(settings: flags.FlagValues, method: str, network: Network, device: Device):
    distribution = settings.distribution if "distribution" in settings else ""
    if distribution in ("global", "momentum") and method != "dense":
        yield (
            f"--distribution={distribution} depends on the trained weights; a uniform "
            "distribution is assumed."
        )
    if settings.dataset in PUBLISHED and not settings.vocabulary:
        size = PUBLISHED[settings.dataset]
        yield (
            f"The text is not read: {size.vocabulary:,} distinct tokens, as published; "
            "change it with --vocabulary."
        )
    if any("cluster_embeddings" in p.path for p in network.parameters):
        yield (
            "The share of tokens in the tails of the adaptive softmax is estimated by "
            "Zipf's law."
        )
    if _storage(settings, method).theta_mapped:
        # Theta, the sets, and at a selection those to come.
        size = 6 * sparse_entries(network.parameters) / _GIGABYTE
        yield f"The disk of --run_dir holds {size:.2f} GB of theta and sets."
    if "jit" in settings and settings.jit:
        yield "XLA may keep fewer activations than are counted here."
    if _replicas(settings) > 1 and device.flops and device.network is None:
        yield "Time excludes the exchange between workers: give --network_bandwidth."
