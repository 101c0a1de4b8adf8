"""Checkpoints: damage is noticed, nothing whole is lost."""

import json
import zipfile

import keras
import numpy as np
import pytest

from launch import checkpoints
from launch.errors import UserError


@pytest.fixture
def model():
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


def test_model_optimizer_and_state_come_back_exactly(tmp_path, model):
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


def test_dropout_goes_on_with_the_same_random_numbers(tmp_path):
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


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoints.restore(tmp_path / "nothing") is None


def test_only_the_newest_two_stay(tmp_path, model):
    for step in (8, 9, 10, 100):
        checkpoints.save(tmp_path, model, step, {})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-00000010.keras", "step-00000100.keras"]


def test_failed_save_leaves_what_was_there(tmp_path, model):
    checkpoints.save(tmp_path, model, 1, {"good": True})
    with pytest.raises(TypeError):
        checkpoints.save(tmp_path, model, 2, {"not JSON": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.keras"]
    assert checkpoints.restore(tmp_path)[1] == {"good": True}


@pytest.mark.parametrize("damage", [truncate, flip_a_byte, empty])
def test_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, model, damage):
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
def test_last_checkpoint_damaged_is_one_sentence_with_the_remedy(
    tmp_path, model, damage
):
    only = checkpoints.save(tmp_path, model, 1, {})
    damage(only)
    with pytest.raises(UserError) as caught:
        checkpoints.restore(tmp_path)
    said = str(caught.value)
    assert str(only) in said and "delete it" in said
    assert "\n" not in said
    assert only.exists()


def test_ordinary_keras_file_is_not_taken_for_a_checkpoint(tmp_path, model):
    path = tmp_path / "step-00000001.keras"
    model.save(path)
    with pytest.raises(UserError, match="has no member launch_state.json"):
        checkpoints.restore(tmp_path)


def test_whole_file_that_cannot_be_loaded_says_so(tmp_path, model):
    path = checkpoints.save(tmp_path, model, 1, {})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    config["class_name"], config["module"] = "Mystery", "nowhere"
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match="is whole but cannot be loaded"):
        checkpoints.restore(tmp_path)
