# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A Transformer on text
#
# A small causal Transformer learns the bytes of Python's own standard library, dense and at
# 80 % sparsity. Attention's projections (EinsumDense within `MultiHeadAttention`) and the
# feed-forward layers become sparse; embeddings and norms stay dense. No download, about two
# minutes on two cores.

# %%
import pathlib
import sysconfig

import keras
import numpy as np

from topkast_tf import MaskDynamics, summary, topkast_scope

library = pathlib.Path(sysconfig.get_path("stdlib"))
text = b"".join(path.read_bytes() for path in sorted(library.glob("*.py"))[:60])
text = np.frombuffer(text, np.uint8).astype("int32")
LENGTH, WIDTH, BATCH, STEPS = 64, 128, 16, 300
print(f"{len(text):,} bytes")


def batches(part, seed):
    random = np.random.default_rng(seed)
    while True:
        starts = random.integers(0, len(part) - LENGTH - 1, BATCH)
        rows = part[starts[:, None] + np.arange(LENGTH + 1)]
        yield rows[:, :-1], rows[:, 1:]


held_out = len(text) // 10


# %%
class Positions(keras.layers.Layer):
    """Adds a trained vector for each position."""

    def build(self, shape):
        self.vectors = self.add_weight(shape=(LENGTH, shape[-1]), name="vectors")

    def call(self, x):
        return x + self.vectors


def build():
    keras.utils.set_random_seed(0)
    tokens = keras.Input((LENGTH,), dtype="int32")
    x = Positions()(keras.layers.Embedding(256, WIDTH)(tokens))
    for _ in range(2):
        normed = keras.layers.LayerNormalization()(x)
        attention = keras.layers.MultiHeadAttention(4, WIDTH // 4)
        x = x + attention(normed, normed, use_causal_mask=True)
        hidden = keras.layers.LayerNormalization()(x)
        hidden = keras.layers.Dense(4 * WIDTH, "relu")(hidden)
        x = x + keras.layers.Dense(WIDTH)(hidden)
    return keras.Model(tokens, keras.layers.Dense(256)(x))


def fit(model, callbacks=()):
    model.compile(
        keras.optimizers.Adam(2e-3, clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(
        batches(text[:-held_out], 1),
        steps_per_epoch=STEPS,
        epochs=1,
        callbacks=list(callbacks),
        verbose=0,
    )
    loss = model.evaluate(batches(text[-held_out:], 2), steps=40, verbose=0)
    return loss - sum(map(float, model.losses))


# %% [markdown]
# The exploration loss is the weight decay of sparse kernels. Keras adds it to the loss of
# `evaluate`, so `fit` above takes it off. Bits a byte are the loss over ln 2. So few steps
# say how it is done, not which is better.

# %%
dense = build()
print(f"dense  {fit(dense) / np.log(2):.2f} bits a byte")

dynamics = MaskDynamics(every=25, csv="mask_dynamics.csv")
# The name of the positions is a matrix, too, but a table: it stays dense.
with topkast_scope(fwd=0.8, bwd=0.6, exempt=("last", "vectors"), refresh_every=10):
    sparse = build()
print(f"sparse {fit(sparse, [dynamics]) / np.log(2):.2f} bits a byte")

# %%
print(summary(sparse))

# %% [markdown]
# ## How much the sets move
#
# Churn is the share of the forward set that has left it since the measurement before.

# %%
import csv

import matplotlib.pyplot as plt

with open("mask_dynamics.csv", newline="") as file:
    rows = [row for row in csv.DictReader(file) if row["weight"] == "(all)"]
figure, axes = plt.subplots(figsize=(6, 3))
axes.plot(
    [int(row["step"]) for row in rows],
    [100 * float(row["churn"] or "nan") for row in rows],
    "o-",
)
axes.set_xlabel("optimizer step")
axes.set_ylabel("churn of A (%)")
plt.show()
