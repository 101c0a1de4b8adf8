"""TensorBoard events, read back from their files."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf
from launch.callbacks import Events, events
from launch.plots.sets import LEGEND, mask_image, with_legend
from launch.storage import event_files
from launch.tasks.metrics import METRICS

BLUE, AMBER, GREY = [0, 90, 181], [255, 176, 0], [236, 236, 236]


def read(folder):
    """{(tag, step): value} of a folder of events; each is there once."""
    found = {}
    for path in folder.glob("events.out.tfevents.*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                key = value.tag, event.step
                assert key not in found, key
                found[key] = tf.make_ndarray(value.tensor)
    return found


# --- Pictures ------------------------------------------------------------------------


def test_a_small_weight_has_a_pixel_for_each_entry():
    codes = np.array([2, 0, 1, 2, 0, 0]).reshape(1, 3, 2)
    assert mask_image(codes).tolist() == [[BLUE, GREY], [AMBER, BLUE], [GREY, GREY]]


@pytest.mark.parametrize("shape", [(300, 7), (5, 1000), (512, 512), (3, 3, 100, 30)])
def test_large_weight_is_averaged_and_keeps_its_proportions(shape):
    codes = np.random.default_rng(0).integers(0, 3, shape)
    picture = mask_image(codes)
    rows, columns = np.prod(shape[:-1]), shape[-1]
    assert picture.shape == (min(rows, 256), min(columns, 256), 3)
    expected = np.mean([BLUE, AMBER, GREY], axis=0)
    np.testing.assert_allclose(picture.mean((0, 1)), expected, atol=6)


def test_half_of_a_large_weight_is_half_of_its_picture():
    codes = np.zeros((1024, 600), "uint8")
    codes[:512] = 2
    picture = mask_image(codes)
    assert (picture[:128] == BLUE).all() and (picture[128:] == GREY).all()


def test_vectors_and_scalars_have_a_picture():
    assert mask_image(np.array([2, 1])).tolist() == [[BLUE, AMBER]]
    assert mask_image(np.array(0)).tolist() == [[GREY]]


def test_legend_lists_the_colours_in_order_below_the_picture():
    picture = mask_image(np.array([[2, 0], [1, 2]]))
    shown = with_legend(picture)
    # A weight of 2 x 2 entries is enlarged so that they can be seen.
    assert shown[:256].shape == (256, 256, 3)
    assert (shown[:128, :128] == BLUE).all() and (shown[128:256, :128] == AMBER).all()
    line = shown[256:]
    columns = [
        np.flatnonzero((line == colour).all(-1).any(0))
        for colour in (BLUE, AMBER, GREY)
    ]
    assert all(len(found) == 14 for found in columns[:2])
    assert columns[0][-1] < columns[1][0] < columns[2][0]
    assert (line == 70).all(-1).sum() > 100  # the letters
    for word in ("Blue: A", "Amber: B", "Grey: C"):
        assert word in LEGEND


@pytest.mark.parametrize("shape", [(1, 1), (300, 4), (4, 300), (256, 256)])
def test_legend_does_not_change_the_picture(shape):
    picture = mask_image(np.random.default_rng(0).integers(0, 3, shape))
    shown = with_legend(picture)
    times = 256 // max(picture.shape[:2])
    rows, columns = (times * length for length in picture.shape[:2])
    assert shown.shape[1] == max(columns, 126)
    np.testing.assert_array_equal(shown[:rows:times, :columns:times], picture)


# --- Files ---------------------------------------------------------------------------


def written(folder, steps, value=1.0):
    writer = tf.summary.create_file_writer(str(folder))
    for step in steps:
        with writer.as_default(step):
            tf.summary.scalar("loss", value * step)
    writer.close()


def test_going_back_keeps_each_event_up_to_the_step_once(tmp_path):
    written(tmp_path, [1, 2, 3])
    written(tmp_path, [3, 4, 5])
    assert event_files.go_back(tmp_path, 4) == {("loss", s) for s in (1, 2, 3, 4)}
    assert {step: float(v) for (_, step), v in read(tmp_path).items()} == {
        step: step for step in (1, 2, 3, 4)
    }
    assert len(list(tmp_path.iterdir())) == 1
    written(tmp_path, [5])
    assert event_files.go_back(tmp_path, 9) == {("loss", s) for s in range(1, 6)}


def test_event_truncated_by_a_kill_is_left_out(tmp_path):
    written(tmp_path, [1, 2, 3])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    assert event_files.go_back(tmp_path, 9) == {("loss", 1), ("loss", 2)}
    assert set(read(tmp_path)) == {("loss", 1), ("loss", 2)}


def test_going_back_in_a_missing_folder_does_nothing(tmp_path):
    assert event_files.go_back(tmp_path / "none", 3) == set()
    assert not (tmp_path / "none").exists()


# --- The callback --------------------------------------------------------------------


class Recorded:
    def __init__(self, rows):
        self.rows = rows


def row(step):
    return {"step": step, "epoch": 1, "objective": 2.0 * step, "test_accuracy": 0.5}


@pytest.mark.parametrize(("unit", "first"), [("image", "accuracy"), ("byte", "bpc")])
def test_main_metric_is_first_in_alphabetical_order(unit, first):
    """TensorBoard sorts the groups alphabetically."""
    others = ("objective", "exploration_loss", "learning_rate", "step_ms", "seconds")
    others = (*others, "processor_seconds")
    columns = [metric.column for metric in METRICS[unit].metrics]
    columns += [*others, "forward_sparsity", "backward_sparsity"]
    groups = [events._tag(column).partition("/") for column in columns]
    assert all(group and name for group, _, name in groups)
    assert min(group for group, _, _ in groups) == groups[0][0] == first
    assert len(set(groups)) == len(groups)


def test_resumed_run_writes_every_row_once(tmp_path):
    folder = tmp_path / "events"
    first = Events(tmp_path, Recorded([]), "--fwd=0.9\n", step=0, images=0)
    first.set_model(None)
    first.on_train_begin()
    for step in (5, 10, 15):
        first._recorder.rows.append(row(step))
        first._write_scalars(row(step))
    first.on_train_end()
    # The newest checkpoint is of step 12; the row of step 11 has no event yet.
    rows = [row(5), row(10), row(11)]
    again = Events(tmp_path, Recorded(rows), "--fwd=0.9\n", step=12, images=0)
    again.on_train_begin()
    again._write_scalars(row(15))
    again.on_train_end()
    found = read(folder)
    assert {s for tag, s in found if tag == "loss/objective"} == {5, 10, 11, 15}
    assert found["accuracy/test", 11] == 0.5 and found["loss/objective", 15] == 30.0
    assert found["flags", 0].item() == b"```\n--fwd=0.9\n```"


def test_counted_flops_are_written_once(tmp_path):
    model = small()
    [weight] = topkast_tf.sparse_weights(model)
    cost = topkast_tf.count_flops(model)
    for step in (
        0,
        7,
    ):  # of a run that ends, and of one that had ended but for its result
        one = Events(tmp_path, Recorded([]), "", step=step, images=0)
        one.write_counts(7, cost)
        one.on_train_end()
    found = read(tmp_path / "events")
    assert found["flops/training_over_dense", 7] == pytest.approx(cost.run_ratio)
    assert found[f"flops/training/{weight.path}", 7] == cost.run.training
    assert found["flops/inference", 7] == cost.sparse.forward


def test_values_of_each_set_are_histograms_beside_the_picture(tmp_path):
    model = small()
    one = Events(tmp_path, Recorded([]), "", step=0)
    one.set_model(model)
    one.on_train_begin()
    one._recorder.rows.append(row(5))
    one.on_epoch_end(0)
    one.on_train_end()
    found = read(tmp_path / "events")
    [weight] = topkast_tf.sparse_weights(model)
    kept, updated = weight.forward_mask(), weight.backward_mask()
    members = {"kept": kept, "explored": updated & ~kept, "reservoir": ~updated}
    for name, mask in members.items():
        bins = found[f"weights/{name}/{weight.path}", 5]  # rows of left, right, count
        assert bins[:, 2].sum() == mask.sum() > 0
        values = np.abs(weight.dense()[mask])
        assert np.abs(bins[:, :2]).max() == pytest.approx(values.max(), rel=1e-5)
    assert (f"sets/{weight.path}", 5) in found


def small():
    with topkast_tf.topkast_scope(fwd=0.8, bwd=0.5):
        layer = keras.layers.Dense(4)
    model = keras.Sequential([keras.Input((8,)), layer])
    model(np.zeros((1, 8)))
    return model
