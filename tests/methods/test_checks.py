"""Violations of the contract of a method are refused in one sentence."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from topkast_tf.core.schedules import UpdateSchedule
from topkast_tf.methods import GRADIENT, METHODS, Sets, register
from topkast_tf.methods.fixed_sparsity import FixedSparsity
from topkast_tf.methods.topkast import TopKAST


@pytest.fixture(autouse=True)
def _registered_here_alone():
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


def small(name, **arguments):
    arguments = {"sparsity": 0.8} | arguments
    with tk.sparse_scope(name, **arguments):
        model = keras.Sequential(
            [
                keras.Input((12,)),
                keras.layers.Dense(10, name="aa"),
                keras.layers.Dense(3, name="cc"),
            ]
        )
    model.compile("sgd", "mse")
    return model


def fit(model):
    x = np.random.default_rng(0).normal(size=(16, 12)).astype("float32")
    model.fit(x, x[:, :3], batch_size=8, verbose=0)


@pytest.mark.parametrize("name", ["static", "set", "rigl"])
@pytest.mark.parametrize(
    "distribution", [{"aa": 0.9}, lambda shapes: {"sequential/aa/kernel": 0.9}]
)
def test_a_mapping_gives_one_sparsity_to_a_weight_with_one_mask(
    name, distribution, tmp_path
):
    until = {} if name == "static" else {"update_until": 9, "update_every": 1}
    model = small(name, distribution=distribution, **until)
    aa, cc = tk.sparse_weights(model)
    assert (aa.fwd, aa.bwd, cc.fwd, cc.bwd) == (0.9, 0.9, 0.8, 0.8)
    fit(model)
    tk.refresh(model)
    np.testing.assert_array_equal(aa.backward_mask(), aa.forward_mask())
    assert aa.forward_mask().sum() == 12
    model.save(tmp_path / "model.keras")
    loaded = tk.sparse_weights(keras.saving.load_model(tmp_path / "model.keras"))
    np.testing.assert_array_equal(loaded[0].codes(), aa.codes())


def test_one_mask_methods_refuse_two_sparsities_or_masks():
    with pytest.raises(ValueError, match=r"one sparsity for .*aa/kernel.*\(0.9, 0.5\)"):
        small("static", distribution={"aa": (0.9, 0.5)})
    model = small("rigl", update_until=9)
    weight = tk.sparse_weights(model)[0]
    before = weight.codes()
    with pytest.raises(ValueError, match="backward=None .* 'rigl' has one mask"):
        weight.set_masks(np.eye(12, 10), np.ones((12, 10)))
    np.testing.assert_array_equal(weight.codes(), before)
    weight.set_masks(np.eye(12, 10), np.eye(12, 10))
    assert weight.forward_mask().sum() == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grow_init": "random_normal_0"}, "grow_init"),
        ({"grow_init": "zeros_5"}, "grow_init"),
        ({"slot_scale": float("nan")}, "finite number"),
        ({"slot_scale": "x"}, "finite number"),
        ({"update_replaces_step": "no"}, "True or False"),
        ({"total_steps": -3}, "a number of steps"),
    ],
)
def test_invalid_arguments_of_rigl_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small("rigl", update_until=9, **arguments)


def of_two_classes(**body):
    """Registers a method that is due at each step, with other attributes."""
    body = {"name": "mine", "schedule": UpdateSchedule(every=1, first=1), **body}
    return register(
        dataclasses.dataclass(frozen=True, kw_only=True)(
            type("Mine", (FixedSparsity,), body)
        )
    )


def test_method_name_of_another_class_is_refused():
    one = of_two_classes()
    assert of_two_classes() is METHODS["mine"] is not one  # defined again
    with pytest.raises(
        ValueError, match="no other method has.*'static'.*static.Static"
    ):
        of_two_classes(name="static")
    assert METHODS["topkast"] is TopKAST


@pytest.mark.parametrize("inputs", [("gradients",), "gradient"])
def test_unknown_inputs_are_refused(inputs):
    with pytest.raises(TypeError, match="Expected inputs of 'mine' out of"):
        of_two_classes(inputs=inputs)


def test_method_that_is_no_dataclass_is_refused():
    class Plain(FixedSparsity):
        pass

    with pytest.raises(TypeError, match="@register above.*Plain with name=None"):
        register(Plain)


def codes_of(weights, dtype=tf.uint8):
    return [tf.zeros(w.theta.shape, dtype) for w in weights]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (lambda w: None, "`topkast_tf.methods.Sets`"),
        (lambda w: Sets([], True), "1 tensors of codes"),
        (lambda w: Sets(codes_of(w, tf.int32), True), "uint8 codes of shape"),
        (
            lambda w: Sets([tf.zeros([2], tf.uint8)], True),
            r"uint8 codes.*.mine.*uint8 \(2,\)",
        ),
        (lambda w: Sets(codes_of(w), True, resets=[None]), "no `Sets.resets`"),
    ],
)
def test_invalid_results_of_update_are_refused(found, message):
    of_two_classes(update=lambda self, weights, step: found(weights))
    with pytest.raises(TypeError, match=f"Expected {message}"):
        fit(small("mine"))


def test_initial_codes_above_2_are_refused():
    def initial(self, weights):
        return Sets([codes + 3 for codes in codes_of(weights)], True)

    of_two_classes(initial=initial, update=lambda self, weights, step: None)
    with pytest.raises(TypeError, match="codes up to 2 from.*'mine'. Received: 3"):
        small("mine")


def test_python_bool_is_accepted_as_finite():
    of_two_classes(
        update=lambda self, weights, step: Sets([w.sets for w in weights], True)
    )
    model = small("mine")
    fit(model)
    assert tk.sparse_weights(model)[0].step == 2


def test_update_that_replaces_a_step_must_return_thresholds():
    of_two_classes(
        inputs=(GRADIENT,),
        replaces_step=True,
        update=lambda self, weights, step: Sets([w.sets for w in weights], True),
    )
    with pytest.raises(TypeError, match="thresholds of step \\+ 1"):
        fit(small("mine"))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("topkast", {}, "arguments of 'topkast'.*'bwd'.*Received: sparsity"),
        ("topkast", {"bwd": 0.8, "fwd": 0.9}, "'fwd'"),
        ("topkast", {"bwd": 0.8, "bdw": 0.9}, "'bdw'"),
        ("rigl", {"bwd": 0.8}, "arguments of 'rigl'.*bwd"),
    ],
)
def test_arguments_of_another_method_are_refused(name, arguments, message):
    with pytest.raises(TypeError, match=message):
        tk.sparse_scope(name, sparsity=0.9, **arguments)


def test_method_name_must_be_a_string():
    with pytest.raises(ValueError, match=r"Expected one of the methods.*\['rigl'\]"):
        tk.sparse_scope(["rigl"], sparsity=0.9)


def test_custom_masks_load_after_masks_of_their_size_are_set(tmp_path):
    model, again = small("static"), small("static")
    tk.sparse_weights(model)[0].set_masks(np.eye(12, 10))
    model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(
        ValueError, match="`set_masks`, call it with masks of these sizes"
    ):
        again.load_weights(tmp_path / "model.weights.h5")
    tk.sparse_weights(again)[0].set_masks(np.eye(12, 10)[::-1])
    again.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(
        tk.sparse_weights(again)[0].forward_mask(), np.eye(12, 10)
    )
