"""Non-finite loss, weights or gradients: where and when they are detected."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from launch import callbacks, train
from launch.run import gradient_guard, training
from launch.storage import diagnosis
from launch.support.errors import UserError
from launch.tasks import task_of
from tests.launch import plain_model
from tests.launch.runs import settings
from topkast_tf import topkast_scope

NAN, INF = float("nan"), float("inf")


def network(scope=None, jit=False):
    """A model of three layers, whose names are in the paths."""
    with scope or topkast_scope(fwd=0.5, bwd=0.25):
        model = keras.Sequential(
            [
                keras.Input((4,)),
                *(keras.layers.Dense(4, "relu", name=n) for n in ("low", "middle")),
                keras.layers.Dense(2, name="top"),
            ]
        )
    model.compile(keras.optimizers.SGD(0.1, 0.9), "mse", jit_compile=jit)
    return model


def batch(rows=3):
    x = np.random.default_rng(0).normal(size=(rows, 4)).astype("float32")
    return tf.constant(x), tf.ones((rows, 2))


def paths(bad):
    return [b.path for b in bad]


# --- The guard -----------------------------------------------------------------------


def test_guard_keeps_finite_steps_bitwise():
    found = []
    for guarded in (False, True):
        keras.utils.set_random_seed(1)
        model = network()
        counter = gradient_guard.guard(model) if guarded else tf.constant(0)
        model.fit(*batch(12), batch_size=3, epochs=2, shuffle=False, verbose=0)
        assert int(counter) == 0
        found.append(model.variables + model.optimizer.variables)
    assert len(found[0]) == len(found[1])
    for plain, guarded in zip(*found, strict=True):
        assert plain.numpy().tobytes() == guarded.numpy().tobytes(), plain.path


@pytest.mark.parametrize(("value", "jit"), [(NAN, True), (NAN, False), (INF, False)])
def test_guard_discards_a_non_finite_gradient(value, jit):
    model = network(jit=jit)
    counter = gradient_guard.guard(model)
    before = [variable.numpy() for variable in model.trainable_variables]
    x, y = batch()
    model.train_on_batch(x, tf.tensor_scatter_nd_update(y, [[0, 0]], [value]))
    assert int(counter) == 1
    for variable, old in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)


def test_guard_handles_slices_and_missing_gradients():
    slices = tf.IndexedSlices(tf.constant([[1.0, INF]]), tf.constant([0]))
    assert not gradient_guard.all_finite([None, slices])
    assert gradient_guard.all_finite([None, tf.constant([1e18])])
    kept, none = gradient_guard._or_zeros(tf.constant(False), [slices, None])
    assert none is None
    assert kept.values.numpy().tolist() == [[0.0, 0.0]]


def test_non_finite_loss_marks_the_smallest_gradient():
    slices = tf.IndexedSlices(tf.constant([[1.0]]), tf.constant([0]))
    given = [None, tf.ones((2, 2)), slices, tf.ones(3)]
    for loss in (INF, NAN):
        none, large, same, small = gradient_guard.marked(given, tf.constant(loss))
        assert none is None and same is slices
        assert large.numpy().tolist() == [[1, 1], [1, 1]]
        assert np.isnan(small).all()
    *_, small = gradient_guard.marked(given, tf.constant(1.0))
    assert small.numpy().tolist() == [1, 1, 1]


def test_saved_model_has_no_guard(tmp_path):
    model = network()
    gradient_guard.guard(model)
    assert gradient_guard.guard(model) is gradient_guard.guard(model)
    model.train_on_batch(*batch())
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert len(again.optimizer.variables) == len(model.optimizer.variables)
    assert "apply" not in vars(again.optimizer)


# --- The diagnosis -------------------------------------------------------------------


def test_only_the_non_finite_weight_is_named():
    model = network(contextlib.nullcontext())
    kernel = model.get_layer("middle").kernel
    kernel.assign(tf.tensor_scatter_nd_update(kernel.value, [[1, 2]], [NAN]))
    found = diagnosis.findings(model, batch=None)
    assert found.bad == [diagnosis.Bad("sequential/middle/kernel", 1, 16)]
    with pytest.raises(FloatingPointError, match="middle/kernel is not finite"):
        diagnosis.check_finite(model)


def test_non_finite_gradients_are_named_last_layer_first():
    model = network(contextlib.nullcontext())
    for name, value in (("low", 0.5), ("middle", 0.5), ("top", 1e30)):
        kernel = model.get_layer(name).kernel
        kernel.assign(np.full(kernel.shape, value))
    found = diagnosis.findings(model, lambda: (tf.ones((3, 4)), tf.ones((3, 2))))
    # The gradient of `top` is about 1e30; in its product with the kernel it overflows.
    assert [path.split("/")[1:] for path in paths(found.bad)] == [
        ["middle", "bias"],
        ["middle", "kernel"],
        ["low", "bias"],
        ["low", "kernel"],
    ]
    assert found.what.endswith("the last layer first:")


def test_non_finite_gradient_names_its_layer_alone():
    @tf.custom_gradient
    def exploding(x):
        return x, lambda upstream: upstream * INF

    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(4, name="low")(inputs)
    hidden = keras.layers.Lambda(exploding, output_shape=(4,))(hidden)
    model = keras.Model(inputs, keras.layers.Dense(2, name="top")(hidden))
    model.compile("sgd", "mse")
    found = diagnosis.findings(model, batch)
    assert paths(found.bad) == ["low/bias", "low/kernel"]
    stop = callbacks.StopOnNaN()
    with pytest.raises(callbacks.NotFinite, match="the gradient is not finite") as e:
        model.fit(*batch(), verbose=0, callbacks=[stop])
    assert e.value.step == stop.step == 1


def test_non_finite_batch_is_named():
    x, y = batch()
    x = tf.tensor_scatter_nd_update(x, [[0, 0], [2, 3]], [NAN, INF])
    found = diagnosis.findings(network(), lambda: (x, y))
    assert found.bad == [diagnosis.Bad("inputs", 2, 12)]


def test_non_finite_statistic_is_named():
    model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])
    model.compile("sgd", "mse")
    model.layers[0].moving_variance.assign([1.0, INF, 1.0, 1.0])
    x, _ = batch()
    found = diagnosis.findings(model, lambda: (x, x))
    assert [path.split("/")[-1] for path in paths(found.bad)] == ["moving_variance"]


def test_message_has_ten_paths_and_the_newest_checkpoint(tmp_path):
    for step in (9, 10, 100):
        (tmp_path / f"step-{step:08d}.keras").touch()
    (tmp_path / "best.keras").touch()
    bad = [diagnosis.Bad(f"layer{i}/kernel", i + 1, 2000) for i in range(12)]
    said = str(
        diagnosis.stopped(
            "swat", 137, "the loss is nan", diagnosis.Findings("Why:", bad), tmp_path
        )
    ).splitlines()
    assert said[0] == "swat training stopped at step 137: the loss is nan."
    assert said[2].split() == ["layer0/kernel", "1", "of", "2,000", "entries"]
    assert said[11].startswith("  layer9/kernel") and said[12] == "  and 2 more"
    assert said[13] == f"Last good checkpoint: {tmp_path}/step-00000100.keras"
    assert "--learning_rate" in said[14] and "--clip_norm" in said[14]


# --- Through the launcher ------------------------------------------------------------

TINY = (
    *("--nodeterministic", "--model=normed", "--batch_size=256", "--epochs=2"),
    *("--dynamics_every=2", "--evaluate_every=4"),
)


@pytest.fixture(autouse=True)
def _a_model_that_is_quickly_traced():
    plain_model.register()


class Inject(keras.callbacks.Callback):
    """Makes one weight NaN, or the inputs huge, before a step."""

    def __init__(self, step, change):
        super().__init__()
        self.step, self.change = step, change

    def on_train_batch_begin(self, batch, logs=None):
        if callbacks.steps_taken(self.model) == self.step - 1:
            self.change(self.model)


def ruin(model):
    kernel = model.get_layer("logits").kernel
    kernel.assign(tf.tensor_scatter_nd_update(kernel.value, [[1, 2]], [NAN]))


def said_of(monkeypatch, folder, *arguments, inject=None):
    asked = settings(*arguments, f"--run_dir={folder}")
    task = task_of(asked)
    if inject is not None:
        monkeypatch.setattr(task, "callbacks", lambda: [inject])
    task.load()
    folder.mkdir(exist_ok=True)
    with pytest.raises(UserError) as caught:
        training.train(task, asked.method)
    return str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--method=dense",),
        pytest.param(("--method=topkast", "--exempt=last"), marks=pytest.mark.slow),
        pytest.param(("--method=swat", "--exempt=last"), marks=pytest.mark.slow),
        pytest.param(
            ("--method=topkast", "--jit", "--exempt=last"), marks=pytest.mark.slow
        ),
    ],
    ids=" ".join,
)
def test_injected_nan_is_reported_with_step_and_checkpoint(
    monkeypatch, tmp_path, arguments
):
    said = said_of(
        *(monkeypatch, tmp_path / "run", *TINY, *arguments), inject=Inject(6, ruin)
    ).splitlines()
    method = arguments[0].removeprefix("--method=")
    assert said[0].startswith(f"{method} training stopped at step 6: ")
    assert said[1] == "Not finite among its weights:"
    assert said[2].split()[:2] == ["logits/kernel", "1"]
    good = tmp_path / "run" / method / "checkpoints" / "step-00000004.keras"
    assert said[3] == f"Last good checkpoint: {good}"
    for variable in keras.models.load_model(good).variables:
        assert np.isfinite(variable.numpy()).all()


def test_nan_in_a_selection_names_the_layer(monkeypatch, tmp_path):
    """Here the kernel with the NaN is sparse itself, and its sets are selected."""
    said = said_of(
        *(monkeypatch, tmp_path / "run", *TINY, "--method=topkast"),
        inject=Inject(3, ruin),
    ).splitlines()
    assert said[0].startswith("topkast training stopped at step 3: ")
    assert said[2].split()[0] == "logits/kernel" and len(said) == 5
    assert said[3] == "There is no checkpoint from before it."


def test_no_checkpoint_is_written_with_a_nan_not_yet_in_the_loss(monkeypatch, tmp_path):
    class Late(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if callbacks.steps_taken(self.model) == 4:
                ruin(self.model)

    said = said_of(
        *(monkeypatch, tmp_path / "run", *TINY, "--method=dense"),
        *("--checkpoint_steps=2", "--evaluate_every=8"),
        inject=Late(),
    )
    assert "stopped at step 4: logits/kernel is not finite" in said
    names = [p.name for p in (tmp_path / "run/dense/checkpoints").iterdir()]
    assert names == ["step-00000002.keras"]


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=pytest.mark.slow) for m in ("dense", "topkast", "swat")],
)
def test_diverging_language_model_is_reported(method, monkeypatch, tmp_path):
    text = tmp_path / "text.txt"
    text.write_bytes(b"abcdeabcab" * 90)
    said = said_of(
        *(monkeypatch, tmp_path / "run", "--nodeterministic", "--dataset=bytes"),
        *(f"--data_dir={text}", f"--text_cache={tmp_path / 'cache'}"),
        *("--model=txl_tiny", "--batch_size=5", "--segment_length=16"),
        *("--learning_rate=1e30", "--steps=9", "--dynamics_every=0"),
        f"--method={method}",
    )
    assert f"{method} training stopped at step 2: " in said
    assert "Not finite among" in said and " entries" in said


def test_huge_learning_rate_stops_within_five_steps(capsys, tmp_path):
    flags = ["train.py", *TINY, f"--run_dir={tmp_path}/run", "--learning_rate=1e30"]
    assert train.main(flags) == 4
    said = capsys.readouterr().err
    assert said.startswith("error: topkast training stopped at step ")
    step = int(said.split("step ")[1].split(":")[0])
    assert 1 < step <= 5
    assert "Traceback" not in said and " entries" in said
    assert not (tmp_path / "run/topkast/checkpoints").exists()
