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
    code = "yes" if native.generates_code else "no: needs AVX-512 and pages of code"
    print(f"code generated for products: {code}")
    by = "vdpbf16ps" if native.multiplies_bfloat16 else "conversion to float32"
    print(f"bfloat16 in weight gradients: by {by}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
