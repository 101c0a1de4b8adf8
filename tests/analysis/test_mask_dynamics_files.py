"""Files of mask dynamics: valid paths, and damage that is reported or repaired."""

import keras
import pytest

from tests.analysis.mask_runs import as_new, fit
from topkast_tf import topkast_scope
from topkast_tf.analysis.mask_csv import COLUMNS
from topkast_tf.analysis.mask_dynamics import MaskDynamics


def test_sets_file_is_in_the_log_dir_without_a_csv(digits, tmp_path):
    log_dir = tmp_path / "made" / "here"
    fit(as_new(), digits, MaskDynamics(log_dir))
    assert (log_dir / "mask_dynamics.sets").exists()
    with pytest.raises(ValueError, match="another `log_dir` for a new run. Received"):
        fit(as_new(1, seed=1), digits, MaskDynamics(log_dir))


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "10"])
def test_every_out_of_range_is_an_error(tmp_path, every):
    with pytest.raises(
        ValueError, match=f"`every` must be .* Received: every={every!r}"
    ):
        MaskDynamics(csv=tmp_path / "masks.csv", every=every)


@pytest.mark.parametrize("log_dir", [None, "gs://bucket/events"])
def test_missing_output_path_is_an_error(log_dir):
    expected = f"Expected a `csv`.* Received: log_dir={log_dir!r}, csv=None"
    with pytest.raises(ValueError, match=expected):
        MaskDynamics(log_dir)


@pytest.mark.parametrize("name", ["missing/masks.csv", "."])
def test_invalid_csv_path_is_an_error(tmp_path, name):
    with pytest.raises(ValueError, match="in a folder that exists. Received: csv="):
        MaskDynamics(csv=tmp_path / name)


def test_a_csv_with_other_columns_is_an_error_and_kept(tmp_path):
    path = tmp_path / "masks.csv"
    path.write_text("epoch,loss\n0,1.5\n")
    with pytest.raises(ValueError, match="Received: csv=.* the columns epoch,loss"):
        MaskDynamics(csv=path)
    assert path.read_text() == "epoch,loss\n0,1.5\n"


def test_damaged_csv_is_restored_from_the_sets_file(digits, tmp_path):
    path = tmp_path / "masks.csv"
    model = as_new()
    fit(model, digits, MaskDynamics(csv=path, every=5))
    whole = path.read_bytes()
    path.write_bytes(b"\xff\xfe" + whole[40:])
    dynamics = MaskDynamics(csv=path, every=5)
    dynamics.set_model(model)
    dynamics.on_train_begin()
    dynamics.on_epoch_begin(0)
    assert path.read_bytes() == whole


def test_csv_without_its_sets_file_is_an_error_and_kept(digits, tmp_path):
    path = tmp_path / "masks.csv"
    text = ",".join(COLUMNS) + "\n5,0,(all),0.1,0,0.8,0.5,1.0\n"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"masks.csv.sets beside .* Received: csv="):
        fit(as_new(), digits, MaskDynamics(csv=path))
    assert path.read_text() == text


def test_a_model_with_nothing_sparse_is_an_error(digits, tmp_path):
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="sparsity scope. Received.*nothing is sparse"):
        fit(model, digits, MaskDynamics(csv=tmp_path / "masks.csv"))
    assert not list(tmp_path.iterdir())


def test_files_of_another_run_are_refused_and_kept(digits, tmp_path):
    path, memory = tmp_path / "masks.csv", tmp_path / "masks.csv.sets"
    fit(as_new(), digits, MaskDynamics(csv=path, every=5))
    files = path.read_bytes(), memory.read_bytes()
    with pytest.raises(ValueError, match="at step 0 has other sets"):
        fit(as_new(1, seed=1), digits, MaskDynamics(csv=path, every=5))
    with topkast_scope(fwd=0.5, bwd=0.5):
        other = keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
        )
    other.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match=r"Received: a model with the sparse weights"):
        fit(other, digits, MaskDynamics(csv=path, every=5))
    assert (path.read_bytes(), memory.read_bytes()) == files


def test_damaged_sets_file_is_an_error(digits, tmp_path):
    path, memory = tmp_path / "masks.csv", tmp_path / "masks.csv.sets"
    fit(as_new(), digits, MaskDynamics(csv=path, every=5))
    memory.write_bytes(b"something else")
    with pytest.raises(ValueError, match="`MaskDynamics` wrote. Delete.* Received: "):
        fit(as_new(), digits, MaskDynamics(csv=path, every=5))
    assert memory.read_bytes() == b"something else"
