"""Whether a graph is traced to count its products, and not to be run."""

import contextlib
import contextvars

from topkast_tf.core.context_values import holding

_counting = contextvars.ContextVar("counting", default=False)


def counting() -> contextlib.AbstractContextManager[None]:
    """Within it, layers compute their own product alone, by TensorFlow's operations.

    Neither native kernels nor the search of a rule are in the graph.
    """
    return holding(_counting, True)


def is_counting() -> bool:
    """Whether a graph is traced to count its products."""
    return _counting.get()
