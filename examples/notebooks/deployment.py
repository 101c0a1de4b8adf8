# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Serving a sparse model
#
# Two wide Dense layers at 90 %, served in four ways. Where a C++ compiler is there, the
# native model holds the remaining entries alone and leaves the zeros out. Building the
# kernels takes some minutes once; `python -m topkast_tf.kernels` does it ahead.

# %%
import pathlib
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from topkast_tf import export_litert, strip, topkast_scope

tf.get_logger().setLevel("ERROR")  # each export logs where it has written
WIDTH = 2048
keras.utils.set_random_seed(0)
with topkast_scope(0.9, 0.8, exempt=("last",)):
    model = keras.Sequential(
        [
            keras.Input((WIDTH,)),
            keras.layers.Dense(WIDTH, "relu"),
            keras.layers.Dense(WIDTH, "relu"),
            keras.layers.Dense(10),
        ]
    )
# It would be trained here; what it computes does not matter for its size and speed.
x = np.random.default_rng(0).normal(size=(32, WIDTH)).astype("float32")
expected = model(x).numpy()

# %% [markdown]
# ## Four files
#
# A plain model multiplies by its zeros, wherever it runs. The native one needs
# TensorFlow and the library of operations. LiteRT needs neither; its file is sparse.

# %%
folder = pathlib.Path(tempfile.mkdtemp())
plain, native = strip(model), strip(model, kernels="native")
plain.export(folder / "plain", verbose=False)
native.export(folder / "native", verbose=False)
plain.save(folder / "plain.keras")
native.save(folder / "native.keras")
export_litert(model, folder / "sparse.tflite")


def size(path):
    files = [path] if path.is_file() else path.rglob("*")
    return sum(each.stat().st_size for each in files if each.is_file())


for path in sorted(folder.iterdir()):
    print(f"{path.name:14}{size(path) / 1e6:8.2f} MB")

# %% [markdown]
# ## Time
#
# Calls in turns, so that a busy machine slows all of them; compare the columns.


# %%
def served(path):
    loaded = tf.saved_model.load(path)
    return lambda: loaded.serve(x).numpy()


def median_ms(calls, rounds=30):
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begun)
    return {name: 1e3 * np.median(each[3:]) for name, each in times.items()}


calls = {name: served(folder / name) for name in ("plain", "native")}
for name, call in calls.items():
    print(f"{name:8} largest difference {np.abs(call() - expected).max():.1e}")
found = median_ms(calls)
for name, milliseconds in found.items():
    print(f"{name:8}{milliseconds:8.2f} ms, {found['plain'] / milliseconds:.2f}x")

# %% [markdown]
# [docs/deploy.md](../../docs/deploy.md) has LiteRT and ONNX Runtime beside them, other
# shapes and convolutions, and where serving sparse is slower.
