"""``python -m topkast_tf.kernels``: builds the native kernels and reports on them."""

import sys
import time

from topkast_tf.kernels import build
from topkast_tf.kernels.library import CPU_VARIABLE, CPUS, Unavailable, library


def main() -> int:
    """Prints where the kernels are and what the machine runs; 1 if there are none."""
    start = time.monotonic()
    try:
        native = library()
        path = build.built()
    except Unavailable as error:
        print(f"No native kernels: {error}. Sparse layers use the masked product.")
        return 1
    print(f"library: {path} (ready in {time.monotonic() - start:.1f} s)")
    runs = ", ".join(filter(native.runs, CPUS))
    print(f"this machine runs: {runs}")
    print(f"in use: {native.cpu} ({CPU_VARIABLE} selects another)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
