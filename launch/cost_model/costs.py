"""What a step costs: FLOPs, bytes between workers, time by a roofline."""

import dataclasses

from launch.cost_model.memory import FLOAT32, FORMS, Memory, positions
from launch.cost_model.network import Network
from launch.cost_model.parameters import Parameter
from topkast_tf.analysis.flops import FlopReport, FlopRow


@dataclasses.dataclass(frozen=True)
class Device:
    """What a device can do; None: not known.

    Attributes:
      flops: FLOP a second.
      bandwidth: bytes a second between it and its memory.
      network: bytes a second that it sends to other devices.
      memory: bytes.
    """

    flops: float | None = None
    bandwidth: float | None = None
    network: float | None = None
    memory: float | None = None


def flops_a_step(network: Network, batch: int, *, explores: bool = True) -> FlopReport:
    """FLOPs of a step, by the same rows as `topkast_tf.count_flops`.

    There they are those of an example; here each row's multiply-adds are of the batch.

    Args:
      network: what is trained.
      batch: examples a step.
      explores: whether B is larger than A; False from `--stop_exploring_at` on.
    """
    forward = network.forward_pass
    by_path = {each.path: each for each in network.parameters}
    rows = [
        _row(by_path[path], amount.of(batch), explores)
        for path, amount in forward.macs.items()
    ]
    activations = forward.activation_macs.of(batch)
    if activations:
        rows.append(FlopRow("(activations)", activations))
    return FlopReport(tuple(rows))


def _row(parameter: Parameter, macs: int, explores: bool) -> FlopRow:
    if not parameter.is_sparse:
        return FlopRow(parameter.path, macs)
    backward = parameter.backward_sparsity
    if not explores and parameter.on_host:
        backward = parameter.forward_sparsity
    return FlopRow(
        parameter.path,
        macs,
        parameter.forward_sparsity,
        backward,
        parameter.products,
    )


@dataclasses.dataclass(frozen=True)
class Exchange:
    """Bytes that go between devices, and between a device and its host.

    Attributes:
      dense: gradients of all weights.
      packed: gradients of the entries of B, values only, as every worker knows B.
      workers: devices that add up their gradients.
      refresh: bytes to and from the host at each selection of the sets, if theta is
        there: the values of B, their positions, and B's values back.
    """

    dense: int
    packed: int
    workers: int
    refresh: int

    def sent(self, form: str) -> float:
        """Bytes that each worker sends in a step: 2 (N - 1) / N of the gradients.

        Args:
          form: `dense`, `here` or `sparse`.

        Source: the ring all-reduce, than which no other sends less.
        """
        gradients = self.packed if form == "sparse" else self.dense
        return 2 * (self.workers - 1) / self.workers * gradients


def exchange_of(network: Network, workers: int) -> Exchange:
    """What workers exchange in a step."""
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
    """Seconds of a step: the longer of compute and memory, and communication.

    Attributes:
      case: what is assumed of the device.
      compute: seconds of its FLOPs.
      memory: seconds of its memory's traffic.
      network: seconds of the exchange with other workers; None: not known.
    """

    case: str
    compute: float
    memory: float
    network: float | None

    @property
    def total(self) -> float:
        """Of a step; without the network where that is not known."""
        return max(self.compute, self.memory) + (self.network or 0.0)


CASES = {
    "dense": "dense twin",
    "here": "sparse, the device gains nothing",
    "sparse": "sparse, the device gains fully",
}
"""Storage form -> what is assumed of a device.

One that gains nothing computes every product dense on the tensors and masks as they are
here, and sends dense gradients. One that gains fully needs `1 - s` of the time and has
truly sparse storage, and sends gradients packed to B.
"""


def step_times(
    network: Network,
    flops: FlopReport,
    memory: Memory,
    exchange: Exchange,
    device: Device,
) -> list[StepTime]:
    """The time of a step in each of `CASES`, as a roofline.

    ``max(FLOPs / rate, bytes / bandwidth) + sent / network bandwidth``

    Bytes: everything that memory holds but working memory is written once and read
    once, and the products read the weights twice more. A lower bound: nothing is said of
    how well the device is used, nor of the selection of the sets.

    Args:
      network: what is trained.
      flops: of a step on one device.
      memory: of one device.
      exchange: between all.
      device: with `flops` and `bandwidth`.
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
