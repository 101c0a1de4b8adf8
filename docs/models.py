"""Checks third-party models, and writes docs/models.md.

    python docs/models.py                # all that are missing in docs/models.csv
    python docs/models.py MobileNetV2 Bert

Each model is built in `topkast_scope(fwd=0.9, bwd=0.8, refresh_every=2)` from random
weights, at its smallest images, and must pass: exact sets, two steps of `fit` that keep
C bitwise, save and load, strip, and loading the weights of its dense twin. Each model
is checked in its own process, and is a row of the CSV file once that has ended.
"""

import csv
import inspect
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
if __name__ == "__main__":
    # Run as a file, Python looks for modules in docs/ and not in the project.
    sys.path[0] = str(HERE.parent)
TABLE, PAGE = HERE / "models.csv", HERE / "models.md"
COLUMNS = (
    "model",
    "of",
    "parameters",
    "sparsified",
    "kept",
    "left_dense",
    "sets",
    "fit",
    "save_and_load",
    "strip",
    "from_dense",
    "seconds",
)
CHECKS = ("sets", "fit", "save_and_load", "strip", "from_dense")
CLASSES = 10
# Images as small as the network allows; 32 pixels by default.
PIXELS = {
    "InceptionV3": 75,
    "InceptionResNetV2": 75,
    "Xception": 71,
}
_TEXT = {"vocabulary_size": 50, "num_layers": 2, "hidden_dim": 32}
_ENCODER = {**_TEXT, "num_heads": 2, "intermediate_dim": 64}
_DECODER = {
    **_TEXT,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_dim": 64,
}
HUB: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            "Bert",
            "Roberta",
            "DistilBert",
            "GPT2",
            "GPTNeoX",
            "OPT",
            "Bloom",
            "T5",
            "Bart",
            "XLNet",
        ),
        _ENCODER,
    ),
    **dict.fromkeys(("Llama", "Mistral", "Phi3", "Qwen"), _DECODER),
    "Albert": {**_ENCODER, "embedding_dim": 16},
    "DebertaV3": {**_ENCODER, "bucket_size": 8},
    "Electra": {
        "vocab_size": 50,
        "embedding_dim": 16,
        **{name: _ENCODER[name] for name in _ENCODER if name != "vocabulary_size"},
    },
    "FNet": {**_TEXT, "intermediate_dim": 64},
    "Falcon": {**_TEXT, "num_attention_heads": 2, "intermediate_dim": 64},
    "Gemma": {**_DECODER, "head_dim": 8},
    "Mixtral": {**_DECODER, "num_experts": 4},
    "QwenMoe": {
        **_DECODER,
        "num_experts": 4,
        "moe_intermediate_dim": 32,
        "shared_expert_intermediate_dim": 32,
        "top_k": 2,
    },
    "Whisper": {
        **_ENCODER,
        "num_mels": 8,
        "max_encoder_sequence_length": 16,
        "max_decoder_sequence_length": 16,
    },
    "ViT": {
        "image_shape": (32, 32, 3),
        "patch_size": 8,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 32,
        "mlp_dim": 64,
    },
    "SwinTransformer": {
        "image_shape": (32, 32, 3),
        "embed_dim": 16,
        "depths": (1, 1),
        "num_heads": (2, 2),
        "window_size": 4,
        "patch_size": 4,
    },
}
"""Backbones of keras_hub, and a small configuration of each."""


HEAD = """\
# Third-party models

Written by `python docs/models.py`; its docstring lists the checks. TensorFlow 2.21,
Keras 3.15, random weights, images of 32 to 75 pixels, small configurations of
keras_hub's backbones. `pytest -m slow tests/test_models_of_others.py` runs the same
checks. The seconds are for all checks of a model together, measured on 2 shared cores
with other work on them.
"""


def applications() -> list[str]:
    """The networks of keras.applications by the names of their functions."""
    import keras

    found = vars(keras.applications)
    return [
        name
        for name in sorted(found)
        if name[0].isupper() and inspect.isfunction(found[name])
    ]


def build(name: str) -> Any:
    """A classifier of `CLASSES` classes on one of the models, not compiled."""
    import keras

    if name not in HUB:
        pixels = PIXELS.get(name, 32)
        return getattr(keras.applications, name)(
            input_shape=(pixels, pixels, 3),
            weights=None,
            classes=CLASSES,
            classifier_activation=None,
        )
    import keras_hub

    backbone = getattr(keras_hub.models, f"{name}Backbone")(**HUB[name])
    outputs = backbone(backbone.input)
    if isinstance(outputs, dict):
        outputs = max(outputs.values(), key=lambda each: len(each.shape))
    while len(outputs.shape) > 2:
        outputs = keras.ops.mean(outputs, axis=1)
    return keras.Model(backbone.input, keras.layers.Dense(CLASSES)(outputs))


def batch(model: Any, count: int = 2) -> tuple[Any, Any]:
    """Random inputs that fit a model, and labels."""
    import keras
    import numpy as np

    rng = np.random.default_rng(0)

    def values(tensor):
        shape = (count, *(16 if size is None else size for size in tensor.shape[1:]))
        if "mask" in tensor.name:
            return np.ones(shape, np.int32)
        if "int" in tensor.dtype:
            return rng.integers(0, 2 if "segment" in tensor.name else 50, shape)
        return rng.random(shape, np.float32)

    return keras.tree.map_structure(values, model.input), np.arange(count) % CLASSES


def expect(holds: Any, what: str) -> None:
    """Raises a ValueError unless a condition holds."""
    if not holds:
        raise ValueError(f"Expected {what}")


def check(name: str) -> dict[str, Any]:
    """Checks one model.

    Returns:
      A row of the table: for each check ``"yes"``, or the error.
    """
    import keras
    import numpy as np

    import topkast_tf as tk

    start = time.monotonic()

    def scoped():
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        # Both steps use the initial sets.
        with tk.topkast_scope(fwd=0.9, bwd=0.8, refresh_every=2):
            return build(name)

    model = scoped()
    x, y = batch(model)
    weights = tk.sparse_weights(model)
    found = tk.summary(model)
    row: dict[str, Any] = {
        "model": name,
        "of": "keras_hub" if name in HUB else "keras.applications",
        "parameters": found.dense_parameters,
        "sparsified": len(weights),
        "kept": found.kept_parameters,
        "left_dense": len(found.left_dense),
    }

    def sets():
        for weight in weights:
            a, b = weight.forward_mask(), weight.backward_mask()
            expect(
                a.sum() == weight.kept_forward, f"{weight.path}: the exact size of A"
            )
            expect(
                b.sum() == weight.kept_backward, f"{weight.path}: the exact size of B"
            )
            expect(not np.any(a & ~b), f"{weight.path}: A within B")
            magnitudes = np.abs(weight.dense())
            in_order = magnitudes[a].min() >= magnitudes[~a].max(initial=0)
            expect(in_order, f"{weight.path}: the largest magnitudes in A")

    def fit():
        before = [(w.dense(), w.backward_mask()) for w in weights]
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), loss, jit_compile=False)
        history = model.fit(x, y, batch_size=1, epochs=1, verbose=0)
        expect(np.isfinite(history.history["loss"][0]), "a finite loss")
        for weight, (theta, in_b) in zip(weights, before, strict=True):
            expect(weight.step == 2, f"{weight.path}: two steps")
            kept = np.array_equal(weight.dense()[~in_b], theta[~in_b])
            expect(kept, f"{weight.path}: C unchanged bitwise")

    def save_and_load():
        with tempfile.TemporaryDirectory() as folder:
            model.save(f"{folder}/model.keras")
            loaded = keras.models.load_model(f"{folder}/model.keras")
        np.testing.assert_array_equal(
            loaded.predict(x, verbose=0), model.predict(x, verbose=0)
        )
        for one, other in zip(weights, tk.sparse_weights(loaded), strict=True):
            np.testing.assert_array_equal(one.codes(), other.codes())

    def strip():
        plain = tk.strip(model)
        np.testing.assert_allclose(
            plain.predict(x, verbose=0),
            model.predict(x, verbose=0),
            rtol=1e-3,
            atol=1e-4,
        )

    def from_dense():
        keras.utils.clear_session()
        keras.utils.set_random_seed(1)
        dense = build(name)
        model.set_weights(dense.get_weights())
        thetas = {id(w.variable): w for w in weights}
        for source, target in zip(dense.weights, model.weights, strict=True):
            np.testing.assert_array_equal(source, target)
            if id(target.value) in thetas:
                expect(thetas[id(target.value)].step == 0, "step 0")
        sets()

    for one in (sets, fit, save_and_load, strip, from_dense):
        try:
            one()
            row[one.__name__] = "yes"
        except Exception as error:  # every error is a row of the table
            row[one.__name__] = f"{type(error).__name__}: {error}".split("\n")[0][:160]
    row["seconds"] = round(time.monotonic() - start)
    return row


def rows() -> list[dict[str, str]]:
    """The rows of the table."""
    if not TABLE.is_file():
        return []
    with open(TABLE, newline="") as file:
        return list(csv.DictReader(file))


def page(table: list[dict[str, str]]) -> str:
    """The page as text."""
    checks = " | ".join(name.replace("_", " ") for name in CHECKS)
    lines = [
        HEAD,
        f"| model | parameters | kept | kernels | left dense | {checks} | s |",
        "|---" * (6 + len(CHECKS)) + "|",
    ]
    for row in sorted(table, key=lambda each: (each["of"], each["model"])):
        cells = [
            f"{row['of']} {row['model']}",
            f"{int(row['parameters']):,}",
            f"{int(row['kept']):,}",
            row["sparsified"],
            row["left_dense"],
            *(row[name] for name in CHECKS),
            row["seconds"],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(names: list[str]) -> None:
    """Checks the named models, or all models that the table lacks."""
    done = {row["model"] for row in rows()}
    if len(names) == 2 and names[0] == "--one":
        writer = csv.DictWriter(sys.stdout, COLUMNS)
        writer.writerow(check(names[1]))
        return
    missing = names or [n for n in (*HUB, *applications()) if n not in done]
    for number, name in enumerate(missing, 1):
        print(f"{number} of {len(missing)}: {name}", file=sys.stderr, flush=True)
        ended = subprocess.run(
            [sys.executable, __file__, "--one", name], capture_output=True, text=True
        )
        if ended.returncode:
            print(ended.stderr[-2000:], file=sys.stderr)
            continue
        [row] = csv.DictReader(ended.stdout.splitlines()[-1:], COLUMNS)
        table = [each for each in rows() if each["model"] != name] + [row]
        with open(TABLE, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(table)
        PAGE.write_text(page(table), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
