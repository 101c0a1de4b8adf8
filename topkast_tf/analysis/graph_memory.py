"""The most memory that the tensors of a graph take at once, as TensorFlow runs it on a CPU.

TensorFlow's executor is followed with one thread. An operation is ready when its inputs are
there. Of those that become ready together the one that was made first goes on, and the
others are put on a stack. So a gradient that nobody waits for, such as that of a bias, is
computed late, and what it reads is kept until then. A tensor is freed after its last
reader. Operations that TensorFlow computes in place take no memory of their own.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from topkast_tf.analysis import graph_macs
from topkast_tf.analysis.graph_macs import Frame
from topkast_tf.variables.refresh import SELECTION

_SAME_BUFFER = frozenset(
    "Identity Reshape Squeeze ExpandDims StopGradient PreventGradient Snapshot "
    "EnsureShape CheckNumerics".split()
)
"""Operations whose output is their first input, in another shape."""

_IN_PLACE = frozenset(
    "Relu Relu6 ReluGrad LeakyRelu Elu Selu Softplus Softmax LogSoftmax BiasAdd Add AddV2 "
    "AddN Sub Mul MulNoNan RealDiv Div DivNoNan Maximum Minimum Neg Abs Sqrt Rsqrt Square "
    "SquaredDifference Exp Expm1 Log Log1p Tanh Sigmoid Erf Pow Reciprocal Select SelectV2 "
    "RsqrtGrad SqrtGrad TanhGrad SigmoidGrad TopkastMask".split()
)
"""Operations that write over an input that nobody else reads, if it has their size."""

_UPDATES = frozenset("AssignSubVariableOp AssignAddVariableOp TopkastStep".split())
"""Operations that write to a variable, or to a copy of it while a read is in use."""

_WRITES = re.compile("^Assign|^ResourceApply|^ResourceScatter|^TopkastStep")
"""Operations that write to variables."""

_OF_OTHERS = frozenset("Const Placeholder VarHandleOp IdentityN".split())
"""Operations whose output is held elsewhere: by the graph or the caller."""

_CHEAP = _SAME_BUFFER | frozenset(
    "Const Placeholder VarHandleOp Shape ShapeN Size Rank NoOp".split()
)
"""Operations that the executor runs at once, and does not put on its stack."""

_SHAPE_ONLY = frozenset(
    "Shape ShapeN Size Rank ZerosLike OnesLike BroadcastGradientArgs".split()
)
"""Operations that do not keep what they read: its shape is known before."""

_HIDDEN = (tf.resource, tf.variant, tf.string)


@dataclass
class Buffer:
    """Memory that tensors of a graph share.

    Attributes:
      size: bytes.
      entries: of the tensor.
      ops: the operation that makes it, and those that write over it in place.
      readers: the operations that read it.
    """

    size: int
    entries: int
    ops: list[tf.Operation]
    readers: list[tf.Operation] = field(default_factory=list)
    uses: int = 0


@dataclass
class Run:
    """What one run of a graph takes.

    Attributes:
      peak: bytes of all tensors at the moment when they are most.
      held: the buffers of that moment.
      inside: bytes within the operation of that moment, such as a branch.
      buffers: all that there were.
      of_tensor: name of a tensor -> its buffer.
      data: names of the tensors that depend on the batch, or on random numbers.
      outputs: entries of the outputs of the graph.
      writes: whether it assigns to variables.
      uncounted: operations whose memory is not known.
    """

    peak: int = 0
    held: list[Buffer] = field(default_factory=list)
    inside: int = 0
    buffers: list[Buffer] = field(default_factory=list)
    of_tensor: dict[str, Buffer] = field(default_factory=dict)
    data: set[str] = field(default_factory=set)
    outputs: list[int] = field(default_factory=list)
    writes: bool = False
    uncounted: set[str] = field(default_factory=set)


def run_of(
    frame: Frame,
    data: set[str],
    sizes: Mapping[str, int] | None = None,
    density_of: Callable[[tf.Operation], float] = lambda op: 1.0,
    seed: int = 0,
    selects: bool = False,
    given: Mapping[str, Buffer] | None = None,
) -> Run:
    """Follows one run of a graph.

    Args:
      frame: the graph, and the origins of its inputs.
      data: names of its inputs that depend on the batch.
      sizes: name of an input of unknown shape -> its entries.
      density_of: the share of true entries in the masks that an operation packs by.
      seed: of the order of the operations without inputs, such as reads of variables.
      selects: whether it is a step that selects sets, whose conditions take the branch
        with most memory. Otherwise they take the one with least; but those that write
        variables, such as an optimizer's step that may be left out, take that with most.
      given: name of an input -> its buffer in the caller, which nobody else reads, so that
        it is freed, or written over, after its last reader here. They count in the peak.
    """
    executor = _Executor(frame, data, dict(sizes or {}), density_of, seed, selects)
    return executor.run(given or {})


class _Executor:
    def __init__(
        self,
        frame: Frame,
        data: set[str],
        sizes: dict[str, int],
        density_of: Callable[[tf.Operation], float],
        seed: int,
        selects: bool,
    ):
        self._frame, self._density_of = frame, density_of
        self._seed, self._selects = seed, selects
        self._entries = sizes
        self._ops = list(graph_macs.live(frame.graph))
        self._made = Run(data=set(data))
        self._live: dict[int, Buffer] = {}
        self._total = 0
        # Reads of each variable: they take no memory until it is updated.
        self._reads: dict[str, list[Buffer]] = defaultdict(list)
        self._uses = Counter(
            tensor.name
            for op in self._ops
            if op.type not in _SHAPE_ONLY
            for tensor in _read(op)
        )

    def run(self, given: Mapping[str, Buffer]) -> Run:
        """Runs all operations in the executor's order."""
        for name, buffer in given.items():
            if self._uses[name]:
                own = Buffer(buffer.size, buffer.entries, [], uses=self._uses[name])
                self._made.of_tensor[name] = own
                self._add(own)
        for op in self._in_order():
            self._made.writes |= bool(_WRITES.search(op.type))
            inside = self._inside(op)
            outputs = self._allocate(op)
            if op.type in _UPDATES:
                self._copy_if_read(op)
            now = self._total + inside
            if now > self._made.peak:
                self._made.peak, self._made.inside = now, inside
                self._made.held = list(self._live.values())
            self._release(op, outputs)
        graph = self._frame.graph
        self._made.outputs = [
            self.entries_of(source(t)) if isinstance(t, tf.Tensor) else 0
            for t in graph.outputs
        ]
        return self._made

    def _in_order(self) -> Iterator[tf.Operation]:
        """The operations, in the order in which one thread of TensorFlow runs them."""
        names = {op.name for op in self._ops}
        waits: dict[str, int] = {}
        next_of: dict[str, list[tf.Operation]] = defaultdict(list)
        for op in self._ops:
            needs = {c.name for c in op.control_inputs}
            if op.type not in _SHAPE_ONLY:
                needs |= {tensor.op.name for tensor in _read(op)}
            needs &= names
            waits[op.name] = len(needs)
            for need in needs:
                next_of[need].append(op)
        first = [op for op in self._ops if not waits[op.name]]
        random.Random(self._seed).shuffle(first)
        if self._frame.caller is not None:
            # A branch is inlined: what needs no value from outside is there first.
            first.sort(key=_is_value)
        stack = deque(first)
        at_once: deque[tf.Operation] = deque()
        while stack or at_once:
            op = at_once.popleft() if at_once else stack.popleft()
            yield op
            last = None
            for ready in reversed(next_of[op.name]):
                waits[ready.name] -= 1
                if waits[ready.name]:
                    continue
                if ready.type in _CHEAP:
                    at_once.append(ready)
                    continue
                if last is not None:
                    stack.appendleft(last)
                last = ready
            if last is not None:
                if at_once:
                    stack.appendleft(last)
                else:
                    at_once.append(last)

    def _allocate(self, op: tf.Operation) -> list[Buffer]:
        data = self._made.data
        of_data = "Random" in op.type or any(t.name in data for t in _read(op))
        if of_data:
            data.update(t.name for t in op.outputs)
        if op.type in ("Size", "Shape") and op.inputs[0].shape.rank == 1:
            self._note_size(op)
        made = []
        for tensor in op.outputs:
            entries = self._entries.setdefault(tensor.name, self._size_of(op, tensor))
            buffer = self._buffer_of(op, tensor, entries, of_data)
            if buffer is None:
                continue
            buffer.uses += self._uses[tensor.name]
            self._made.of_tensor[tensor.name] = buffer
            made.append(buffer)
        return made

    def _buffer_of(
        self, op: tf.Operation, tensor: tf.Tensor, entries: int, of_data: bool
    ) -> Buffer | None:
        if op.type in _OF_OTHERS or tensor.dtype in _HIDDEN:
            if tensor.dtype == tf.variant and of_data:
                self._made.uncounted.add(op.type)
            return None
        inputs = _read(op)
        if op.type == "ReadVariableOp":
            read = Buffer(0, entries, [op])
            self._live[id(read)] = read
            self._reads[inputs[0].name].append(read)
            return read
        if op.type in _SAME_BUFFER:
            return self._made.of_tensor.get(inputs[0].name)
        size = entries * tensor.dtype.size
        if op.type in _IN_PLACE:
            for each in inputs:
                found = self._made.of_tensor.get(each.name)
                if (
                    found
                    and found.uses == 1
                    and found.size == size
                    and each.dtype == tensor.dtype
                ):
                    found.ops.append(op)
                    return found
        buffer = Buffer(size, entries, [op])
        self._made.buffers.append(buffer)
        self._add(buffer)
        return buffer

    def _add(self, buffer: Buffer) -> None:
        self._live[id(buffer)] = buffer
        self._total += buffer.size

    def _release(self, op: tf.Operation, outputs: Sequence[Buffer]) -> None:
        if op.type not in _SHAPE_ONLY:
            for tensor in _read(op):
                buffer = self._made.of_tensor.get(tensor.name)
                if buffer is not None:
                    buffer.readers.append(op)
                    buffer.uses -= 1
                    self._free_unused(buffer)
        for buffer in outputs:
            self._free_unused(buffer)

    def _copy_if_read(self, op: tf.Operation) -> None:
        """The old value of a variable stays while somebody reads it."""
        reads = [
            read
            for read in self._reads[_read(op)[0].name]
            if id(read) in self._live and not read.size
        ]
        for read in reads[-1:]:
            dtype = read.ops[0].outputs[0].dtype
            read.size = read.entries * dtype.size
            self._total += read.size

    def _free_unused(self, buffer: Buffer) -> None:
        if buffer.uses == 0 and self._live.pop(id(buffer), None) is not None:
            self._total -= buffer.size

    def _inside(self, op: tf.Operation) -> int:
        """Memory within an operation that calls functions; notes the sizes it returns."""
        if op.type in graph_macs.FUNCTION_CALLS:
            runs = [self._called(op, op.get_attr("f"), op.inputs)]
        elif op.type in graph_macs.BRANCHES:
            branches = graph_macs.branches_of(op)
            runs = [self._called(op, each, op.inputs[1:]) for each in branches]
        elif op.type in graph_macs.LOOPS:
            runs = [self._called(op, op.get_attr("body"), op.inputs)]
            if any(tensor.dtype == tf.variant for tensor in op.outputs):
                self._made.uncounted.add(op.type)
        else:
            return 0
        for i, tensor in enumerate(op.outputs):
            if not tensor.shape.is_fully_defined():
                self._entries[tensor.name] = max(run.outputs[i] for run in runs)
        # Its outputs are counted outside.
        returned = sum(
            self._size_of(op, t) * t.dtype.size
            for t in op.outputs
            if t.dtype not in _HIDDEN
        )
        is_selection = SELECTION in op.name.rpartition("/")[2]
        is_step = not is_selection and any(run.writes for run in runs)
        most = max if self._selects or is_step else min
        return max(0, most(run.peak for run in runs) - returned)

    def _called(
        self, op: tf.Operation, function: Any, args: Sequence[tf.Tensor]
    ) -> Run:
        inner = self._frame.enter(function, args)
        sizes, data, given = {}, set(), {}
        is_loop = op.type in graph_macs.LOOPS  # which reads them again
        for placeholder, arg in zip(inner.graph.inputs, args, strict=False):
            passed = source(arg)
            sizes[placeholder.name] = self.entries_of(passed)
            if passed.name in self._made.data:
                data.add(placeholder.name)
            buffer = self._made.of_tensor.get(passed.name)
            if buffer is not None and buffer.uses == 1 and not is_loop:
                given[placeholder.name] = buffer
        density = self._density_of(op)
        run = run_of(
            inner, data, sizes, lambda _: density, self._seed, self._selects, given
        )
        # Those are counted here.
        run.peak -= sum(buffer.size for buffer in given.values())
        self._made.uncounted |= run.uncounted
        self._made.writes |= run.writes
        return run

    def entries_of(self, tensor: tf.Tensor) -> int:
        """The entries of a tensor that was made, or has a known shape."""
        if tensor.dtype in _HIDDEN:
            return 0
        if tensor.shape.is_fully_defined():
            return math.prod(tensor.shape.as_list())
        return self._entries.get(tensor.name, 0)

    def _size_of(self, op: tf.Operation, tensor: tf.Tensor) -> int:
        """The entries of an output; of an unknown shape, by what its operation reads."""
        if tensor.dtype in _HIDDEN:
            return 0
        if tensor.shape.is_fully_defined():
            return math.prod(tensor.shape.as_list())
        if tensor.name in self._entries:
            return self._entries[tensor.name]
        inputs = [t for t in _read(op) if t.dtype not in _HIDDEN]
        if op.type == "Where":
            return math.ceil(self._density_of(op) * self.entries_of(inputs[0])) * (
                tensor.shape[-1] or 1
            )
        if op.type in ("ConcatV2", "Concat"):
            return sum(map(self.entries_of, inputs[: op.get_attr("N")]))
        if op.type == "ScatterNd":
            return round(self.entries_of(inputs[1]) / self._density_of(op))
        if op.type == "Reshape" or not inputs:
            return self.entries_of(inputs[0]) if inputs else 0
        length = self._length(op, inputs)
        known = [n for n in tensor.shape.as_list() if n] if tensor.shape.rank else []
        return length * math.prod(known)

    def _length(self, op: tf.Operation, inputs: Sequence[tf.Tensor]) -> int:
        """The one unknown axis of an operation's output."""
        if op.type == "GatherV2":
            inputs = inputs[1:2]
        elif op.type in ("StridedSlice", "Slice"):
            ends = [self._number(t) for t in inputs[1:3]]
            whole = self._axis(inputs[0])
            if op.type == "Slice":
                return whole
            begin, end = (n or 0 for n in ends)
            mask = op.get_attr("end_mask")
            return max(0, min(whole, whole if mask & 1 or not end else end) - begin)
        return max(map(self._axis, inputs), default=0)

    def _axis(self, tensor: tf.Tensor) -> int:
        """The length of the unknown axis of a tensor; 0 if it has none."""
        if tensor.shape.is_fully_defined():
            return 0
        known = [n for n in tensor.shape.as_list() if n] if tensor.shape.rank else []
        return self.entries_of(tensor) // max(1, math.prod(known))

    def _number(self, tensor: tf.Tensor) -> int | None:
        """The first number of a small tensor, where it follows from sizes."""
        tensor = source(tensor)
        while tensor.op.type in ("Pack", "Identity", "Cast", "ExpandDims", "Reshape"):
            tensor = source(tensor.op.inputs[0])
        value = self._frame.constant(tensor)
        return None if value is None else int(np.ravel(value)[0])

    def _note_size(self, op: tf.Operation) -> None:
        """Notes the length of a vector as a constant, of which bounds are computed."""
        tensor = op.outputs[0]
        length = self.entries_of(source(op.inputs[0]))
        value = np.asarray(length, tensor.dtype.as_numpy_dtype)
        self._frame.constants[tensor.name] = value if op.type == "Size" else value[None]


def _is_value(op: tf.Operation) -> bool:
    return op.type == "Placeholder" and op.outputs[0].dtype != tf.resource


def source(tensor: tf.Tensor) -> tf.Tensor:
    """The tensor itself: an `IdentityN` is one identity for each of its inputs."""
    while tensor.op.type == "IdentityN":
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor


def _read(op: tf.Operation) -> list[tf.Tensor]:
    return [] if op.type == "IdentityN" else [source(tensor) for tensor in op.inputs]
