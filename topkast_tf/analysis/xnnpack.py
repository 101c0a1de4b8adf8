"""Whether XNNPACK, LiteRT's engine on CPUs, would compute a network sparse.

XNNPACK turns a part of a network to channels first and computes its 1 x 1 convolutions
with sparse kernels, if the part has a certain form. Its rules, read in its sources
(`src/subgraph.c`, August 2026):

- A part consists of operations that can have channels first: 1 x 1 convolutions without
  stride, groups or padding; fully connected layers; depthwise ones of 3 x 3 padded by 1 or
  5 x 5 padded by 2 on each side, with stride 1 or 2; ADD and MUL of two tensors of four
  dimensions (a batch normalisation that does not follow a convolution is a MUL and an ADD
  with constants, which are refused); unary operations, RESIZE_BILINEAR, and MEAN and SUM.
- It begins with 3 x 3 convolutions of stride 2 with 3 input channels, padded by 1 on each
  side, and ends in a MEAN, SUM or DEPTH_TO_SPACE. Padding "same" with stride 2 pads one
  side of images of even size: `ZeroPadding2D(1)` before a convolution without padding does
  what is asked for.
- Its tensors are read by its own operations alone.
- More than two thirds of the entries of its 1 x 1 convolutions and fully connected layers
  are zeros, counted together.
- A fully connected layer with channels first has three dimensions or more. XNNPACK does
  not check this here, and fails later: behind a mean no second one may read the first.
- The file has sparse encoding, as `export_litert` writes it: otherwise LiteRT does not ask
  for sparse kernels.
- The processor is none of x86 with AVX: there XNNPACK expects dense kernels to be faster.

What is decided here is that of the network. What has no operation of XNNPACK counts as an
operation that cannot have channels first, which ends a part as well.
"""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from topkast_tf.analysis.litert_file import WEIGHTED, Operation, operations_of

_UNARY = frozenset(
    "ABS CEIL COS ELU EXP FLOOR GELU HARD_SWISH LEAKY_RELU LOGISTIC NEG RELU RELU6 "
    "RELU_N1_TO_1 ROUND RSQRT SIN SQRT SQUARE TANH".split()
)
PART = (
    "A part of a network that XNNPACK computes with channels first begins with a 3 x 3 "
    "convolution of stride 2 with 3 input channels, padded by 1 on each side, and ends in "
    "a mean over the image or DEPTH_TO_SPACE."
)
"""What the reasons of verdicts speak of."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What XNNPACK would do with an operation that has weights.

    Attributes:
      layer: the layer that the filter is named after.
      kind: the operation.
      zeros, size: entries of the filter that are zero, and all.
      sparse: whether it would be computed with sparse kernels.
      why: the rule that decides, in words.
    """

    layer: str
    kind: str
    zeros: int
    size: int
    sparse: bool
    why: str


def verdicts(content: bytes, schema: Any, layers: Mapping[str, str]) -> list[Verdict]:
    """What XNNPACK would do with each operation of a file that has weights.

    Args:
      content: of the file, with whole kernels (``sparse_encoding=False``).
      schema: the module of classes that read it (`schema_py_generated` of LiteRT).
      layers: names to look for in the names of tensors -> names of layers.
    """
    operations, external = operations_of(content, schema, layers)
    operations = _without_pads(operations, external)
    return list(_decided(operations, external))


def _consumers(operations: Sequence[Operation]) -> dict[int, list[int]]:
    """Tensor -> the numbers of the operations that read it."""
    found = collections.defaultdict(list)
    for number, operation in enumerate(operations):
        for tensor in operation.inputs:
            found[tensor].append(number)
    return found


def _without_pads(
    operations: Sequence[Operation], external: set[int]
) -> list[Operation]:
    """The operations with each PAD in the convolution that alone reads it."""
    consumers, gone = _consumers(operations), set()
    for number, pad in enumerate(operations):
        if pad.kind != "PAD" or external & {*pad.outputs}:
            continue  # two after one another are fused one by one, as here
        readers = consumers[pad.outputs[0]]
        if len(readers) != 1 or len(pad.shape) != 4 or 1 not in pad.constants:
            continue
        reader, amounts = operations[readers[0]], pad.constants[1]
        convolves = reader.kind in ("CONV_2D", "DEPTHWISE_CONV_2D")
        if not convolves or _is_same(reader) or amounts[[0, 3]].any():
            continue
        top, bottom, left, right = amounts[1:3].reshape(-1).tolist()
        reader.inputs = pad.inputs
        above, below, before, after = reader.padding
        reader.padding = (above + top, below + bottom, before + left, after + right)
        gone.add(number)
    return [operation for k, operation in enumerate(operations) if k not in gone]


def _is_same(operation: Operation) -> bool:
    """Whether it pads as TensorFlow's "same" with a stride, without stated amounts."""
    strides = operation.options["strideH"], operation.options["strideW"]
    return operation.options["padding"] == 0 and strides != (1, 1)


def _padding(operation: Operation) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a convolution: its own and those of a PAD before it."""
    top, bottom, left, right = operation.padding
    if operation.options["padding"] != 0:
        return top, bottom, left, right
    height, width = (size - 1 for size in operation.filter.shape[1:3])
    before, beside = height // 2, width // 2
    return top + before, bottom + height - before, left + beside, right + width - beside


_READS_FIRST = ("within", "reduces", "ends")
_MAKES_FIRST = ("begins", "within", "reduces")
_ENDS = ("reduces", "ends")


def _role(operation: Operation) -> tuple[str, str]:
    """Where an operation stands in a part with channels first, and why in none.

    Returns:
      ``"begins"``: it makes channels first; ``"within"``; ``"ends"``: it makes channels
      last; ``"reduces"``: the last two, as what is left has a pixel; ``""``: none of these.
    """
    kind, shape = operation.kind, operation.shape
    if kind in WEIGHTED and not operation.filter.size:
        return "", "its weights are computed, not stored"
    if kind in WEIGHTED and operation.filter.dtype == np.uint8:
        return "", "its weights are not floats"
    if kind == "FULLY_CONNECTED":
        return "within", ""
    if kind == "CONV_2D":
        return _role_of_convolution(operation)
    if kind == "DEPTHWISE_CONV_2D":
        return _role_of_depthwise(operation)
    if kind == "DEPTH_TO_SPACE":
        return "ends", ""
    if len(shape) != 4:
        return "", "its input has not four dimensions"
    if kind in ("MEAN", "SUM"):
        return "reduces", ""
    if kind in ("ADD", "MUL"):
        return _role_of_sum(operation)
    if kind == "RESIZE_BILINEAR":
        is_large = min(shape[1:3]) > 1
        return ("within", "") if is_large else ("", "its input is one pixel wide")
    if kind in _UNARY:
        return "within", ""
    return "", "no operation for channels first"


def _role_of_sum(operation: Operation) -> tuple[str, str]:
    if any(len(shape) != 4 for shape in operation.shapes):
        return "", "an operand has not four dimensions"
    # XNNPACK looks at the first operand, whichever is the constant one.
    if operation.constants and np.count_nonzero(np.array(operation.shape) > 1) > 1:
        return "", "an operand is constant"
    if operation.kind == "ADD" and len({*operation.inputs}) < len(operation.inputs):
        return "", "a tensor is added to itself"
    return "within", ""


def _role_of_convolution(operation: Operation) -> tuple[str, str]:
    options, (height, width) = operation.options, operation.filter.shape[1:3]
    strides = options["strideH"], options["strideW"]
    dilations = options["dilationHFactor"], options["dilationWFactor"]
    if operation.shape[-1] != operation.filter.shape[-1]:
        return "", "groups"
    if dilations != (1, 1):
        return "", "dilation"
    if (height, width) == (1, 1):
        if strides != (1, 1):
            return "", f"1 x 1 with stride {strides[0]}"
        if any(_padding(operation)):
            return "", "1 x 1 with padding"
        return "within", ""
    if (height, width) != (3, 3):
        return "", f"{height} x {width}"
    if strides != (2, 2):
        return "", f"3 x 3 with stride {strides[0]}"
    if operation.filter.shape[-1] != 3:
        return "", f"3 x 3 with {operation.filter.shape[-1]} input channels"
    if _is_same(operation):
        return "", 'padding "same" with stride 2'
    if _padding(operation) != (1, 1, 1, 1):
        return "", "3 x 3 not padded by 1 on each side"
    return "begins", ""


def _role_of_depthwise(operation: Operation) -> tuple[str, str]:
    options, (height, width) = operation.options, operation.filter.shape[1:3]
    strides = options["strideH"], options["strideW"]
    if (options["dilationHFactor"], options["dilationWFactor"]) != (1, 1):
        return "", "dilation"
    if _is_same(operation):
        return "", f'padding "same" with stride {strides[0]}'
    if options["depthMultiplier"] != 1:
        return "", "a depth multiplier"
    if strides not in ((1, 1), (2, 2)):
        return "", f"strides {strides[0]} x {strides[1]}"
    if (height, width) not in ((3, 3), (5, 5)):
        return "", f"depthwise {height} x {width}"
    if _padding(operation) != (height // 2,) * 4:
        return "", f"depthwise, not padded by {height // 2} on each side"
    return "within", ""


def _decided(operations: Sequence[Operation], external: set[int]) -> Iterator[Verdict]:
    """Finds the parts of a network and what is against each."""
    roles = [_role(operation) for operation in operations]
    makers = {
        tensor: k
        for k, operation in enumerate(operations)
        for tensor in operation.outputs
    }
    consumers = _consumers(operations)
    parts = _parts(operations, roles, makers)
    against: dict[int, str] = {}
    ended: set[int] = set()
    zeros: collections.Counter[int] = collections.Counter()
    sizes: collections.Counter[int] = collections.Counter()
    turned: dict[int, list[int]] = collections.defaultdict(list)
    for k, (operation, (role, _)) in enumerate(zip(operations, roles, strict=True)):
        part = parts[k]
        if role in _ENDS:
            ended.add(part)
        if operation.is_pointwise and role == "within":
            zeros[part] += operation.zeros
            sizes[part] += operation.filter.size
        if role not in _READS_FIRST:
            continue
        for tensor in operation.inputs:
            turned[part].append(tensor)
            if why := _against(tensor, operations, roles, makers, consumers, external):
                against.setdefault(part, why)
    sparse_tensors = set()
    for part, tensors in turned.items():
        if part not in against and part not in ended:
            against[part] = "no mean or DEPTH_TO_SPACE ends its part"
        if part not in against and 3 * zeros[part] <= 2 * sizes[part]:
            against[part] = (
                f"{zeros[part]:,} of {sizes[part]:,} entries of its part are zero: "
                "more than two thirds are asked for"
            )
        if part not in against:
            sparse_tensors |= {*tensors}
    for k, (operation, (role, why)) in enumerate(zip(operations, roles, strict=True)):
        if not operation.filter.size:
            continue
        is_turned = operation.outputs[0] in sparse_tensors
        is_sparse = is_turned and operation.is_pointwise
        if is_sparse:
            why = "channels first"
        elif is_turned:
            why = "channels first, but no sparse kernels for it"
        elif role and parts[k] in against:
            why = against[parts[k]]
        elif role:
            why = "what reads it has not channels first"
        yield Verdict(
            operation.layer,
            operation.kind,
            operation.zeros,
            operation.filter.size,
            is_sparse,
            why,
        )


def _parts(
    operations: Sequence[Operation],
    roles: Sequence[tuple[str, str]],
    makers: dict[int, int],
) -> list[int]:
    """For each operation the number of its part: what can have channels first together."""
    leader = list(range(len(operations)))

    def part(k: int) -> int:
        while leader[k] != k:
            k = leader[k]
        return k

    for k, operation in enumerate(operations):
        if roles[k][0] not in _READS_FIRST:
            continue
        for tensor in operation.inputs:
            maker = makers.get(tensor)
            if maker is not None and roles[maker][0] in _MAKES_FIRST:
                leader[part(maker)] = part(k)
    return [part(k) for k in range(len(operations))]


def _against(
    tensor: int,
    operations: Sequence[Operation],
    roles: Sequence[tuple[str, str]],
    makers: dict[int, int],
    consumers: dict[int, list[int]],
    external: set[int],
) -> str:
    """Why a tensor that a part reads cannot have channels first; empty if it can."""
    if tensor not in makers:
        return "its part would begin with an input of the model"
    maker = makers[tensor]
    role, why = roles[maker]
    if role not in _MAKES_FIRST:
        return (
            f"its part would begin after {_named(operations[maker])} "
            f"({why or 'which ends one'})"
        )
    if tensor in external:
        return f"{_named(operations[maker])} in its part is an output of the model"
    is_flat = (
        operations[maker].kind == "FULLY_CONNECTED" and len(operations[maker].shape) < 3
    )
    if is_flat:
        return (
            f"XNNPACK fails on {_named(operations[maker])} with channels first, as it has "
            "less than three dimensions"
        )
    for reader in consumers[tensor]:
        role, why = roles[reader]
        if role not in _READS_FIRST:
            why = why or "which begins another"
            return f"its part is also read by {_named(operations[reader])} ({why})"
    return ""


def _named(operation: Operation) -> str:
    return f"{operation.layer}, {operation.kind}"
