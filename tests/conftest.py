"""What all tests share: two virtual CPUs, real images, a clean Keras state."""

import gc
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import pytest
import tensorflow as tf

# Before TensorFlow starts: two devices, so that strategies have something to mirror on.
_CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    _CPU, [tf.config.LogicalDeviceConfiguration()] * 2
)


_SLOW = pathlib.Path(__file__).with_name("slow_tests.txt")


def slow_tests() -> set[str]:
    """The ids of tests that are marked slow for their time alone."""
    lines = _SLOW.read_text("utf-8").splitlines()
    return {line for line in lines if not line.startswith("#")}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    slow = slow_tests()
    for item in items:
        if item.nodeid in slow:
            item.add_marker(pytest.mark.slow)


# Many objects are made: fewer collections than by Python's default.
gc.set_threshold(100_000, 20, 100)


@pytest.fixture(autouse=True, scope="module")
def _free_memory():
    # Survivors are global. Once frozen, later collections skip them; otherwise
    # collections take a seventh of the time of all tests.
    gc.collect()
    gc.freeze()


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
