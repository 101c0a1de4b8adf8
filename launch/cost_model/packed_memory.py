"""Memory of packed weights whose products the native kernels compute (docs/packed.md)."""

from launch.cost_model.parameters import CONVOLUTIONS, MATRICES, Parameter
from topkast_tf.analysis import storage


def is_native(parameter: Parameter) -> bool:
    """Whether a weight is packed and has native products, if its run has such kernels."""
    return parameter.is_sparse and parameter.kind in (MATRICES, CONVOLUTIONS)


def plan_bytes(parameter: Parameter) -> int:
    """Bytes of the plans of a packed weight, see `topkast_tf.analysis.storage.plan_bytes`.

    >>> plan_bytes(Parameter("a", MATRICES, 10000, 1000, 2000, True, matrix=(100, 100)))
    12800
    """
    return storage.plan_bytes(parameter.forward, parameter.backward, parameter.matrix)
