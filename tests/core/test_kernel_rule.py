"""Which weights are kernels: by the layer that makes them, or by name and shape."""

import pathlib
import re

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import topkast_tf as tk
from tests.small_models import scope
from topkast_tf.core import kernel_rule
from topkast_tf.core.kernel_rule import why_not_kernel
from topkast_tf.core.sparsities import kept

DECODER = {
    "vocabulary_size": 30,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 24,
}


def names(table):
    """{the last two parts of each sparsified weight's path}"""
    return {"/".join(row.path.split("/")[-2:]) for row in table.rows}


def dense(table):
    """{the last part of the path: why} of the weights that are left dense."""
    return {path.split("/")[-1]: why for path, _, why in table.left_dense}


# By name and shape.


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("kernel", (8, 1)),
        ("depthwise_kernel", (3, 3, 8, 1)),
        ("w", (1, 8)),
        ("model/linear/w:0", (8, 4)),
        ("DW", (1, 1, 8, 4)),
        ("gate_proj", (4, 8, 16)),
        ("token_mixing", (8, 8)),
        ("query", (8, 8)),
    ],
)
def test_kernels_by_name_and_shape(name, shape):
    assert why_not_kernel(name, shape) is None


@pytest.mark.parametrize(
    ("name", "shape", "why"),
    [
        ("class_token", (1, 1, 8), "its name has the word 'token'"),
        ("cls_tokens", (4, 8), "its name has the word 'tokens'"),
        ("pos_embed", (1, 16, 8), "its name has the word 'embed'"),
        ("queries", (10, 8), "its name has the word 'queries'"),
        ("positional_encoding", (16, 8), "its name has the word 'encoding'"),
        ("bias_table", (16, 8), "its name has the word 'bias'"),
        ("gain", (1, 8), r"its shape \(1, 8\) has an axis of 1"),
        ("layer_gain", (8, 1, 1), "has an axis of 1"),
        ("positions_2d", (1, 4, 4, 8), "has an axis of 1"),
    ],
)
def test_non_kernels_by_name_and_shape(name, shape, why):
    with pytest.raises(AssertionError, match=why):
        assert why_not_kernel(name, shape) is None, why_not_kernel(name, shape)


# By layer.


def test_layers_are_recognised_by_class_not_by_name():
    class Scaled(layers.Dense):
        def build(self, shape):
            super().build(shape)
            self.gain = self.add_weight(name="gain", shape=(1, self.units))

    class Embedding(layers.Layer):  # not that of Keras
        def build(self, shape):
            self.table = self.add_weight(name="projection", shape=(shape[-1], 4))

    with scope():
        model = keras.Sequential([keras.Input((20,)), Scaled(5)])
        other = Embedding()
        other.build((None, 20))
    table = tk.summary(model)
    assert names(table) == {"scaled/kernel"}
    assert "axis of 1" in dense(table)["gain"]
    assert len(tk.summary(other).rows) == 1


@pytest.mark.parametrize(
    ("make", "shape", "kernels"),
    [
        (lambda: layers.Dense(1), (8,), {"kernel": (8, 1)}),
        (lambda: layers.Dense(6), (1,), {"kernel": (1, 6)}),
        (lambda: layers.DepthwiseConv2D(3), (8, 8, 4), {"kernel": (3, 3, 4, 1)}),
        (
            lambda: layers.SeparableConv1D(6, 3),
            (8, 4),
            {"depthwise_kernel": (3, 4, 1), "pointwise_kernel": (1, 4, 6)},
        ),
        (lambda: layers.Conv1D(6, 1), (8, 4), {"kernel": (1, 4, 6)}),
        (
            lambda: layers.GRU(1),
            (8, 4),
            {"kernel": (4, 3), "recurrent_kernel": (1, 3)},
        ),
        (lambda: layers.EinsumDense("abc,cd->abd", (5, 1)), (5, 4), {"kernel": (4, 1)}),
        (
            lambda: layers.ConvLSTM1D(2, 3),
            (4, 8, 1),
            {"kernel": (3, 1, 8), "recurrent_kernel": (3, 2, 8)},
        ),
    ],
)
def test_keras_kernels_with_axes_of_size_1(make, shape, kernels):
    with scope(fwd=0.5, bwd=0.5):
        model = keras.Sequential([keras.Input(shape), make()])
    found = {w.path.split("/")[-1]: w.shape for w in tk.sparse_weights(model)}
    assert found == kernels


def test_tables_name_existing_classes():
    import tf_keras

    made = _subclasses(keras.layers.Layer) | _subclasses(tf_keras.layers.Layer)
    packages = ("keras", "keras_hub", "tf_keras")
    theirs = {c.__name__ for c in made if c.__module__.split(".")[0] in packages}
    assert {*kernel_rule._KERNELS, *kernel_rule._OTHERS} <= theirs


def _subclasses(cls):
    return {cls, *(s for sub in cls.__subclasses__() for s in _subclasses(sub))}


# Variables without a layer.


def test_variables_of_a_module():
    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.w = tf.Variable(np.ones((8, 4), "float32"), name="w")
            self.class_token = tf.Variable(
                np.ones((1, 8), "float32"), name="class_token"
            )

    with scope():
        module = Module()
    assert [w.shape for w in tk.sparse_weights(module)] == [(8, 4)]


# Untied output projections.


class LanguageModel(keras.Model):
    """Embedding, Dense, and the embedding in reverse."""

    def __init__(self, untied=True, head=True):
        super().__init__()
        self.embedding = layers.ReversibleEmbedding(30, 8, tie_weights=not untied)
        self.inner = layers.Dense(8)
        self.outer = layers.Dense(8)
        self.head = head

    def call(self, tokens):
        x = self.outer(self.inner(self.embedding(tokens)))
        return self.embedding(x, reverse=True) if self.head else x


def language_model(symbolic=True, **arguments):
    model = LanguageModel(**arguments)
    model(keras.Input((5,), dtype="int32") if symbolic else np.zeros((1, 5), "int32"))
    return model


HEAD = "reversible_embedding/reverse_embeddings"


def test_an_untied_output_projection_is_sparse():
    with scope():
        model = language_model()
    table = tk.summary(model)
    assert names(table) == {"dense/kernel", "dense_1/kernel", HEAD}
    assert dense(table) == {
        "embeddings": "not a matmul or convolution kernel (Embedding looks up its rows)"
    }
    [head] = [w for w in tk.sparse_weights(model) if HEAD in w.path]
    assert head.shape == (8, 30) and head.forward_mask().sum() == 24
    x = np.random.default_rng(0).normal(size=(3, 8)).astype("float32")
    np.testing.assert_allclose(
        model.embedding(x, reverse=True), x @ head.effective(), rtol=1e-5, atol=1e-6
    )


def test_a_tied_output_projection_is_dense():
    with scope():
        model = language_model(untied=False)
    assert names(tk.summary(model)) == {"dense/kernel", "dense_1/kernel"}


def test_output_projection_blocks_span_inputs_and_outputs():
    with scope(block=(8, 1), fwd=0.5, bwd=0.5):
        model = language_model()
    [head] = [w for w in tk.sparse_weights(model) if HEAD in w.path]
    columns = head.forward_mask().sum(axis=0)  # whole outputs: columns of (dim, tokens)
    assert sorted(set(columns.tolist())) == [0, 8] and (columns == 8).sum() == 15


@pytest.mark.parametrize("symbolic", [True, False])
def test_first_and_last_order_output_projections_by_use(symbolic):
    with scope(exempt=("first", "last")):
        model = language_model(symbolic)
    table = tk.summary(model)
    assert names(table) == {"dense_1/kernel"}
    assert dense(table)["reverse_embeddings"] == "`exempt` names the last"


def test_unused_output_projection_is_not_the_last():
    with scope(exempt="last"):
        model = language_model(head=False)
    assert names(tk.summary(model)) == {"dense/kernel", HEAD}
    with scope(exempt="last"):
        body = language_model(head=False)
        logits = body.embedding(body(np.zeros((1, 5), "int32")), reverse=True)
    assert dense(tk.summary(body))["reverse_embeddings"] == "`exempt` names the last"
    assert logits.shape == (1, 5, 30)


# Models of keras_hub, from small configurations.


def test_vit():
    def build(**arguments):
        with scope(**arguments):
            return tk.summary(
                keras_hub.models.ViTBackbone(
                    image_shape=(16, 16, 3),
                    patch_size=4,
                    num_layers=1,
                    num_heads=2,
                    hidden_dim=8,
                    mlp_dim=16,
                )
            )

    table = build()
    assert names(table) == {
        "patch_embedding/kernel",
        *(f"{n}/kernel" for n in ("query", "key", "value", "attention_output")),
        "dense_1/kernel",
        "dense_2/kernel",
    }
    assert "'token'" in dense(table)["class_token"]
    assert "looks up its rows" in dense(table)["embeddings"]
    table = build(exempt="first")
    assert "patch_embedding/kernel" not in names(table)
    assert dense(table)["kernel"] == "`exempt` names the first"


def test_llama():
    def build(**arguments):
        with scope(**arguments):
            backbone = keras_hub.models.LlamaBackbone(**DECODER)
            model = keras_hub.models.LlamaCausalLM(backbone, preprocessor=None)
        return tk.summary(model)

    table = build()
    head = "token_embedding/reverse_embeddings"
    assert names(table) == {
        head,
        *(f"{n}/kernel" for n in ("query", "key", "value", "attention_output")),
        *(f"feedforward_{n}_dense/kernel" for n in ("intermediate", "gate", "output")),
    }
    assert set(dense(table)) == {"embeddings"}
    table = build(exempt=("first", "last"))
    exempt = {why: path for path, _, why in table.left_dense}
    assert "layer_0/self_attention/query" in exempt["`exempt` names the first"]
    assert exempt["`exempt` names the last"] == head


def test_t5():
    with scope():
        model = keras_hub.models.T5Backbone(
            vocabulary_size=30,
            num_layers=1,
            num_heads=2,
            hidden_dim=8,
            intermediate_dim=16,
        )
    table = tk.summary(model)
    attention = ("query", "key", "value", "output")
    assert names(table) == {
        *(f"{n}_projector/kernel" for n in (*attention, "input", "gate"))
    }
    # Of tokens, and of the relative positions of the encoder and of the decoder.
    paths = sorted(path for path, _, _ in table.left_dense)
    assert paths == ["self_attention/embeddings"] * 2 + ["token_embedding/embeddings"]


@pytest.mark.parametrize("name", ["Mixtral", "QwenMoe", "GptOss"])
def test_mixture_of_experts(name):
    arguments = {
        "Mixtral": {"num_experts": 4, "top_k": 2},
        "GptOss": {"num_experts": 4, "top_k": 2},
        "QwenMoe": {
            "num_experts": 4,
            "top_k": 2,
            "moe_intermediate_dim": 24,
            "shared_expert_intermediate_dim": 24,
        },
    }[name]
    with scope():
        cls = getattr(keras_hub.models, f"{name}Backbone")
        model = cls(**{**DECODER, "num_layers": 1, **arguments})
    table = tk.summary(model)
    of_experts = [w for w in tk.sparse_weights(model) if len(w.shape) == 3]
    of_experts = [w for w in of_experts if "/experts/" in w.path]
    assert {w.shape[0] for w in of_experts} == {4} and len(of_experts) >= 2
    for weight in of_experts:
        assert weight.forward_mask().sum() == kept(weight.effective().size, 0.9)
    assert "token_embedding/reverse_embeddings" in names(table)
    assert all("bias" in n or n == "embeddings" for n in dense(table))


# The documentation.


def test_all_name_words_are_documented():
    page = pathlib.Path(__file__).parents[2] / "docs" / "what_is_sparsified.md"
    documented = {*re.findall(r"`(\w+)`", page.read_text(encoding="utf-8"))}
    plurals = {f"{word}s" for word in documented}
    words = (
        kernel_rule._WORDS_OF_OTHERS,
        kernel_rule._LAST_WORDS_OF_OTHERS,
        kernel_rule._LAST_WORDS_OF_KERNELS,
    )
    assert frozenset.union(*words) <= documented | plurals
