"""Mask dynamics: churn, use of the reservoir, and the callback that writes them."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests import zoo
from tests.analysis.mask_runs import as_new, column, fit, rows_of, small_model
from topkast_tf import sparse_weights, topkast_scope
from topkast_tf.analysis.mask_csv import ALL
from topkast_tf.analysis.mask_dynamics import MaskDynamics
from topkast_tf.analysis.mask_measures import churn, reservoir_used
from topkast_tf.variables.weight import SparseWeight


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([1, 1, 0, 0], [1, 1, 0, 0], 0.0),
        ([1, 1, 0, 0], [1, 0, 1, 0], 0.5),
        ([1, 1, 0, 0], [0, 0, 1, 1], 1.0),
        ([1, 1, 0, 0], [1, 1, 1, 0], 0.0),  # grew: nothing has left
        ([1, 1, 1, 0], [1, 0, 0, 0], 2 / 3),  # shrank: two of three have left
        ([0, 0, 0, 0], [1, 0, 0, 0], math.nan),
    ],
)
def test_churn_by_hand(before, after, expected):
    got = churn(np.array(before, bool), np.array(after, bool))
    assert got == pytest.approx(expected, nan_ok=True)


@given(hnp.arrays(bool, (3, 4)), st.randoms(use_true_random=False))
def test_churn_of_equal_sizes_is_half_the_symmetric_difference(before, random):
    shuffled = before.ravel().tolist()
    random.shuffle(shuffled)
    after = np.reshape(shuffled, before.shape)
    if not before.any():
        assert math.isnan(churn(before, after))
    else:
        expected = (before ^ after).sum() / (2 * before.sum())
        assert churn(before, after) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("codes", "ever", "expected"),
    [
        ([2, 1, 0, 0], [1, 0, 0, 0], 0.0),
        ([2, 1, 0, 0], [1, 1, 1, 0], 0.5),  # of C_0; what was in B does not count
        ([2, 1, 0, 0], [0, 0, 1, 1], 1.0),
        ([2, 1, 1, 1], [1, 1, 1, 1], math.nan),  # bwd=0: there is no reservoir
    ],
)
def test_reservoir_used_by_hand(codes, ever, expected):
    got = reservoir_used(np.array(codes, np.uint8), np.array(ever, bool))
    assert got == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("function", [churn, reservoir_used])
def test_arrays_of_different_shapes_are_an_error(function):
    with pytest.raises(ValueError, match=r"same shape.*Received.*\(2,\).*\(1, 2\)"):
        function(np.zeros(2, bool), np.zeros((1, 2), bool))


def test_measurements_of_three_steps_by_hand(tmp_path):
    with topkast_scope(fwd=0.5, bwd=0.25, exploration=0.1):
        model = keras.Sequential(
            [keras.Input((1,)), keras.layers.Dense(4, use_bias=False, name="dense")]
        )
    model.layers[0].kernel.assign([[4.0, 3.0, 2.0, 1.0]])
    dynamics = MaskDynamics(csv=tmp_path / "masks.csv", every=1)
    dynamics.set_model(model)
    dynamics.on_train_begin()
    dynamics.on_epoch_begin(0)
    sgd = keras.optimizers.SGD(1.0)
    thetas = [[4, 3, 5, 1], [4, 0.5, 5, 1], [4, 0.5, 5, 10]]
    for batch, theta in enumerate(thetas):
        gradient = model.layers[0].kernel.numpy() - np.array([theta])
        sgd.apply([tf.constant(gradient, tf.float32)], model.trainable_variables)
        dynamics.on_train_batch_end(batch)
    # A: {0, 1}, {2, 0}, {2, 0}, {3, 2}; C_0 = {3}, which enters B at step 2.
    # Loss: 0.1 (1/2 sum_A + 1/2 / 0.5 sum_{B without A}) of the squares.
    path = sparse_weights(model)[0].path
    expected = [
        (0, None, math.nan, 0.0, (16 + 9) / 2 + 4),
        (1, 0, 0.5, 0.0, (16 + 25) / 2 + 9),
        (2, 1, 0.0, 0.0, (16 + 25) / 2 + 1),
        (3, 2, 0.5, 1.0, (100 + 25) / 2 + 16),
    ]
    rows = rows_of(tmp_path / "masks.csv")
    assert [row["weight"] for row in rows] == [path, ALL] * 4
    for name in (path, ALL):
        got = list(
            zip(
                *(
                    column(rows, column_name, name)
                    for column_name in (
                        "step",
                        "since",
                        "churn",
                        "reservoir_used",
                        "exploration_loss",
                    )
                ),
                strict=True,
            )
        )
        for measured, (step, since, churned, used, loss) in zip(
            got, expected, strict=True
        ):
            since = math.nan if since is None else since
            assert measured == pytest.approx(
                (step, since, churned, used, 0.1 * loss), nan_ok=True
            )
        assert column(rows, "forward_sparsity", name) == [0.5] * 4
        assert column(rows, "backward_sparsity", name) == [0.25] * 4


class Watcher(keras.callbacks.Callback):
    """Keeps the sets after every batch, as an oracle."""

    def on_train_begin(self, logs=None):
        self.codes = [[w.codes() for w in sparse_weights(self.model)]]

    def on_train_batch_end(self, batch, logs=None):
        self.codes.append([w.codes() for w in sparse_weights(self.model)])


@pytest.mark.parametrize("jit_compile", [True, False])
def test_fit_measurements_equal_those_of_every_step(digits, tmp_path, jit_compile):
    path = tmp_path / "masks.csv"
    model = small_model(jit_compile=True) if jit_compile else as_new()
    watcher = Watcher()
    fit(model, digits, MaskDynamics(csv=path, every=5), watcher, epochs=2)
    rows = rows_of(path)
    weights = sparse_weights(model)
    assert len(rows) == 5 * (len(weights) + 1)
    forward = [[code == 2 for code in codes] for codes in watcher.codes]
    churns, used = [], []
    for i, weight in enumerate(weights):
        steps = [0, 5, 10, 15, 20]
        expected = [
            (forward[a][i] ^ forward[b][i]).sum() / (2 * forward[a][i].sum())
            for a, b in zip(steps, steps[1:], strict=False)
        ]
        assert column(rows, "churn", weight.path)[1:] == pytest.approx(expected)
        reservoir = watcher.codes[0][i] == 0
        ever = np.logical_or.accumulate([forward[step][i] for step in steps])
        reached = [(reservoir & e).sum() / reservoir.sum() for e in ever]
        assert column(rows, "reservoir_used", weight.path) == pytest.approx(reached)
        churns.append(expected)
        used.append(reached)
    assert column(rows, "churn")[1:] == pytest.approx(np.mean(churns, axis=0))
    assert column(rows, "reservoir_used") == pytest.approx(np.mean(used, axis=0))
    # The test is meaningful only if the sets move and the reservoir is used.
    assert min(column(rows, "churn")[1:]) > 0
    assert column(rows, "reservoir_used")[-1] > 0
    sizes = [math.prod(weight.shape) for weight in weights]
    for name, measure in (("forward", "forward_mask"), ("backward", "backward_mask")):
        kept = sum(getattr(weight, measure)().sum() for weight in weights)
        last = column(rows, f"{name}_sparsity")[-1]
        assert last == pytest.approx(1 - kept / sum(sizes))
    per_weight = [column(rows, "exploration_loss", w.path) for w in weights]
    total = column(rows, "exploration_loss")
    assert total == pytest.approx(np.sum(per_weight, axis=0))


def test_exploration_loss_equals_the_sum_of_model_losses(digits, tmp_path):
    model = as_new()
    fit(model, digits, MaskDynamics(csv=tmp_path / "masks.csv", every=12))
    last = column(rows_of(tmp_path / "masks.csv"), "exploration_loss")[-1]
    assert last > 0
    assert last == pytest.approx(float(sum(model.losses)), rel=1e-6)


def test_tensorboard_events_equal_the_csv(digits, tmp_path):
    model = as_new()
    dynamics = MaskDynamics(tmp_path / "events", tmp_path / "masks.csv", every=4)
    fit(model, digits, dynamics)
    [events] = (tmp_path / "events").iterdir()
    written = {}
    for record in tf.data.TFRecordDataset(str(events)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            scalar = float(tf.make_ndarray(value.tensor))
            written.setdefault(value.tag, []).append((event.step, scalar))
    rows = rows_of(tmp_path / "masks.csv")
    names = {weight.path: weight.path for weight in sparse_weights(model)}
    of_all = {
        "churn": "mean",
        "reservoir_used": "mean",
        "forward_sparsity": "all",
        "backward_sparsity": "all",
        "exploration_loss": "sum",
    }
    expected = {
        f"masks/{measure}/{tag}": [
            (step, pytest.approx(value))
            for step, value in zip(
                column(rows, "step"), column(rows, measure, name), strict=True
            )
            if not math.isnan(value)
        ]
        for measure, tag_of_all in of_all.items()
        for name, tag in {**names, ALL: tag_of_all}.items()
    }
    assert written == expected
    assert [step for step, _ in written["masks/churn/mean"]] == [4, 8, 12]


def test_accumulation_calls_are_not_counted_as_steps(digits, tmp_path):
    path = tmp_path / "masks.csv"
    sgd = keras.optimizers.SGD(0.1, gradient_accumulation_steps=3)
    fit(small_model(optimizer=sgd), digits, MaskDynamics(csv=path, every=2))
    assert column(rows_of(path), "step") == [0, 2, 4]


def test_calls_of_several_steps_are_measured_once_at_the_end(digits, tmp_path):
    path = tmp_path / "masks.csv"
    model = small_model(steps_per_execution=4)
    fit(model, digits, MaskDynamics(csv=path, every=3))
    rows = rows_of(path)
    assert column(rows, "step") == [0, 4, 8, 12]
    assert column(rows, "since")[1:] == [0, 4, 8]


def test_model_built_by_fit(digits, tmp_path):
    class Late(keras.Model):
        def __init__(self):
            super().__init__()
            self.flatten = keras.layers.Flatten()
            self.dense = keras.layers.Dense(10)

        def call(self, inputs):
            return self.dense(self.flatten(inputs))

    with topkast_scope(fwd=0.8, bwd=0.5):
        model = Late()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    path = tmp_path / "masks.csv"
    fit(model, digits, MaskDynamics(csv=path, every=6))
    assert column(rows_of(path), "step") == [1, 6, 12]  # at step 0 there was nothing


def test_last_exempt_weight_is_left_out(digits, tmp_path):
    with topkast_scope(fwd=0.8, bwd=0.5, exempt="last"):
        model = keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Flatten()]
            + [keras.layers.Dense(10, name=name) for name in ("hidden", "logits")]
        )
    model.compile("sgd", "mse")
    path = tmp_path / "masks.csv"
    dynamics = MaskDynamics(csv=path)
    dynamics.set_model(model)
    dynamics.on_train_begin()
    dynamics.on_epoch_begin(0)
    names = [row["weight"] for row in rows_of(path)]
    assert names == ["sequential/hidden/kernel", ALL]


def test_on_two_mirrored_devices(digits, tmp_path):
    path = tmp_path / "masks.csv"
    with zoo.two_devices().scope():
        model = small_model()
    fit(model, digits, MaskDynamics(csv=path, every=6))
    rows = rows_of(path)
    assert column(rows, "step") == [0, 6, 12]
    assert min(column(rows, "churn")[1:]) > 0
    conv = sparse_weights(model)[0]
    other = conv.replica(1).sets.numpy()
    assert column(rows, "forward_sparsity", conv.path)[-1] == pytest.approx(
        1 - (other == 2).mean()
    )


def test_step_counter_is_not_read_at_every_batch(digits, tmp_path, monkeypatch):
    model, asked = as_new(), []
    calls = SparseWeight.calls

    def counting(self):
        asked.append(self.path)
        return calls.fget(self)

    monkeypatch.setattr(SparseWeight, "calls", property(counting))
    fit(model, digits, MaskDynamics(csv=tmp_path / "masks.csv", every=6), epochs=2)
    times = 1 + 4  # the beginning, and the measurements
    assert len(asked) == times * len(sparse_weights(model))
