"""Mask dynamics of interrupted runs equal those of an uninterrupted run."""

import keras
import pytest

from tests.analysis.mask_runs import (
    BATCH,
    as_new,
    column,
    fit,
    rows_of,
    small_model,
)
from topkast_tf.analysis.mask_dynamics import MaskDynamics


class Interrupt(keras.callbacks.Callback):
    """Kills a run after a number of batches."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def undisturbed(digits, tmp_path_factory):
    """The CSV of three uninterrupted epochs."""
    path = tmp_path_factory.mktemp("undisturbed") / "masks.csv"
    fit(as_new(), digits, MaskDynamics(csv=path, every=5), epochs=3)
    return path.read_bytes()


def interrupted(digits, folder, after, backup_first=False):
    """Trains three epochs, or less when it is interrupted; saves after each epoch."""
    dynamics = MaskDynamics(csv=folder / "masks.csv", every=5)
    backup = keras.callbacks.BackupAndRestore(folder / "backup")
    callbacks = [backup, dynamics] if backup_first else [dynamics, backup]
    model = as_new(0 if after > 0 else 1)
    fit(model, digits, *callbacks, Interrupt(after), epochs=3)


@pytest.mark.parametrize(
    ("after", "backup_first"),
    # In the first epoch, before there is a checkpoint; one measurement after the last.
    [(6, False), (21, False), (21, True), (30, True)],
)
def test_resumed_run_equals_uninterrupted_run(
    digits, undisturbed, tmp_path, after, backup_first
):
    path = tmp_path / "masks.csv"
    with pytest.raises(KeyboardInterrupt):
        interrupted(digits, tmp_path, after, backup_first)
    interrupted(digits, tmp_path, -1, backup_first)
    assert path.read_bytes() == undisturbed


def test_resume_from_a_checkpoint_saved_before_its_measurement(digits, tmp_path):
    class Save(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 9:
                self.model.save_weights(tmp_path / "at_10.weights.h5")
                raise KeyboardInterrupt

    path = tmp_path / "masks.csv"
    model = small_model(optimizer=keras.optimizers.SGD(0.1))
    new = model.get_weights()
    with pytest.raises(KeyboardInterrupt):
        fit(model, digits, Save(), MaskDynamics(csv=path, every=5))
    assert column(rows_of(path), "step") == [0, 5]
    other = small_model(optimizer=keras.optimizers.SGD(0.1), seed=1)
    other.load_weights(tmp_path / "at_10.weights.h5")
    images, labels = digits
    resumed = (images[10 * BATCH :], labels[10 * BATCH :])
    fit(other, resumed, MaskDynamics(csv=path, every=5), batches=2)
    whole = tmp_path / "whole.csv"
    model.set_weights(new)
    fit(model, digits, MaskDynamics(csv=whole, every=5))
    assert path.read_bytes() == whole.read_bytes()


def test_several_fits_equal_one_fit(digits, undisturbed, tmp_path):
    path = tmp_path / "masks.csv"
    model = as_new()
    dynamics = MaskDynamics(csv=path, every=5)
    for _ in range(3):
        fit(model, digits, dynamics)
    assert path.read_bytes() == undisturbed


@pytest.mark.parametrize("lost", [1, 400])
def test_files_truncated_by_a_kill_are_repaired(digits, undisturbed, tmp_path, lost):
    path, memory = tmp_path / "masks.csv", tmp_path / "masks.csv.sets"
    with pytest.raises(KeyboardInterrupt):
        interrupted(digits, tmp_path, after=16)
    path.write_bytes(path.read_bytes()[:-7])
    memory.write_bytes(memory.read_bytes()[:-lost])
    interrupted(digits, tmp_path, after=-1)
    assert path.read_bytes() == undisturbed


def test_sets_file_alone_restores_the_csv(digits, undisturbed, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted(digits, tmp_path, after=16)
    (tmp_path / "masks.csv").unlink()
    interrupted(digits, tmp_path, after=-1)
    assert (tmp_path / "masks.csv").read_bytes() == undisturbed
