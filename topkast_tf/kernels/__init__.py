"""Native kernels for the CPU: their build, their operations, and when they are used.

See `docs/kernels.md`. ``python -m topkast_tf.kernels`` builds them ahead and reports what
this machine offers.
"""
