"""The former module of `topkast_tf.count_flops`; kept for one release."""

import warnings

from topkast_tf.analysis.flops import FlopCount, FlopReport, FlopRow, count_flops
from topkast_tf.analysis.macs import MacCount, count_macs

__all__ = [
    "FlopCount",
    "FlopReport",
    "FlopRow",
    "MacCount",
    "count_flops",
    "count_macs",
]

warnings.warn(
    "`topkast_tf.accounting` is now `topkast_tf.analysis`; `count_flops` is also "
    "`topkast_tf.count_flops`",
    DeprecationWarning,
    stacklevel=2,
)
