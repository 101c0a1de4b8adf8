"""Each private name of Keras and TensorFlow that is used exists and works as expected.

If a new version moves one, its test fails here, instead of hundreds elsewhere.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests import zoo
from topkast_tf import compat

LIBRARIES = pytest.mark.parametrize("library", [keras, tf_keras])


def dense(library, **arguments):
    layer = library.layers.Dense(2, **arguments)
    layer.build((None, 3))
    return layer


def updated(library, optimizer, times=1):
    """An optimizer that has updated two variables, and these."""
    made = [tf.Variable([1.0, 2.0]), tf.Variable([[3.0, 4.0]])]
    if library is keras:
        made = [keras.Variable(v) for v in made]
    for _ in range(times):
        pairs = [(tf.ones(v.shape), v) for v in made]
        optimizer.apply_gradients(pairs)
    return optimizer, made


@LIBRARIES
def test_layers_within(library):
    inner = library.Sequential([library.layers.Dense(2), library.layers.ReLU()])
    outer = library.Sequential([inner, library.layers.Dense(3)])
    found = compat.layers_within(outer)
    assert found[0] is outer and set(map(id, inner.layers)) < set(map(id, found))
    assert compat.layers_within(tf.Module()) == []


def test_seed_generators():
    layer = keras.layers.Dropout(0.5, seed=3)
    [generator] = compat.seed_generators(layer)
    assert generator.state.shape == (2,) and int(generator.state[0]) == 3
    assert compat.seed_generators(keras.layers.ReLU()) == []


def test_function_and_nodes_of_models():
    inputs = keras.Input((3,))
    x = keras.layers.Dense(2, name="a")(inputs)
    functional = keras.Model(inputs, x + keras.layers.Dense(2, name="b")(x))
    names = [n.operation.name for n in compat.nodes_of(compat.function_of(functional))]
    assert names[:2] == ["a", "b"] and len(names) == 3
    *made, added = [n.operation for n in compat.nodes_of(functional)]
    assert compat.is_operation(added) and type(added).__name__ == "Add"
    assert not any(map(compat.is_operation, (*made, keras.layers.Add())))
    sequential = keras.Sequential([keras.Input((3,)), keras.layers.ReLU(name="r")])
    [node] = compat.nodes_of(compat.function_of(sequential))
    assert node.operation.name == "r" and not node.arguments.kwargs
    assert node.input_tensors[0] is compat.function_of(sequential).inputs[0]
    assert len(node.arguments.args) == len(node.outputs) == 1
    for other in (keras.Sequential([keras.layers.ReLU()]), zoo.Subclassed()):
        assert compat.function_of(other) is None


@LIBRARIES
def test_variable_lists(library):
    layer = library.layers.BatchNormalization()
    layer.build((None, 3))
    trainable, other = (getattr(layer, name) for name in compat.variable_lists(layer))
    assert [len(trainable), len(other)] == [2, 2]
    assert all(v.trainable for v in trainable) and not any(v.trainable for v in other)


@LIBRARIES
def test_set_constraint(library):
    layer = library.layers.Dense(2, kernel_constraint="non_neg")
    layer.build((None, 3))
    compat.set_constraint(layer.kernel, library.constraints.UnitNorm())
    layer.kernel.assign(np.full((3, 2), -2.0))
    model = library.Sequential([layer])
    model.compile(library.optimizers.SGD(0.0), "mse")
    model.train_on_batch(np.ones((1, 3)), np.ones((1, 2)))
    np.testing.assert_allclose(layer.kernel, np.full((3, 2), -(3**-0.5)), rtol=1e-5)


@LIBRARIES
def test_causal_padding(library):
    layer = library.layers.Conv1D(2, 3, padding="causal", dilation_rate=2)
    arguments = () if library is keras else (tf.zeros([1, 5, 2]),)
    padding = np.asarray(compat.causal_padding(layer, *arguments)).tolist()
    assert padding == [[0, 0], [4, 0], [0, 0]]


def test_grouped_convolution():
    layer = tf_keras.layers.Conv2D(4, 1, groups=2)
    layer.build((None, 2, 2, 2))
    product = compat.grouped_convolution(layer)
    assert product(tf.ones([1, 2, 2, 2]), layer.kernel).shape == (1, 2, 2, 4)


def test_compile_arguments():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    assert compat.compile_arguments(model) is None
    model.compile("sgd", "mse")
    assert compat.compile_arguments(model)["loss"] == "mse"


def test_is_saving_legacy_file(tmp_path):
    seen = []

    @keras.saving.register_keras_serializable("compat")
    class Spy(keras.layers.Layer):
        def get_config(self):
            seen.append(compat.is_saving_legacy_file())
            return super().get_config()

    model = keras.Sequential([keras.Input((3,)), Spy()])
    for name in ("model.keras", "model.h5"):
        model.save(tmp_path / name)
    assert seen[0] is False and seen[-1] is True


def test_raw_variable():
    variable = keras.Variable([1.0])
    assert isinstance(compat.raw_variable(variable), tf.Variable)
    plain = tf.Variable([1.0])
    assert compat.raw_variable(plain) is plain and compat.raw_variable(None) is None
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    assert compat.raw_variable(dense(keras).kernel).dtype == tf.float32
    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        assert compat.raw_variable(dense(tf_keras).kernel).dtype == tf.float32
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")


@LIBRARIES
def test_build_optimizer(library):
    optimizer, variable = library.optimizers.Adam(), tf.Variable([1.0, 2.0])
    for _ in range(2):
        compat.build_optimizer(optimizer, [variable])
        [momentum] = compat.momentums(optimizer)
        assert momentum.shape == (2,)


@LIBRARIES
def test_slots_of_optimizers(library):
    optimizer, made = updated(library, library.optimizers.Adam(0.1, beta_1=0.5))
    assert compat.variable_count(optimizer) == 2
    momentums = compat.momentums(optimizer)
    for variable in made:
        found = momentums[compat.index_of(optimizer, variable)]
        assert found.shape == variable.shape
        np.testing.assert_allclose(found.numpy(), 0.5)
    assert compat.momentums(updated(library, library.optimizers.Adagrad())[0]) == []
    lists = {name for name, v in vars(optimizer).items() if isinstance(v, list)}
    assert "_variables" in lists and set(compat.NO_SLOTS) >= {"_variables"}


def test_trainable_variables():
    optimizer, made = updated(keras, keras.optimizers.SGD())
    assert list(map(id, compat.trainable_variables(optimizer))) == list(map(id, made))
    assert compat.trainable_variables(keras.optimizers.SGD()) == []


def test_moving_average():
    optimizer, [first, _] = updated(keras, keras.optimizers.SGD(0.1, use_ema=True))
    average = compat.moving_average(optimizer, first)
    assert average.shape == first.shape and "average" in average.path
    plain, [first, _] = updated(keras, keras.optimizers.SGD(0.1))
    assert compat.moving_average(plain, first) is None


def test_is_stateless():
    assert not compat.is_stateless()
    with keras.StatelessScope():
        assert compat.is_stateless()
    assert not compat.is_stateless()


def test_accumulated_gradients():
    sgd = keras.optimizers.SGD(gradient_accumulation_steps=3, use_ema=True)
    optimizer, [first, _] = updated(keras, sgd, times=2)
    assert int(compat.calls(optimizer)) == 2 and int(optimizer.iterations) == 0
    total = compat.accumulated_gradient(optimizer, first)
    np.testing.assert_array_equal(total.numpy(), [2.0, 2.0])
    compat.clear_accumulated_gradients(optimizer)
    assert not np.any(total.numpy())
    assert compat.accumulated_gradient(keras.optimizers.SGD(), first) is None
    for name in compat.NO_SLOTS:
        assert isinstance(getattr(optimizer, name), list), name


@LIBRARIES
def test_uses_weight_decay(library):
    optimizer, [first, second] = updated(library, library.optimizers.AdamW())
    assert compat.uses_weight_decay(optimizer, first)
    optimizer = library.optimizers.AdamW()
    optimizer.exclude_from_weight_decay([first])
    optimizer.build([first, second])
    assert not compat.uses_weight_decay(optimizer, first)
    assert compat.uses_weight_decay(optimizer, second)


def test_the_sum_over_replicas_can_be_left_out():
    assert compat.sums_over_replicas(keras.optimizers.SGD())
    assert not compat.sums_over_replicas(object())
    strategy = zoo.two_devices()
    with strategy.scope():
        optimizer, variable = keras.optimizers.SGD(1.0), keras.Variable([0.0])
        optimizer.build([variable])
    compat.take_gradients_as_they_are(optimizer)
    strategy.run(lambda: optimizer.apply([tf.constant([1.0])], [variable]))
    copies = [copy.numpy()[0] for copy in compat.raw_variable(variable).values]
    assert copies == [-1.0, -1.0]  # and not two: nothing was summed


def test_is_handed_over_within_a_strategy_update():
    seen = []

    def update(variable):
        seen.append(compat.is_handed_over())
        variable.assign(variable)

    strategy = zoo.two_devices()
    with strategy.scope():
        variable = tf.Variable(1.0)
    assert not compat.is_handed_over()
    strategy.extended.update(variable, update)
    assert seen == [True, True]
    assert compat.merges_calls(strategy) is True


def test_function_graph():
    inner = tf.function(lambda x: x + 1)
    outer = (
        tf.function(lambda x: inner(x)).get_concrete_function(tf.constant(1.0)).graph
    )
    [call] = [op for op in outer.get_operations() if op.type == "PartitionedCall"]
    found = compat.function_graph(outer, call.get_attr("f").name)
    assert any(op.type == "AddV2" for op in found.get_operations())
    assert compat.function_graph(outer, "no such function") is None


def test_is_compiled():
    found = {}
    for jit in (False, True):

        def traced(x, jit=jit):
            found[jit] = compat.is_compiled(tf.compat.v1.get_default_graph())
            return x

        tf.function(traced, jit_compile=jit)(tf.ones([1]))
    assert found == {False: False, True: True}


def test_broadcast_functions_exist():
    for name in ("broadcast_send", "broadcast_recv"):
        assert callable(getattr(compat.collective_ops, name))


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (keras.layers.Layer, "_trackable_children"),
        (keras.layers.Layer, "_lookup_dependency"),
        (tf_keras.layers.Layer, "_trackable_children"),
        (type(tf.Variable(1.0)), "_trackable_children"),
        (type(tf.Variable(1.0)), "_lookup_dependency"),
        (type(tf.Variable(1.0)), "_restore_from_tensors"),
    ],
)
def test_overridden_methods_exist(owner, name):
    assert callable(getattr(owner, name))
    assert isinstance(vars(tf.Variable(1.0))["_handle"], tf.Tensor)


def test_is_saving_graphs(tmp_path):
    found = []

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([2])])
        def __call__(self, x):
            found.append(compat.is_saving_graphs())
            return x

    tf.saved_model.save(Module(), str(tmp_path))
    assert found == [True]
    assert not compat.is_saving_graphs()


def test_is_given_statelessly():
    variable = keras.Variable(1.0)
    assert not compat.is_given_statelessly(variable)
    assert not compat.is_given_statelessly(tf.Variable(1.0))
    with keras.StatelessScope(state_mapping=[(variable, tf.constant(2.0))]):
        assert compat.is_given_statelessly(variable)
        assert float(variable.value) == 2.0
    with keras.StatelessScope():
        assert not compat.is_given_statelessly(variable)


def test_is_given_statelessly_in_mixed_precision():
    """Where Keras casts, the value of every variable is a tensor."""
    seen = []

    class Layer(keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=())

        def call(self, inputs):
            assert isinstance(self.scale.value, tf.Tensor)
            seen.append(compat.is_given_statelessly(self.scale))
            return inputs * self.scale

    layer = Layer(dtype="mixed_bfloat16")
    layer(tf.ones([1]))
    layer.stateless_call([tf.ones([])], [], tf.ones([1]))
    assert seen[-2:] == [False, True]


def test_updated():
    variable = tf.Variable([1.0, 2.0])

    @tf.function
    def update():
        operation = tf.raw_ops.AssignVariableOp(
            resource=variable.handle, value=[3.0, 4.0]
        )
        return compat.updated(variable, operation).read_value()

    np.testing.assert_array_equal(update(), [3.0, 4.0])
    np.testing.assert_array_equal(compat.updated(variable, None), [3.0, 4.0])


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Dense(3),
        keras.layers.EinsumDense("ab,bc->ac", 3),
        keras.layers.Conv1D(3, 2),
        keras.layers.Conv2D(3, 2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_kernel_is_replaced(layer):
    layer.build((None,) + (5,) * (layer.rank + 1 if hasattr(layer, "rank") else 1))
    before = layer.kernel

    def make():
        return layer.add_weight(name="other", shape=(7,), trainable=False)

    compat.replace_kernel(layer, make)
    assert layer.kernel.shape == (7,)
    assert all(v is not before for v in layer.variables)
    assert [v.name for v in layer.non_trainable_variables] == ["other"]
    with pytest.raises(ValueError):  # locked again
        layer.add_weight(name="late", shape=(7,))
