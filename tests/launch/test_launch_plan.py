"""The plan of a run: against cases by hand, really built models, and measured memory."""

import functools
import json
import pathlib
import resource
import subprocess
import sys
import time

import keras
import pytest
import tensorflow as tf

from launch import plan
from launch.config import plan_flags
from launch.cost_model import costs, memory, report
from launch.cost_model.forward_pass import RELU, Amount, ForwardPass, Kept
from launch.cost_model.network import Network
from launch.cost_model.parameters import Parameter
from launch.cost_model.plan import plan_of
from launch.models import transformer_xl_config
from launch.models.transformer_xl_counts import count_kept, count_parameters
from launch.run import sparsity, training
from launch.support.errors import UserError
from launch.tasks import task_of
from topkast_tf import summary
from topkast_tf.analysis.flops import count_flops
from topkast_tf.variables.lookup import sparse_weights

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "launch" / "flagfiles"
NAMES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.cfg"))
QUICK = (
    "quickstart.cfg",
    "quickstart_text.cfg",
    "swat_cifar/base.cfg",
    "swat_cifar/cifar100_vgg16_m90.cfg",
    "swat_imagenet/resnet50_channel70.cfg",
    "topkast_imagenet/resnet50_90_80_random.cfg",
    "topkast_language/wikitext103_large_80_60.cfg",
)
TWENTY_BILLION = (
    *("--dataset=bytes", "--vocabulary=50000", "--layers=44", "--d_model=6144"),
    *("--heads=64", "--d_head=96", "--d_inner=24576", "--segment_length=1024"),
    *("--memory_length=1024", "--batch_size=64", "--steps=100000"),
)


def settings_of(*arguments):
    return plan_flags.parse(["plan.py", *arguments])


def planned(*arguments):
    settings = settings_of(*arguments)
    scope = functools.partial(sparsity.scope, settings.method, settings)
    return plan_of(settings, settings.method, scope)


def message(*arguments):
    with pytest.raises(UserError) as caught:
        plan.run(settings_of(*arguments))
    said = str(caught.value)
    assert "\n" not in said
    return said


# --- One dense layer, by hand ---------------------------------------------------------


def one_layer(**changes):
    """A kernel of 10 x 10 with 10 entries in A and 20 in B, and its bias."""
    sets = {
        "has_sets": True,
        "is_sparse": True,
        "reads_alpha": True,
        "dense_updates": False,
        "on_host": True,
        "set_bytes": 100,
        "state_bytes": 56,
    }
    kernel = Parameter("kernel", "matrices", 100, 10, 20, **{**sets, **changes})
    bias = Parameter("bias", "biases, norms", 10, 10, 10)
    forward = ForwardPass(
        macs={"kernel": Amount(100)},
        activation_macs=Amount(),
        kept=(Kept(Amount(80), 4, ("kernel", RELU)), Kept(Amount(8, once=2), 1)),
        inputs=Amount(44),
    )
    return Network("net", (kernel, bias), forward, 8, 5, 1000, "image")


def bytes_of(found, place="accelerator"):
    return {i.name: (i.dense, i.here, i.sparse) for i in getattr(found, place)}


def test_memory_of_one_layer_by_hand():
    storage = memory.Storage(slots=2, keeps_penalty=True)
    found = memory.memory_of(one_layer(), storage, batch=4)
    # B's 20 entries and the bias's 10; positions as 100 bits, and 20 bits for A.
    assert bytes_of(found) == {
        "weights": (440, 440, 120),
        "sets and other state": (0, 156, 13 + 3),
        "masked copies": (0, 800, 0),
        "gradients": (440, 440, 120),
        "optimizer slots": (880, 880, 240),
        "statistics": (8, 8, 8),
        "batch": (176, 176, 176),
        "activations": (1314, 1314, 1314),
        "working memory": (3 * 1280,) * 3,
    }
    assert bytes_of(found, "host")["theta"] == (0, 0, 400)
    assert found.total("dense") == 440 + 440 + 880 + 8 + 176 + 1314 + 3840


def test_memory_of_packed_activations_by_hand():
    swat = one_layer(
        on_host=False, dense_updates=True, saved_activations=0.75, saves_masked=True
    )
    for packed, here in ((False, 320 * 4 + 320 * 5), (True, 80 * 4 + 40 + 40)):
        storage = memory.Storage(slots=1, packed=packed, replaces_relu=True)
        found = memory.memory_of(swat, storage, batch=4)
        # Of 320 entries 80 stay; the mask and the ReLU take a bit each.
        assert bytes_of(found)["activations"] == (1314, here + 34, 400 + 34)
    assert bytes_of(found)["weights"] == (440, 440, 440)
    assert "theta" not in bytes_of(found, "host")


def test_flops_and_exchange_of_one_layer_by_hand():
    flops = costs.flops_a_step(one_layer(), batch=4)
    assert flops.dense.training == 2 * 400 * 3
    assert flops.sparse.training == pytest.approx(2 * 400 * (0.1 + 0.1 + 0.2))
    later = costs.flops_a_step(one_layer(), batch=4, explores=False)
    assert later.sparse.training == pytest.approx(2 * 400 * 0.3)
    exchange = costs.exchange_of(one_layer(), workers=4)
    assert (exchange.dense, exchange.packed) == (440, 120)
    assert exchange.sent("here") == 2 * 3 / 4 * 440
    assert exchange.sent("sparse") == 2 * 3 / 4 * 120
    assert exchange.refresh == 2 * 80 + 13


def test_times_of_one_layer_by_hand():
    network = one_layer()
    storage = memory.Storage(slots=0)
    found = memory.memory_of(network, storage, batch=4)
    times = costs.step_times(
        network,
        costs.flops_a_step(network, 4),
        found,
        costs.exchange_of(network, 2),
        costs.Device(flops=100.0, bandwidth=10.0, network=5.0),
    )
    dense, here, sparse = times
    assert [t.compute for t in times] == pytest.approx([24, 24, 3.2])
    held = 440 + 440 + 8 + 176 + 1314
    assert dense.memory == pytest.approx((2 * held + 2 * 440) / 10)
    assert here.memory == pytest.approx((2 * (held + 156 + 400) + 2 * 440) / 10)
    held = 120 + 16 + 120 + 8 + 176 + 1314
    assert sparse.memory == pytest.approx((2 * held + 2 * 4 * 20) / 10)
    assert [t.network for t in times] == pytest.approx([88, 88, 24])
    assert dense.total == pytest.approx(dense.memory + 88)


# --- Against really built models ------------------------------------------------------


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
def test_image_model_is_planned_as_it_is_built(arguments):
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
    if "global" in arguments[0]:  # the selection itself spreads it
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
def test_language_model_is_planned_as_it_is_built(arguments, text):
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


def test_products_of_an_adaptive_softmax_are_those_of_its_graph():
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
    """Bytes of what the gradient's operations read of the forward pass's results.

    Weights and what has been made of them alone are left out; a tensor under another
    shape is the same.
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
def test_kept_activations_of_an_image_model_are_those_of_its_graph(arguments):
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
def test_kept_activations_of_a_language_model_are_those_of_its_graph(dropout, text):
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


# --- Flagfiles and large networks -----------------------------------------------------


@pytest.mark.parametrize("name", QUICK)
def test_flagfile_is_planned(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = planned(f"--flagfile=launch/flagfiles/{name}")
    dense, forward, backward = found.in_all()
    assert 0 < forward <= backward <= dense
    assert 0 < found.flops.sparse.training <= found.flops.dense.training
    assert found.memory.total("sparse") < found.memory.total("here")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_flagfile_is_planned(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    start = time.process_time()
    said = plan.run(settings_of(f"--flagfile=launch/flagfiles/{name}", "--json"))
    assert time.process_time() - start < 10
    said = json.loads(said)
    for one in [row["plan"] for row in said.get("runs", [])] or [said]:
        assert one["flops"]["all_dense"] >= one["flops"]["all_sparse"] > 0


def test_published_run_costs_what_is_published(monkeypatch):
    # RigL and Top-KAST give 3.2e18 FLOPs for 32,000 steps of dense ResNet-50.
    monkeypatch.chdir(ROOT)
    flagfile = "launch/flagfiles/topkast_imagenet/resnet50_90_80.cfg"
    dense, sparse = planned(f"--flagfile={flagfile}").flops_in_all
    assert dense == pytest.approx(3.2e18, rel=0.01)
    assert 0.1 < sparse / dense < 0.2


def test_study_is_planned(monkeypatch):
    monkeypatch.chdir(ROOT)
    flagfile = "--flagfile=launch/flagfiles/sensitivity_digits.cfg"
    said = plan.run(settings_of(flagfile, "--studies=dense,swat,freeze"))
    # 64.5 GFLOP a run: 293 MFLOP a step, 22 steps an epoch, 10 epochs.
    assert [line.split() for line in said.splitlines()[2:5]] == [
        "dense 1 64.5 GFLOP 64.5 GFLOP 1.000".split(),
        "swat, 0.9 1 64.5 GFLOP 7.16 GFLOP 0.111".split(),
        "freeze, 0.9 2 129 GFLOP 14.3 GFLOP 0.111".split(),
    ]


def test_twenty_billion_parameters_are_planned_in_seconds():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    found = planned(*TWENTY_BILLION, "--device_memory=80")
    assert time.process_time() - start < 10
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 500_000  # kilobytes, of some 88 GB of weights
    config = transformer_xl_config.find("txl_small").replaced(
        vocabulary=50_000,
        layers=44,
        d_model=6144,
        heads=64,
        d_head=96,
        d_inner=24576,
        segment_length=1024,
        memory_length=1024,
    )
    dense, forward, _ = found.in_all()
    assert dense == count_parameters(config) == pytest.approx(21.9e9, rel=0.01)
    assert forward == count_kept(config, 0.9)
    # Six FLOPs a parameter and token, and what attention adds.
    usual = 6 * dense * 64 * 1024
    assert usual < found.flops.dense.training < 1.4 * usual
    assert [fit.devices for fit in found.fits.values()] == [None] * 3


def test_what_does_not_fit_says_so():
    arguments = ("--dataset=cifar10", "--model=resnet20", "--batch_size=128")
    [line] = [
        line
        for line in plan.run(settings_of(*arguments, "--device_memory=0.1")).split("\n")
        if "as run here" in line and "fit" in line
    ]
    assert "does not fit; it would on 4 devices, with 32 of the batch on each" in line
    said = plan.run(settings_of(*arguments, "--device_memory=0.1", "--replicas=4"))
    assert said.count(" fits.") == 3
    said = plan.run(settings_of(*arguments, "--device_memory=0.001"))
    assert said.count("nor would it on 128 devices: with one image each needs") == 3


# --- The command line -----------------------------------------------------------------


def run(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / "plan.py"), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_command_is_quiet_and_gives_json(tmp_path):
    done = run("--json", "--device_flops=1e12", "--device_bandwidth=1e11", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert said["parameters"]["all"]["dense"] == 77_754
    assert said["seconds"]["sparse"]["compute"] < said["seconds"]["dense"]["compute"]
    assert not list(tmp_path.iterdir())


def test_mistake_is_one_sentence_and_code_2(capsys):
    assert plan.main(["plan.py", "--modle=resnet8"]) == 2
    assert capsys.readouterr().err == (
        "error: unknown flag --modle; did you mean --model?\n"
    )


def test_help_teaches_with_examples(capsys):
    assert plan.main(["plan.py", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--device_bandwidth" in said
    assert said.count("python launch/plan.py") == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--model=resnet9",), "did you mean resnet"),
        (("--dataset=words",), "Expected --vocabulary, the number of different tokens"),
        (("--dataset=bytes",), "Expected --steps, as the length"),
        (("--dataset=words", "--vocabulary=9"), "Expected --steps, as the length"),
        (("--replicas=3",), "Expected --batch_size to be a multiple of the devices"),
        (
            ("--strategy=mirrored", "--devices=2", "--replicas=4"),
            "without --devices. Received: --replicas=4, --devices=2",
        ),
        (("--layers=2",), "Expected no --layers for --dataset=digits"),
        (("--dataset=python", "--classes=2"), "Expected no --classes"),
        (("--dataset=python", "--d_model=7"), "Expected `d_model` to be even."),
        (("--device_flops=0",), "Expected --device_flops to be above 0. Received: 0.0"),
        (("--fwd=0.5", "--bwd=0.7"), "Received: --fwd=0.5, --bwd=0.7"),
        (("--exempt=zzz",), "Expected each regex of `exempt` to match a weight."),
        (("--studies=none", "--seeds=0"), "Expected --studies to be one of"),
    ],
)
def test_mistakes_say_what_was_received(arguments, expected):
    assert expected in message(*arguments)


def test_epochs_of_published_texts_are_known_without_them():
    found = planned("--dataset=enwik8", "--epochs=2", "--batch_size=10")
    assert found.steps == 2 * ((90_000_000 - 1) // 10 // 64)
    shapes = {p.path.split("/", 1)[1]: p.size for p in found.network.parameters}
    assert shapes["softmax/bias_0"] == 205


def test_own_text_is_read_and_nothing_left_beside_it(tmp_path):
    file = tmp_path / "text"
    file.write_bytes(b"abcd" * 2500)
    arguments = ("--dataset=bytes", f"--data_dir={file}", "--segment_length=8")
    found = planned(*arguments, "--batch_size=2", "--epochs=1")
    assert found.steps == (9000 - 1) // 2 // 8
    biases = [p for p in found.network.parameters if p.path.endswith("bias_0")]
    assert [p.size for p in biases] == [4]
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_end_of_exploration_counts_in_the_whole_run():
    longer = planned("--steps=100", "--fwd=0.9", "--bwd=0.5")
    stopped = planned("--steps=100", "--fwd=0.9", "--bwd=0.5", "--stop_exploring_at=40")
    masked = planned("--steps=100", "--fwd=0.9", "--bwd=0.9")
    expected = 0.4 * longer.flops_in_all[1] + 0.6 * masked.flops_in_all[1]
    assert stopped.flops_in_all[1] == pytest.approx(expected)


def test_gradients_of_swat_are_dense_unless_updates_are_masked():
    dense = planned("--method=swat").exchange
    assert dense.packed == dense.dense
    masked = planned("--method=swat", "--updates=masked").exchange
    assert masked.packed < 0.15 * masked.dense


def test_devices_share_the_batch_and_not_the_weights():
    one, four = planned("--batch_size=64"), planned("--batch_size=64", "--replicas=4")
    for place, (alone, shared) in {
        name: (bytes_of(one.memory)[name][1], bytes_of(four.memory)[name][1])
        for name in ("activations", "weights")
    }.items():
        assert shared == (alone // 4 if place == "activations" else alone)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet_topkast", "resnet_swat", "text_dense"])
def test_planned_memory_is_within_a_fifth_of_the_measured(name):
    from benchmarks import plan_memory

    found = plan_memory.measure_elsewhere(plan_memory.RUNS[name], steps=2)
    ratio = found["measured_bytes"] / found["planned_bytes"]
    assert 0.8 < ratio < 1.2


def test_units_are_spelt_out():
    assert report.bytes_text(0) == "0 B"
    assert report.bytes_text(123 * 2**20) == "123 MiB"
    assert report.flops_text(4.2e15) == "4.20 PFLOP"
    assert report.seconds_text(4.2e-5) == "42.0 us"
