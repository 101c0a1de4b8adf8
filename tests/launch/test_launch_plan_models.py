"""Plans compared with built models: weights, products and kept activations."""

import keras
import pytest
import tensorflow as tf

from launch.models import transformer_xl_config
from launch.run import training
from launch.tasks import task_of
from tests.launch.plans import planned, settings_of
from topkast_tf import summary
from topkast_tf.analysis.flops import count_flops
from topkast_tf.variables.lookup import sparse_weights

# --- Weights and products -------------------------------------------------------------


def built(settings):
    keras.utils.clear_session(free_memory=False)
    return training.build(task_of(settings), settings.method)


IMAGES = (
    ("--method=dense",),
    ("--exempt=first,last",),
    ("--fwd=0.95", "--bwd=0.5", "--distribution=erk"),
    ("--distribution=global",),
    ('--distribution={"stage1": 0.5, "logits": [0.9, 0.2]}',),
    ("--include=stage2", "--backward=random"),
    ("--block=1,2",),
    ("--method=swat", "--exempt=first"),
    ("--method=swat", "--distribution=erk", "--activations=0.5", "--errors=0.3"),
    ("--method=swat", "--distribution=momentum", "--momentum=0"),
    ("--method=swat", "--structured=channel", "--updates=masked"),
    ("--method=swat", "--forward_sparse=activations", "--backward_sparse="),
    ("--method=topkast_swat", "--exempt=last"),
    ("--method=rigl", "--distribution=erk", "--steps=100"),
    ("--method=static", "--sparsity=0.5", "--exempt=first"),
)


@pytest.mark.parametrize("arguments", IMAGES, ids=" ".join)
def test_plan_of_an_image_model_equals_the_built_model(arguments):
    plan = planned("--batch_size=3", *arguments)
    settings = settings_of("--batch_size=3", *arguments)
    model = built(settings)
    made = summary(model)
    dense, forward, backward = plan.in_all()
    assert dense == made.dense_parameters
    assert forward == made.kept_parameters
    outside = sum((~w.backward_mask()).sum() for w in sparse_weights(model))
    assert backward == dense - outside
    state = [p.set_bytes + p.state_bytes for p in plan.network.parameters]
    assert sum(state) == made.state_bytes
    flops = count_flops(model)
    assert plan.flops.dense.training == 3 * flops.dense.training
    if "global" in arguments[0]:  # its shares are known after selection only
        return
    for name in ("forward", "input_gradient", "weight_gradient"):
        expected = 3 * getattr(flops.sparse, name)
        assert getattr(plan.flops.sparse, name) == pytest.approx(expected, rel=1e-9)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """The flags of a text of 97 different bytes."""
    file = tmp_path_factory.mktemp("text") / "text"
    file.write_bytes(bytes(i * i % 97 + 32 for i in range(4000)))
    return "--dataset=bytes", f"--data_dir={file}"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model=txl_tiny", "--method=dense"),
        ("--model=txl_small", "--sparse_embeddings", "--fwd=0.8", "--bwd=0.6"),
        ("--model=txl_tiny", "--method=swat", "--sparsity=0.7"),
    ],
    ids=" ".join,
)
def test_plan_of_a_language_model_equals_the_built_model(arguments, text):
    arguments = (*text, "--batch_size=2", *arguments)
    plan, settings = planned(*arguments), settings_of(*arguments)
    model = built(settings)
    made = summary(model)
    dense, forward, backward = plan.in_all()
    assert (dense, forward) == (made.dense_parameters, made.kept_parameters)
    outside = sum((~w.backward_mask()).sum() for w in sparse_weights(model))
    assert backward == dense - outside

    def loss(tokens):
        return model.softmax(model(tokens, training=True), tokens)

    spec = tf.TensorSpec((2, model.config.segment_length), tf.int32)
    flops = count_flops(loss, spec)
    assert plan.flops.dense.training == 2 * flops.dense.training
    assert plan.flops.sparse.training == pytest.approx(2 * flops.sparse.training)


def test_planned_adaptive_softmax_matches_its_graph():
    from launch.cost_model.language_pass import language_pass, tail_share
    from topkast_tf.analysis.flops import count_macs

    config = transformer_xl_config.find("txl_tiny").replaced(
        vocabulary=40, cutoffs=(8, 20), div_val=2
    )
    from launch.models.transformer_xl import TransformerXL

    model = TransformerXL(config)
    tokens = tf.TensorSpec((3, 4), tf.int32)
    found = count_macs(lambda x: model(x, training=True), tokens)
    mine = language_pass(config, model.name).macs
    for path, number in found.items():
        if "embeddings" not in path:
            assert -(-mine[path].of(3) // 3) >= number
    head = mine[f"{model.name}/core/embedding/embeddings_0"]
    assert head.each == 4 * 8 * 8  # tokens, width, names
    tail = mine[f"{model.name}/core/embedding/embeddings_2"]
    assert tail.each == round(4 * tail_share(20, 40, 40) * 2 * 20)


# --- What the backward pass keeps -----------------------------------------------------


_ALIASES = ("Reshape", "Identity", "IdentityN", "StopGradient", "EnsureShape")


def kept_in_graph(model, inputs, loss_of):
    """Results of the forward pass that the gradient's operations read, by name.

    Weights, and tensors computed from weights alone, are left out; a reshaped tensor
    counts once.
    """
    marks = []

    @tf.function(autograph=False)
    def step(*batch):
        with tf.GradientTape() as tape:
            loss = loss_of(*batch)
        marks.append(len(tf.compat.v1.get_default_graph().get_operations()))
        found = tape.gradient(loss, model.trainable_variables)
        return [tf.convert_to_tensor(each) for each in found if each is not None]

    operations = step.get_concrete_function(*inputs).graph.get_operations()
    before = {op.name for op in operations[: marks[0]]}
    kept = {}
    for op in operations[marks[0] :]:
        if op.type in ("Shape", "Size", "Rank", "ZerosLike", "OnesLike"):
            continue
        for tensor in op.inputs:
            if tensor.op.name in before:
                root = origin(tensor, _ALIASES)
                kept[root.name] = root
    return {
        name: root
        for name, root in kept.items()
        if origin(root, (*_ALIASES, "Cast", "StridedSlice")).op.type
        not in ("ReadVariableOp", "Const", "Placeholder")
    }


def origin(tensor, through):
    while tensor.op.type in through and tensor.op.inputs:
        index = tensor.value_index if tensor.op.type == "IdentityN" else 0
        tensor = tensor.op.inputs[index]
    return tensor


def total(tensors):
    return sum(t.shape.num_elements() * t.dtype.size for t in tensors)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--method=dense", "--model=resnet8"),
        ("--method=swat", "--model=resnet8", "--exempt=first"),
        ("--method=dense", "--model=wrn10_1"),
    ],
    ids=" ".join,
)
def test_kept_activations_of_an_image_model_match_its_graph(arguments):
    arguments = ("--batch_size=7", *arguments)
    plan, settings = planned(*arguments), settings_of(*arguments)
    model = built(settings)
    shapes = tf.TensorSpec((7, 8, 8, 1)), tf.TensorSpec((7, 10))
    kept = kept_in_graph(
        model, shapes, lambda x, y: model.compute_loss(x, y, model(x, training=True))
    )
    # By the batch; the input is kept for the first kernel's gradient.
    of_batch = [t for t in kept.values() if t.shape.rank and t.shape[0] == 7]
    [item] = [i for i in plan.memory.accelerator if i.name == "activations"]
    assert item.here == pytest.approx(total(of_batch) + 7 * 64 * 4, rel=0.02)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_kept_activations_of_a_language_model_match_its_graph(dropout, text):
    arguments = (*text, "--model=txl_tiny", "--method=dense", "--batch_size=3")
    arguments += (
        "--segment_length=64",
        "--memory_length=32",
        f"--dropout={dropout}",
        f"--attention_dropout={dropout}",
    )
    plan, settings = planned(*arguments), settings_of(*arguments)
    model = built(settings)
    tokens = tf.TensorSpec((3, 64), tf.int32)
    kept = kept_in_graph(
        model,
        (tokens, tokens),
        lambda x, y: model.compute_loss(x, y, model(x, training=True), training=True),
    )
    [item] = [i for i in plan.memory.accelerator if i.name == "activations"]
    assert item.here == pytest.approx(total(kept.values()), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet_topkast", "resnet_swat", "text_dense"])
def test_planned_memory_is_within_a_fifth_of_the_measured(name):
    from benchmarks import plan_memory

    found = plan_memory.measure_elsewhere(plan_memory.RUNS[name], steps=2)
    ratio = found["measured_bytes"] / found["planned_bytes"]
    assert 0.8 < ratio < 1.2
