"""What all tests share: two virtual CPUs, real images, a clean Keras state."""

import gc
import os
import resource

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import pytest
import tensorflow as tf

# Before TensorFlow starts: two devices, so that strategies have something to mirror on.
_CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    _CPU, [tf.config.LogicalDeviceConfiguration()] * 2
)


# What the imports have made stays; a collection need not walk through it each time, nor
# as often as Python thinks for a program that makes few objects.
gc.collect()
gc.freeze()
gc.set_threshold(100_000, 20, 100)
_LARGE = 2 * 2**30
"""Bytes of a process from which on memory is freed between the files of tests."""


@pytest.fixture(autouse=True, scope="module")
def _free_memory():
    # To free memory walks through all objects there are: seconds, late in the suite.
    keras.utils.clear_session(free_memory=_resident_bytes() > _LARGE)


def _resident_bytes():
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:  # not on Linux
        return _LARGE + 1


@pytest.fixture(autouse=True)
def _clean_keras():
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    yield
    keras.mixed_precision.set_global_policy("float32")


@pytest.fixture(scope="session")
def digits():
    """256 real 8x8 digits and their labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images[:256] / 16).astype("float32").reshape(-1, 8, 8, 1), labels[:256]
