"""Checkpoints: damage is detected, and undamaged files are kept."""

import json
import os
import resource
import threading
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from launch.config import flags as launch_flags
from launch.config import resolve
from launch.run import training
from launch.storage import checkpoints
from launch.storage.snapshots import can_be_saved_apart, snapshot
from launch.support import files
from launch.support.errors import UserError
from launch.support.writer import BackgroundWriter
from launch.tasks import task_of
from tests.launch import plain_model


@pytest.fixture(scope="module")
def model():
    """The model that the tests save; they do not change it."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    return model


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def test_model_optimizer_and_state_are_restored_bitwise(tmp_path, model):
    state = {"rows": [{"step": 1, "loss": 1 / 3}], "metrics": [0.1, float(2**24)]}
    path = checkpoints.save(tmp_path, model, 1, state)
    assert path.name == "step-00000001.keras"
    restored, state_again, damaged = checkpoints.restore(tmp_path)
    assert state_again == state
    assert damaged == []
    pairs = zip(
        model.variables + model.optimizer.variables,
        restored.variables + restored.optimizer.variables,
        strict=True,
    )
    for ours, theirs in pairs:
        assert ours.numpy().tobytes() == theirs.numpy().tobytes()
    assert int(restored.optimizer.iterations.numpy()) == 1


def test_dropout_continues_with_the_same_random_numbers(tmp_path):
    x = np.ones((4, 3), "float32")
    model = keras.Sequential(
        [keras.Input((3,))]
        + [keras.layers.Dense(8), keras.layers.Dropout(0.5, name="one")]
        + [keras.layers.Dense(8), keras.layers.Dropout(0.5, name="two")]
    )
    model.compile("sgd", "mse")
    model.fit(x, np.ones((4, 8)), batch_size=2, verbose=0)
    checkpoints.save(tmp_path, model, 2, {})
    restored, _, _ = checkpoints.restore(tmp_path)
    for name in ("one", "two"):
        ours, theirs = (
            m.get_layer(name).seed_generator.state for m in (model, restored)
        )
        assert ours.numpy()[1] == 2
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    np.testing.assert_array_equal(model(x, training=True), restored(x, training=True))


def test_restore_without_a_checkpoint_returns_none(tmp_path):
    assert checkpoints.restore(tmp_path / "nothing") is None


def test_only_the_newest_two_checkpoints_are_kept(tmp_path, model):
    for step in (8, 9, 10, 100):
        checkpoints.save(tmp_path, model, step, {})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-00000010.keras", "step-00000100.keras"]


def test_failed_save_keeps_earlier_checkpoints(tmp_path, model):
    checkpoints.save(tmp_path, model, 1, {"good": True})
    with pytest.raises(TypeError):
        checkpoints.save(tmp_path, model, 2, {"not JSON": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.keras"]
    assert checkpoints.restore(tmp_path)[1] == {"good": True}


@pytest.mark.parametrize("damage", [truncate, flip_a_byte, empty])
def test_damaged_checkpoint_falls_back_to_the_previous_one(tmp_path, model, damage):
    checkpoints.save(tmp_path, model, 1, {"step": 1})
    newest = checkpoints.save(tmp_path, model, 2, {"step": 2})
    damage(newest)
    before = newest.read_bytes()
    _, state, damaged = checkpoints.restore(tmp_path)
    assert state == {"step": 1}
    assert len(damaged) == 1
    assert str(newest) in damaged[0] and "damaged" in damaged[0]
    assert newest.read_bytes() == before


@pytest.mark.parametrize("damage", [truncate, flip_a_byte, empty])
def test_damaged_only_checkpoint_is_reported_with_a_remedy(tmp_path, model, damage):
    only = checkpoints.save(tmp_path, model, 1, {})
    damage(only)
    with pytest.raises(UserError) as caught:
        checkpoints.restore(tmp_path)
    said = str(caught.value)
    assert str(only) in said and "delete it" in said
    assert "\n" not in said
    assert only.exists()


def test_ordinary_keras_file_is_not_accepted_as_a_checkpoint(tmp_path, model):
    path = tmp_path / "step-00000001.keras"
    model.save(path)
    with pytest.raises(UserError, match="has no member launch_state.json"):
        checkpoints.restore(tmp_path)


def test_undamaged_file_that_cannot_be_loaded_is_reported(tmp_path, model):
    path = checkpoints.save(tmp_path, model, 1, {})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    config["class_name"], config["module"] = "Mystery", "nowhere"
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match="is undamaged but cannot be loaded"):
        checkpoints.restore(tmp_path)


# --- Written while training continues ------------------------------------------------

IMAGES = (
    *("--model=normed", "--train_examples=64", "--batch_size=16"),
    "--nodeterministic",
)


def trained(tmp_path, method, *arguments):
    """A model of the launcher after three steps."""
    plain_model.register()
    asked = [f"--method={method}", *arguments]
    if "--dataset=bytes" in asked:
        letters = np.random.default_rng(0).integers(0, 4, 900).astype("uint8")
        (tmp_path / "text").write_bytes((letters + 97).tobytes())
        asked += [f"--data_dir={tmp_path}/text", f"--text_cache={tmp_path}/cache"]
    task = task_of(resolve.resolved(launch_flags.parse(["train.py", *asked])))
    task.load()
    model = training.build(task, method)
    model.run_eagerly = True  # nothing to trace for three steps
    batches = task.training_batches(0, 3)
    model.fit(batches, steps_per_epoch=3, verbose=0, callbacks=task.callbacks())
    return model


def changed(model):
    """Changes every variable, as training would."""
    everything = model.variables + model.optimizer.variables + model.metrics_variables
    for variable in everything:
        variable.assign(
            tf.cast(variable.value + tf.ones([], variable.dtype), variable.dtype)
        )
    if hasattr(model, "reset_memory"):
        model.reset_memory()


def members(path):
    """The members of a checkpoint, except that with the date."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(set(archive.namelist()) - {"metadata.json"})
        return {name: archive.read(name) for name in names}


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("topkast", (*IMAGES, "--distribution=global", "--backward=random")),
        ("swat", (*IMAGES, "--distribution=momentum", "--topk_period=2")),
        ("rigl", (*IMAGES, "--update_every=2", "--update_until=5")),
        (
            "topkast_swat",
            (
                *("--dataset=bytes", "--model=txl_tiny", "--batch_size=5"),
                *("--segment_length=16", "--memory_length=8", "--dropout=0.1"),
                *("--nodeterministic", "--evaluation_batch=2"),
            ),
        ),
    ],
    ids=["common budget", "momentum", "rigl", "language"],
)
def test_background_write_saves_the_state_at_the_snapshot(tmp_path, method, arguments):
    model = trained(tmp_path, method, *arguments)
    at_once = checkpoints.save(tmp_path / "at_once", model, 3, {"a": 1})
    go, writer = threading.Event(), BackgroundWriter()

    def write():
        assert go.wait(60)
        checkpoints.write(tmp_path / "later", taken, 3, {"a": 1})

    taken = snapshot(model)
    writer.start(write)
    changed(model)
    go.set()
    writer.wait()
    expected, found = members(at_once), members(tmp_path / "later" / at_once.name)
    assert expected.keys() == found.keys() and len(found) == 4
    for name, content in expected.items():
        assert content == found[name], name
    # The variables themselves have changed by now.
    for variable, value in taken.values:
        assert not np.array_equal(variable.numpy(), value), variable.path


def test_installed_keras_can_save_a_snapshot():
    assert can_be_saved_apart()


def test_snapshot_shares_memory_until_the_variables_change():
    """A snapshot is cheap: TensorFlow copies a variable only when it is written."""
    variable = keras.Variable(np.zeros(1 << 20, "float32"))
    first, second = (
        np.asarray(memoryview(x))
        for x in (tf.identity(variable.value), variable.value.read_value())
    )
    address = first.__array_interface__["data"][0]
    assert address == second.__array_interface__["data"][0]
    variable.assign_add(np.ones(1 << 20, "float32"))
    after = np.asarray(memoryview(variable.value.read_value()))
    assert after.__array_interface__["data"][0] != address
    assert first.max() == 0 and after.min() == 1


def test_variable_missing_from_a_snapshot_is_an_error(tmp_path, model):
    taken = snapshot(model)
    lacking = taken._replace(values=taken.values[1:])
    with pytest.raises(LookupError, match="value of every variable"):
        checkpoints.write(tmp_path, lacking, 1, {})


def test_write_waits_for_the_previous_one_and_raises_its_error_once():
    writer, done = BackgroundWriter(), []
    go = threading.Event()
    writer.start(lambda: (go.wait(60), done.append(1)))
    threading.Timer(0.2, go.set).start()
    writer.check()
    assert done == []
    writer.start(lambda: done.append(1 / 0))
    assert done == [1]
    with pytest.raises(ZeroDivisionError):
        writer.wait()
    writer.check()
    writer.wait()


# --- The best checkpoint -------------------------------------------------------------


def test_best_checkpoint_is_kept_when_its_step_is_removed(tmp_path, model):
    for step, best in ((1, 1), (2, 2), (3, 2), (4, 2)):
        state = {"best": {"step": best, "figure": "x", "value": 0.5}, "at": step}
        checkpoints.save(tmp_path, model, step, state, kept=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.keras",
        "step-00000004.keras",
    ]
    _, state = checkpoints.restore_best(tmp_path)
    assert state["at"] == 2
    assert checkpoints.restore(tmp_path)[1]["at"] == 4
    assert checkpoints.restore_best(tmp_path / "nothing") is None


def test_missing_best_checkpoint_is_written_after_a_kill(tmp_path, model, monkeypatch):
    monkeypatch.setattr(checkpoints, "mend_best", lambda *_: 1 / 0)
    state = {"best": {"step": 1, "figure": "x", "value": 0.5}}
    with pytest.raises(ZeroDivisionError):
        checkpoints.save(tmp_path, model, 1, state)
    monkeypatch.undo()
    assert checkpoints.restore_best(tmp_path) is None
    _, state, _ = checkpoints.restore(tmp_path)
    for _ in range(2):
        checkpoints.mend_best(tmp_path, state)
    assert checkpoints.restore_best(tmp_path)[1] == state


def test_best_checkpoint_is_copied_without_hard_links(tmp_path, model, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    state = {"best": {"step": 1, "figure": "x", "value": 0.5}}
    path = checkpoints.save(tmp_path, model, 1, state)
    best = tmp_path / checkpoints.BEST_FILE
    assert best.read_bytes() == path.read_bytes() and not best.samefile(path)


def test_damaged_best_checkpoint_is_reported(tmp_path, model):
    state = {"best": {"step": 1, "figure": "x", "value": 0.5}}
    checkpoints.save(tmp_path, model, 1, state)
    truncate(tmp_path / checkpoints.BEST_FILE)
    with pytest.raises(UserError, match="is damaged .*use --checkpoint=last"):
        checkpoints.restore_best(tmp_path)


# --- Interrupted writes --------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.99, 1.0])
def test_truncation_at_any_length_is_detected(tmp_path, model, share):
    checkpoints.save(tmp_path, model, 1, {"step": 1})
    newest = checkpoints.save(tmp_path, model, 2, {"step": 2})
    content = newest.read_bytes()
    newest.write_bytes(content[: min(int(share * len(content)), len(content) - 1)])
    _, state, damaged = checkpoints.restore(tmp_path)
    assert state == {"step": 1} and len(damaged) == 1


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_unfinished_write_is_ignored_and_cleared(tmp_path, model, share):
    path = checkpoints.save(tmp_path, model, 1, {"step": 1})
    content = path.read_bytes()
    parts = tmp_path / files.TEMPORARY
    parts.mkdir()
    (parts / f"{files.TEMPORARY}-step-00000002.keras").write_bytes(
        content[: int(share * len(content))]
    )
    (parts / "tmpabcdefgh").write_bytes(b"what Keras leaves")
    assert checkpoints.restore(tmp_path)[1:] == ({"step": 1}, [])
    checkpoints.save(tmp_path, model, 2, {"step": 2})
    assert checkpoints.restore(tmp_path)[1] == {"step": 2}
    checkpoints.clear_unfinished(tmp_path)
    assert not parts.exists() and path.read_bytes() == content


@pytest.mark.parametrize("call", ["replace", "fsync", "link"])
def test_disk_error_keeps_earlier_checkpoints(tmp_path, model, monkeypatch, call):
    def fail(*_):
        raise OSError(5, "Input/output error")

    state = {"best": {"step": 1, "figure": "x", "value": 0.5}}
    first = checkpoints.save(tmp_path, model, 1, state)
    content = first.read_bytes()
    monkeypatch.setattr(os, call, fail)
    if call == "link":
        monkeypatch.setattr(checkpoints.shutil, "copyfile", fail)
    with pytest.raises(OSError, match="Input/output"):
        checkpoints.save(tmp_path, model, 2, {"best": {"step": 2}})
    monkeypatch.undo()
    assert first.read_bytes() == content
    assert (tmp_path / checkpoints.BEST_FILE).read_bytes() == content
    assert checkpoints.restore(tmp_path)[2] == []


@pytest.fixture
def full_disk():
    """Limits the size of the files of this process, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.95])
def test_full_disk_keeps_earlier_checkpoints(tmp_path, model, full_disk, share):
    first = checkpoints.save(tmp_path, model, 1, {"step": 1})
    content = first.read_bytes()
    full_disk(int(share * len(content)))
    with pytest.raises(OSError, match="File too large"):
        checkpoints.save(tmp_path, model, 2, {"step": 2})
    full_disk(1 << 30)
    assert [path.name for path in tmp_path.iterdir()] == [first.name]
    assert first.read_bytes() == content


def test_a_folder_of_a_run_that_has_gone_is_not_made_again(tmp_path, model):
    folder = tmp_path / "run" / "topkast" / "checkpoints"
    with pytest.raises(FileNotFoundError):
        checkpoints.write(folder, snapshot(model), 1, {})
    assert not list(tmp_path.iterdir())
