# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Sparse training in ten lines
#
# A small convolutional network learns handwritten digits, once dense and once sparse from
# the first step on. Nothing is downloaded. The whole page takes less than a minute on two
# cores.

# %%
import keras
import numpy as np
from sklearn.datasets import load_digits

from topkast_tf import sparse_weights, strip, summary, topkast_scope

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
order = np.random.default_rng(0).permutation(len(images))
train, test = order[:1400], order[1400:]


# %% [markdown]
# ## A model, as you would write it
#
# `build` knows nothing of sparsity.


# %%
def build():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(256, "relu"),
            keras.layers.Dense(10),
        ]
    )


def fit(model):
    model.compile(
        keras.optimizers.Adam(2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(images[train], labels[train], batch_size=64, epochs=12, verbose=0)
    return model.evaluate(images[test], labels[test], verbose=0)[1]


# %% [markdown]
# ## Dense, and at 90 % sparsity
#
# Inside the scope each kernel becomes sparse: a tenth of its entries is used (the forward
# set A), a fifth of them is trained (the backward set B). `exempt` leaves the first and the
# last layer dense, as is usual.

# %%
dense = build()
dense_accuracy = fit(dense)

with topkast_scope(fwd=0.9, bwd=0.8, exempt=("first", "last")):
    sparse = build()
sparse_accuracy = fit(sparse)

print(f"dense  {dense_accuracy:.3f}")
print(f"sparse {sparse_accuracy:.3f}")

# %% [markdown]
# `summary` says what is sparse, and gives the reason for each matrix that is not.

# %%
print(summary(sparse))

# %% [markdown]
# ## The sets of a kernel
#
# Blue entries are in A, amber ones in B alone: they are trained, and may replace entries of
# A at the next selection. Grey ones are left as they are until they enter B.

# %%
import matplotlib.pyplot as plt

kernel = sparse_weights(sparse)[0]  # of the second convolution: 3 x 3 x 32 x 64
sets = kernel.forward_mask().astype(int) + kernel.backward_mask()
colours = plt.matplotlib.colors.ListedColormap(["#d9d9d9", "#ffb000", "#005ab5"])
figure, axes = plt.subplots(figsize=(8, 3.2))
axes.imshow(np.reshape(sets, (-1, 64)).T, cmap=colours, aspect="auto")
axes.set_xlabel("input channel and position")
axes.set_ylabel("output channel")
plt.show()

# %% [markdown]
# ## A plain Keras model
#
# `strip` returns a model without this library, with the zeros in its kernels. It gives the
# same outputs and loads anywhere.

# %%
plain = strip(sparse)
difference = np.abs(plain(images[test]) - sparse(images[test])).max()
zeros = np.mean(plain.layers[1].kernel.numpy() == 0)
print(f"largest difference {difference:.1e}, zeros in the second kernel {zeros:.1%}")
