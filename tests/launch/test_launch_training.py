"""Training: rounds, weight decay, and resumed runs equal to uninterrupted ones."""

import json
import re
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import swat_tf  # noqa: F401, registers the method of loaded models
import topkast_tf as tk
from launch import train as launch_train
from launch.config import flags as launch_flags
from launch.run import failures, sparsity, training
from launch.run.stretches import stretches
from launch.run.trained import trained_models
from launch.support.errors import UserError
from launch.tasks import task_of
from tests.launch import plain_model
from tests.launch.conftest import launcher
from tests.launch.runs import rows, settings
from topkast_tf.kernels.library import is_available

# --- Stretches -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("done", "total", "per_round", "expected"),
    [
        (0, 12, 4, [(0, 4, 3)]),
        (4, 12, 4, [(4, 4, 2)]),
        (5, 12, 4, [(5, 3, 1), (8, 4, 1)]),
        (0, 3, 4, [(0, 3, 1)]),
        (0, 10, 4, [(0, 4, 2), (8, 2, 1)]),
        (9, 10, 4, [(9, 1, 1)]),
        (1, 14, 4, [(1, 3, 1), (4, 4, 2), (12, 2, 1)]),
        (12, 12, 4, []),
    ],
)
def test_stretches(done, total, per_round, expected):
    assert stretches(done, total, per_round) == expected


def test_evaluation_within_an_epoch_changes_no_weight(tmp_path):
    plain_model.register()
    found = {}
    for every in ((), ("--evaluate_every=3",)):
        folder = tmp_path / f"{len(every)}"
        folder.mkdir()
        asked = settings(
            *("--method=dense", "--model=normed", "--batch_size=256", "--steps=7"),
            *(*every, f"--run_dir={folder}"),
        )
        task = task_of(asked)
        task.load()
        training.train(task, "dense")
        model = keras.models.load_model(folder / "dense" / training.MODEL_FILE)
        found[len(every)] = rows(folder / "dense"), model.get_weights()
    (by_epoch, expected), (by_round, weights) = found[0], found[1]
    # An epoch of the digits is five steps of 256 images.
    assert [(row["step"], row["epoch"]) for row in by_epoch] == [
        ("5", "1"),
        ("7", "1.4"),
    ]
    assert [(row["step"], row["epoch"]) for row in by_round] == [
        ("3", "0.6"),
        ("6", "1.2"),
        ("7", "1.4"),
    ]
    # Without deterministic ops, sums may be taken in another order.
    for ours, theirs in zip(weights, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_network_that_selects_outputs_is_saved_as_it_is(tmp_path):
    plain_model.register()
    asked = settings(
        *("--method=dsg", "--model=plain", "--batch_size=256", "--steps=1"),
        f"--run_dir={tmp_path}",
    )
    task = task_of(asked)
    task.load()
    training.train(task, "dsg")
    saved = keras.models.load_model(tmp_path / "dsg" / training.MODEL_FILE)
    [(_, trained)] = trained_models(tmp_path)
    images = next(iter(task.evaluation_batches()))[0][:4]
    found = keras.Model(saved.inputs, saved.layers[1].output)(images).numpy()
    assert (found == 0).mean() > 0.8  # a dense layer has half of them
    np.testing.assert_array_equal(saved(images), trained(images))


@pytest.mark.slow
@pytest.mark.parametrize("other", ["packed", "first", "mapped"])
def test_a_run_with_packed_storage_goes_on_as_one_with_dense_storage(other, tmp_path):
    """Their checkpoints are of one form; with the same rule for slots, so are the runs."""
    plain_model.register()
    found = {}
    # Of the first four steps, and of the rest.
    then = ["packed", "dense"] if other == "first" else ["packed", "packed"]
    for name, storages in (("dense", ["dense", "dense"]), (other, then)):
        for storage, steps in zip(storages, (4, 8), strict=True):
            (tmp_path / name).mkdir(exist_ok=True)
            asked = settings(
                *("--model=normed", "--batch_size=256", f"--steps={steps}"),
                *("--fwd=0.8", "--bwd=0.6", "--refresh_every=3", "--slots=reset"),
                *(f"--storage={storage}", "--kernels=masked", "--lr_schedule=constant"),
                *("--deterministic", f"--run_dir={tmp_path / name}"),
                *(["--theta=mmap"] if name == "mapped" and is_available() else []),
            )
            task = task_of(asked)
            task.load()
            training.train(task, "topkast")
        found[name] = variables(
            tmp_path / name / "topkast" / "checkpoints" / "step-00000008.keras"
        )
    for ours, theirs in zip(
        found[other].values(), found["dense"].values(), strict=True
    ):
        assert ours.tobytes() == theirs.tobytes()


# --- The model -----------------------------------------------------------------------


def test_weight_decay_is_half_the_square_of_kernels_only():
    model = training.build(task_of(settings("--method=dense", "--width=0.25")), "dense")
    assert sum(model.losses, 0.0) == 0.0
    training.add_weight_decay(model, 0.01)
    kernels = [v.numpy() for v in model.trainable_variables if "kernel" in v.path]
    expected = (
        0.01 / 2 * sum((kernel.astype("float64") ** 2).sum() for kernel in kernels)
    )
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)
    assert len(model.losses) == len(kernels) == 10


def test_sparse_kernels_have_no_second_decay():
    asked = settings("--width=0.25", "--exempt=first,last", "--exploration=0")
    model = training.build(task_of(asked), "topkast")
    training.add_weight_decay(model, 0.01)
    first, last = model.get_layer("stem_conv").kernel, model.get_layer("logits").kernel
    decayed = [
        v.path
        for v in model.trainable_variables
        if isinstance(v.regularizer, keras.regularizers.L2)
    ]
    assert sorted(decayed) == sorted([first.path, last.path])


@pytest.mark.parametrize("of", ["kernels", "all"])
@pytest.mark.parametrize(
    ("method", "arguments"), [("cs", {"total_steps": 100}), ("str", {}), ("dst", {})]
)
def test_what_methods_train_beside_the_weights_does_not_decay(method, arguments, of):
    with tk.sparse_scope(method, **arguments):
        model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(30)])
    training.add_weight_decay(model, 0.1, of)
    decayed = [v.path for v in model.trainable_variables if v.regularizer is not None]
    expected = ["kernel", "bias"] if of == "all" else ["kernel"]
    assert [path.split("/")[-1] for path in decayed] == expected


def test_swat_kernels_decay_in_full():
    asked = settings("--width=0.25", "--exempt=first", "--method=swat")
    model = training.build(task_of(asked), "swat")
    training.add_weight_decay(model, 0.01)
    kernels = [v.numpy() for v in model.trainable_variables if "kernel" in v.path]
    expected = 0.01 / 2 * sum((k.astype("float64") ** 2).sum() for k in kernels)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)


def test_methods_build_what_their_flags_say():
    asked = settings("--width=0.25", "--fwd=0.8", "--bwd=0.5", "--sparsity=0.7")
    found = {}
    for method in ("swat", "topkast_swat"):
        weights = tk.sparse_weights(training.build(task_of(asked), method))
        found[method] = {
            (w.method.name, w.fwd, w.bwd, w.rule.sparsity_of(w)) for w in weights
        }
    assert found == {
        "swat": {("swat", 0.7, 0.0, 0.7)},
        "topkast_swat": {("topkast", 0.8, 0.5, 0.7)},
    }


def test_twins_start_from_the_same_weights():
    asked = settings("--width=0.25", "--seed=4")
    dense = training.build(task_of(asked), "dense")
    sparse = training.build(task_of(asked), "topkast")
    for ours, theirs in zip(
        dense.trainable_variables, sparse.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_mixed_precision_computes_in_bfloat16_and_restores_the_policy():
    before = keras.config.dtype_policy().name
    asked = settings("--method=dense", "--width=0.25", "--mixed_precision")
    model = training.build(task_of(asked), "dense")
    assert model.get_layer("stem_conv").compute_dtype == "bfloat16"
    assert model.get_layer("stem_conv").variable_dtype == "float32"
    assert model.get_layer("logits").compute_dtype == "float32"
    assert keras.config.dtype_policy().name == before


# --- Resumed runs --------------------------------------------------------------------

SHORT = (
    *("--model=normed", "--epochs=3", "--batch_size=256", "--learning_rate=0.05"),
    *("--checkpoint_steps=2", "--nesterov", "--label_smoothing=0.1"),
    "--dynamics_every=2",
)
LAST = "step-00000015.keras"


def short(name, folder):
    """The arguments of a short run."""
    own = ("--topk_period=3",) if "swat" in name else ()
    if name == "packed":
        own = "--fwd=0.8", "--bwd=0.6", "--storage=packed"
    return [f"--method={method_of(name)}", *SHORT, *own, f"--run_dir={folder}"]


def method_of(name):
    return "topkast" if name == "packed" else name


def variables(path):
    model = keras.models.load_model(path)
    return {
        variable.path: variable.numpy()
        for variable in model.variables + model.optimizer.variables
    }


def assert_same_run(ours, theirs):
    assert len(rows(ours)) == 3
    assert rows(ours) == rows(theirs)
    masks = [run / "mask_dynamics.csv" for run in (ours, theirs)]
    assert masks[0].exists() == (ours.name != "dense")
    if masks[0].exists():
        assert masks[0].read_text().count("\n") > 1 + 7 * 3
        assert masks[0].read_text() == masks[1].read_text()
    here, there = (variables(run / "checkpoints" / LAST) for run in (ours, theirs))
    assert here.keys() == there.keys()
    for path, value in here.items():
        assert value.tobytes() == there[path].tobytes(), path


@pytest.fixture(scope="module")
def command(python):
    """The launcher with a model that traces quickly, in a fork."""
    return [*python, plain_model.__file__]


@pytest.fixture(scope="module")
def launch(command):
    return launcher(command)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("dense", marks=pytest.mark.slow),
        "topkast",
        pytest.param("packed", marks=pytest.mark.slow),
        pytest.param("swat", marks=pytest.mark.slow),
        pytest.param("topkast_swat", marks=pytest.mark.slow),
    ],
)
def undisturbed(request, tmp_path_factory):
    """The name of a short run, its method and the folder in which it ran undisturbed.

    It has its own process; the runs compared with it are forks.
    """
    plain_model.register()
    folder = tmp_path_factory.mktemp(request.param) / "run"
    launch = launcher([sys.executable, plain_model.__file__])
    ended = launch(*short(request.param, folder))
    assert ended.returncode == 0, ended.stderr
    return request.param, method_of(request.param), folder


def test_resumed_run_equals_uninterrupted_run(undisturbed, command, launch, tmp_path):
    """After SIGTERM; `test_launch_kills.py` tests SIGKILL."""
    name, method, whole = undisturbed
    folder = tmp_path / "run"
    arguments = short(name, folder)
    with subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout:
            if "step  5/" in line:  # the first round
                process.send_signal(signal.SIGTERM)
                break
        said = process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM
    found = re.fullmatch(
        r"interrupted at step (\d+): the same command resumes from there\.\n", said
    )
    assert found, said
    assert not (folder / method / "result.json").exists()
    ended = launch(*arguments)
    assert ended.returncode == 0, ended.stderr
    assert f"resumed after step {found[1]}\n" in ended.stdout
    assert_same_run(folder / method, whole / method)


def test_run_with_truncated_checkpoint_equals_uninterrupted_run(
    undisturbed, launch, tmp_path
):
    name, method, whole = undisturbed
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / method / "result.json").unlink()
    newest = folder / method / "checkpoints" / LAST
    newest.write_bytes(newest.read_bytes()[:1000])
    ended = launch(f"--flagfile={folder}/flags.cfg", f"--run_dir={folder}")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.startswith(f"warning: checkpoint {newest} is damaged")
    # Step 14 is the fourth of the five steps of epoch 3.
    assert ended.stderr.rstrip().endswith("going back to step 14.")
    assert "resumed after step 14" in ended.stdout
    assert_same_run(folder / method, whole / method)


def test_finished_run_only_prints_its_table(undisturbed, launch):
    _, method, folder = undisturbed
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    ended = launch(f"--flagfile={folder}/flags.cfg")
    assert ended.returncode == 0
    result = json.loads((folder / method / "result.json").read_text())
    assert f"{result['test_accuracy']:.2%}" in ended.stdout
    assert ended.stderr == ""
    after = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    assert before == after


def test_out_of_memory_is_reported_in_one_sentence():
    message = (
        "OOM when allocating tensor with shape[3,3,1,16000] and type float on CPU:0"
    )
    with (
        pytest.raises(
            UserError, match=r"for a tensor of shape \[3,3,1,16000\]: take a"
        ),
        failures.memory_named(),
    ):
        raise tf.errors.ResourceExhaustedError(None, None, message)


def test_exploration_loss_is_loss_minus_cross_entropy():
    plain_model.register()
    asked = ("--model=normed", "--exempt=first", "--exploration=0.1")
    settings = launch_train.resolved(
        launch_flags.parse(["", *asked, "--nodeterministic", "--weight_decay=0"])
    )
    task = task_of(settings)
    task.load()
    images = task.evaluation_batches()
    for method, is_more in (("topkast", True), ("dense", False), ("swat", False)):
        model = training.build(task, method)
        found = model.evaluate(images, verbose=0, return_dict=True)
        ours = sparsity.exploration_loss(model)
        assert (ours > 0.1) == is_more
        apart = found["loss"] - found["cross_entropy"]
        assert ours == pytest.approx(apart, rel=1e-4, abs=1e-5)
