"""Memory of a training step, item by item, in three forms of storage.

`dense` is the dense twin. `here` is this implementation, all on the accelerator: dense
tensors and masks, or with --storage=packed the entries of B, with theta and the sets in
memory or in mapped files; and native kernels then have plans in place of masked copies.
`sparse` is truly sparse storage:

- Top-KAST keeps theta on the host and selects the sets there, as the paper proposes in
  its notes on implementation. The accelerator has the values of B, their positions, one
  bit for each that says whether it is in A, and gradients and optimizer slots of B only.
  A slot starts at zero when its entry enters B.
- SWAT updates every weight, so theta, gradients and slots stay dense on the accelerator,
  with one bit per weight for A (with masked updates only A has gradients). The input of a
  sparse product that is kept for the backward pass is packed; a ReLU keeps one bit.
- Positions take one bit for each entry of the weight, or four bytes (eight above 2^31
  entries) for each kept entry, whichever is less.
"""

import dataclasses
from collections.abc import Sequence

from launch.cost_model.forward_pass import RELU, Kept
from launch.cost_model.network import Network
from launch.cost_model.packed_memory import is_native, plan_bytes
from launch.cost_model.parameters import EMBEDDINGS, VECTORS, Parameter, kept_of
from topkast_tf.analysis.storage import FLOAT32, positions

FORMS = ("dense", "here", "sparse")
GRAPH = "graph of the step"
WORKING_TENSORS = 3
"""Temporary tensors of the largest operation: two operands and a result."""

# Memory of the graph of a step in TensorFlow 2.21, measured by benchmarks/plan_memory.py:
# of any network, of each weight with a product, of each weight with sets.
_GRAPH, _GRAPH_A_PRODUCT, _GRAPH_A_SPARSE_WEIGHT = 16 << 20, 4 << 20, 7 << 20


@dataclasses.dataclass(frozen=True)
class Item:
    """Bytes of one kind, in the three forms of storage.

    Attributes:
      name: what they are used for.
      dense, here, sparse: bytes in each form; see the module.
    """

    name: str
    dense: int
    here: int
    sparse: int


@dataclasses.dataclass(frozen=True)
class Memory:
    """Memory of one device and of its host.

    Attributes:
      accelerator: items on the device.
      host: items on the host.
    """

    accelerator: tuple[Item, ...]
    host: tuple[Item, ...]

    def total(self, form: str, on: str = "accelerator") -> int:
        """Bytes in a form of storage.

        Args:
          form: one of `FORMS`.
          on: `accelerator` or `host`.
        """
        return sum(getattr(item, form) for item in getattr(self, on))


@dataclasses.dataclass(frozen=True)
class Storage:
    """The settings of a run that determine its memory, in addition to the network.

    Attributes:
      slots: optimizer slots per weight, such as a momentum.
      compute_itemsize: bytes per entry in the compute dtype.
      keeps_penalty: whether a weighted copy of theta is kept for the exploration loss.
      packed: whether SWAT's activations are packed in this implementation.
      replaces_relu: whether there is a SWAT scope, which may pack ReLUs too.
      parts: parts of a device's batch, computed one after another.
      weights_packed: whether this implementation trains the entries of B alone.
      native: whether native kernels compute the products of packed weights.
      theta_mapped: whether theta and the sets of packed weights are in files.
    """

    slots: int
    compute_itemsize: int = FLOAT32
    keeps_penalty: bool = False
    packed: bool = False
    replaces_relu: bool = False
    parts: int = 1
    weights_packed: bool = False
    native: bool = False
    theta_mapped: bool = False


def memory_of(network: Network, storage: Storage, batch: int) -> Memory:
    """The memory of a device that trains on a batch.

    Args:
      network: the network.
      storage: the settings that determine the memory.
      batch: examples on this device.
    """
    parameters, forward = network.parameters, network.forward_pass
    every = FLOAT32 * sum(each.size for each in parameters)
    on_device = FLOAT32 * sum(map(_on_device, parameters))
    reached = FLOAT32 * sum(each.backward for each in parameters)
    rows = batch // storage.parts
    activations = [activation_bytes(network, storage, rows, form) for form in FORMS]
    # The gradients of a part, and their sum.
    summands = 1 if storage.parts == 1 else 2
    inputs = forward.inputs.of(batch)
    carried = forward.carried.of(batch)
    fixed = network.statistics_bytes
    trained = reached if storage.weights_packed else every
    # Packed weights are beside theta, with the code of each entry.
    entries = sum(p.backward for p in parameters if p.has_sets)
    beside = entries * (FLOAT32 + 1) if storage.weights_packed else 0
    in_files = sparse_entries(parameters) if storage.theta_mapped else 0
    plans = sum(plan_bytes(p) for p in parameters if storage.native and is_native(p))
    accelerator = [
        Item("weights", every, every + beside - FLOAT32 * in_files, on_device),
        Item(
            "sets and other state",
            0,
            sum(each.set_bytes + each.state_bytes for each in parameters) - in_files,
            sum(map(_position_bytes, parameters)),
        ),
        Item("plans of the kernels", 0, plans, 0),
        Item(
            "masked copies",
            _copies(parameters, storage, dense=True),
            _copies(parameters, storage),
            _copies(parameters, storage, dense=True, of="forward"),
        ),
        Item("gradients", *(summands * size for size in (every, trained, reached))),
        Item(
            "optimizer slots",
            storage.slots * every,
            storage.slots * trained,
            storage.slots * on_device,
        ),
        Item("statistics", fixed, fixed, fixed),
        Item("memory of segments", carried, carried, carried),
        Item("batch", inputs, inputs, inputs),
        Item("activations", *activations),
        Item(
            "working memory",
            *(_working(network, storage, rows, form) for form in FORMS),
        ),
    ]
    theta = FLOAT32 * sum(each.size for each in parameters if _leaves_theta(each))
    graph = _GRAPH + _GRAPH_A_PRODUCT * len(forward.macs)
    masked = graph + _GRAPH_A_SPARSE_WEIGHT * sum(p.has_sets for p in parameters)
    host = [
        Item("theta", 0, 0, theta),
        Item(GRAPH, graph, masked, masked),
        Item("training data", *[network.data_bytes] * 3),
    ]
    return Memory(_present(accelerator), _present(host))


def sparse_entries(parameters: Sequence[Parameter]) -> int:
    """Entries of the sparse weights, whose theta and sets may be in files."""
    return sum(each.size for each in parameters if each.is_sparse)


def activation_bytes(network: Network, storage: Storage, batch: int, form: str) -> int:
    """Bytes of the activations that are kept for the backward pass."""
    inputs = {
        each.path: each.saved_activations
        for each in network.parameters
        if each.saves_masked and form != "dense"
    }
    packed = form == "sparse" or storage.packed
    bits = packed and storage.replaces_relu and form != "dense"
    return sum(
        _kept_bytes(kept, batch, inputs, packed, bits)
        for kept in network.forward_pass.kept
    )


def _kept_bytes(
    kept: Kept, batch: int, masked: dict[str, float], packed: bool, bits: bool
) -> int:
    entries = kept.entries.of(batch)
    own = [reader for reader in kept.readers if reader in masked]
    rest = set(kept.readers) - set(own)
    found = 0
    if rest - {RELU} or (rest and not bits):
        found += entries * kept.itemsize
    if RELU in rest and bits:
        found += -(-entries // 8)
    for reader in own:
        if packed:
            found += kept_of(entries, masked[reader]) * kept.itemsize
            found += -(-entries // 8)
        else:
            found += entries * (kept.itemsize + 1)  # with the mask, until it is counted
    return found


def _leaves_theta(parameter: Parameter) -> bool:
    """Whether truly sparse storage keeps theta on the host."""
    return parameter.is_sparse and parameter.on_host


def _on_device(parameter: Parameter) -> int:
    """Entries on the accelerator in truly sparse storage."""
    return parameter.backward if _leaves_theta(parameter) else parameter.size


def _position_bytes(parameter: Parameter) -> int:
    if not parameter.is_sparse:
        return 0
    if not _leaves_theta(parameter):
        return -(-parameter.size // 8)
    return positions(parameter.size, parameter.backward) + -(-parameter.backward // 8)


def _copies(
    parameters: Sequence[Parameter],
    storage: Storage,
    dense: bool = False,
    of: str = "size",
) -> int:
    """Bytes of the copies of weights that are kept for the backward pass."""
    found = 0
    for each in parameters:
        if each.kind == VECTORS:
            continue
        # Embedding and softmax each read their own copy of the table.
        reads = 2 if each.kind == EMBEDDINGS else 1
        if storage.native and is_native(each) and not dense:
            continue
        is_cast = storage.compute_itemsize != FLOAT32
        if is_cast or (each.reads_alpha and each.has_sets and not dense):
            found += reads * storage.compute_itemsize * getattr(each, of)
        if storage.keeps_penalty and each.is_sparse and not dense:
            found += FLOAT32 * each.size
    return found


def _working(network: Network, storage: Storage, batch: int, form: str) -> int:
    largest = [
        kept.entries.of(batch) * kept.itemsize for kept in network.forward_pass.kept
    ]
    for each in network.parameters:
        size = _on_device(each) if form == "sparse" else each.size
        if form == "here" and storage.native and is_native(each):
            size = each.backward
        largest.append(FLOAT32 * size)
    return WORKING_TENSORS * max(largest)


def _present(items: Sequence[Item]) -> tuple[Item, ...]:
    return tuple(item for item in items if item.dense or item.here or item.sparse)
