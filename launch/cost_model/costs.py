"""The cost of a step: FLOPs, bytes between workers, time by a roofline model."""

import dataclasses

from launch.cost_model.memory import FORMS, Memory
from launch.cost_model.network import Network
from launch.cost_model.parameters import Parameter
from topkast_tf.analysis.flops import FlopReport, FlopRow
from topkast_tf.analysis.storage import FLOAT32, positions


@dataclasses.dataclass(frozen=True)
class Device:
    """The speed and memory of a device; None if unknown.

    Attributes:
      flops: FLOP per second.
      bandwidth: bytes per second between the device and its memory.
      network: bytes per second that it sends to other devices.
      memory: bytes of memory.
    """

    flops: float | None = None
    bandwidth: float | None = None
    network: float | None = None
    memory: float | None = None


def flops_a_step(network: Network, batch: int) -> FlopReport:
    """FLOPs of a step, in the same rows as `topkast_tf.count_flops`.

    There the multiply-adds of a row are for one example, here for the batch.

    Args:
      network: the network.
      batch: examples per step.
    """
    forward = network.forward_pass
    by_path = {each.path: each for each in network.parameters}
    rows = [
        _row(by_path[path], amount.of(batch)) for path, amount in forward.macs.items()
    ]
    activations = forward.activation_macs.of(batch)
    if activations:
        rows.append(FlopRow("(activations)", activations))
    return FlopReport(tuple(rows))


def _row(parameter: Parameter, macs: int) -> FlopRow:
    if not parameter.is_sparse:
        return FlopRow(parameter.path, macs)
    return FlopRow(
        parameter.path,
        macs,
        parameter.forward_sparsity,
        parameter.backward_sparsity,
        parameter.products,
        parameter.mean_products,
    )


@dataclasses.dataclass(frozen=True)
class Exchange:
    """Bytes that are sent between devices, and between a device and its host.

    Attributes:
      dense: gradients of all weights.
      packed: gradients of the entries of B, without positions, as all workers know B.
      workers: devices that sum their gradients.
      refresh: bytes to and from the host at each selection of the sets, if theta is on
        the host: the values of B to the host; positions and values of the new B back.
    """

    dense: int
    packed: int
    workers: int
    refresh: int

    def sent(self, form: str) -> float:
        """Bytes that each worker sends in a step: 2 (N - 1) / N of the gradients.

        Args:
          form: `dense`, `here` or `sparse`.

        Source: the ring all-reduce, which sends the least possible.
        """
        gradients = self.packed if form == "sparse" else self.dense
        return 2 * (self.workers - 1) / self.workers * gradients


def exchange_of(network: Network, workers: int) -> Exchange:
    """The bytes that workers exchange in a step."""
    refresh = 0
    for each in network.parameters:
        if each.is_sparse and each.on_host:
            refresh += 2 * FLOAT32 * each.backward
            refresh += positions(each.size, each.backward)
    return Exchange(
        dense=FLOAT32 * sum(each.size for each in network.parameters),
        packed=FLOAT32 * sum(each.backward for each in network.parameters),
        workers=workers,
        refresh=refresh,
    )


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds of a step: the maximum of compute and memory, plus communication.

    Attributes:
      case: the assumption about the device.
      compute: seconds for the FLOPs.
      memory: seconds for the memory traffic.
      network: seconds for the exchange with other workers; None if unknown.
    """

    case: str
    compute: float
    memory: float
    network: float | None

    @property
    def total(self) -> float:
        """Seconds of a step, without the network if that is unknown."""
        return max(self.compute, self.memory) + (self.network or 0.0)


CASES = {
    "dense": "dense twin",
    "here": "sparse, the device gains nothing",
    "sparse": "sparse, the device gains fully",
}
"""Storage form -> the assumption about the device.

A device that gains nothing computes dense products on dense tensors and masks, as this
implementation does, and sends dense gradients. A device that gains fully takes `1 - s` of
the time, has truly sparse storage, and sends gradients packed to B.
"""


def step_times(
    network: Network,
    flops: FlopReport,
    memory: Memory,
    exchange: Exchange,
    device: Device,
) -> list[StepTime]:
    """The time of a step in each of `CASES`, by a roofline model.

    ``max(FLOPs / rate, bytes / bandwidth) + sent / network bandwidth``

    Everything in memory except working memory is written once and read once, and the
    products read the weights twice more. This is a lower bound: it assumes full
    utilisation and ignores the selection of the sets.

    Args:
      network: the network.
      flops: FLOPs of a step on one device.
      memory: memory of one device.
      exchange: the exchange between all devices.
      device: the device; the result is empty without its `flops` and `bandwidth`.
    """
    if device.flops is None or device.bandwidth is None:
        return []
    weights = {
        "dense": sum(each.size for each in network.parameters),
        "sparse": sum(each.forward for each in network.parameters),
    }
    weights["here"] = weights["dense"]
    found = []
    for form in FORMS:
        count = flops.sparse if form == "sparse" else flops.dense
        held = sum(
            getattr(item, form)
            for item in memory.accelerator
            if item.name != "working memory"
        )
        traffic = 2 * held + 2 * FLOAT32 * weights[form]
        sent = exchange.sent(form)
        network_time = None
        if not sent:
            network_time = 0.0
        elif device.network is not None:
            network_time = sent / device.network
        found.append(
            StepTime(
                CASES[form],
                count.training / device.flops,
                traffic / device.bandwidth,
                network_time,
            )
        )
    return found
