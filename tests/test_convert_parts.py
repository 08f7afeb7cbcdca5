"""lp.convert of what is more than a layer and its weights: adapted state, layers that are shared,
models in wrappers, operations outside layers."""

import numpy as np
import pytest
import tensorflow as tf
from compat import needs_keras_3
from test_convert import POLICY, as_functional, batch, layers_of

import tf_lowprec as lp
from tf_lowprec._keras import KERAS_3

L = tf.keras.layers


@tf.keras.utils.register_keras_serializable("test_convert_parts")
class Holder(tf.keras.Model):
    """A subclassed model of one layer, which it makes itself."""

    def __init__(self, make, **kwargs):
        super().__init__(**kwargs)
        self.make, self.part = make, make()

    def build(self, shape):
        if not self.part.built:
            self.part.build(shape)
        self.built = True

    def call(self, x):
        return self.part(x)

    def get_config(self):
        return {"make": self.make}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def held(make, adapt, shape):
    model = Holder(make)
    adapt(model.part)
    model.build(shape)
    return model


def adapt_to(data):
    return lambda layer: layer.adapt(data)


def adapted(layer, data):
    layer.adapt(data)
    return layer


def test_an_adapted_normalization():
    model = as_functional(adapted(L.Normalization(), 5 + 3 * batch(50, 4)), (4,))
    np.testing.assert_array_equal(lp.convert(model, POLICY)(batch(2, 4)), model(batch(2, 4)))


@needs_keras_3
def test_an_adapted_normalization_in_a_subclassed_model():
    model = held(L.Normalization, adapt_to(5 + 3 * batch(50, 4)), (None, 4))
    np.testing.assert_array_equal(lp.convert(model, POLICY)(batch(2, 4)), model(batch(2, 4)))


WORDS = np.array([["a"], ["b"], ["b"], ["c"]])
LOOKUPS = {
    "string": (lambda: L.StringLookup(output_mode="multi_hot"), WORDS, [["a", "b", "z"]]),
    "string_tf_idf": (lambda: L.StringLookup(output_mode="tf_idf"), WORDS, [["a", "b", "z"]]),
    "padded_tf_idf": (
        lambda: L.StringLookup(max_tokens=9, output_mode="tf_idf", pad_to_max_tokens=True),
        WORDS,
        [["a", "b", "z"]],
    ),
    "masked": (lambda: L.StringLookup(mask_token="", num_oov_indices=2), WORDS, [["", "b", "z"]]),
    "integer": (L.IntegerLookup, np.array([[3], [5], [5]]), [[3, 5, 8]]),
    "text": (
        lambda: L.TextVectorization(output_sequence_length=4),
        np.array(["a b", "b c"]),
        [["b c z"]],
    ),
    "discretization": (lambda: L.Discretization(num_bins=3), batch(50, 1), [[-1.0, 0.0, 1.0]]),
}


@pytest.mark.parametrize("make, data, x", LOOKUPS.values(), ids=LOOKUPS.keys())
def test_an_adapted_lookup(make, data, x):
    x = tf.constant(x, tf.int64 if data.dtype.kind == "i" else None)
    model = as_functional(adapted(make(), data), x.shape[1:], x.dtype)
    np.testing.assert_array_equal(lp.convert(model, POLICY)(x), model(x))


@needs_keras_3
def test_an_adapted_lookup_in_a_subclassed_model():
    model = held(L.StringLookup, adapt_to(WORDS), (None, 3))
    x = tf.constant([["a", "b", "z"]])
    np.testing.assert_array_equal(lp.convert(model, POLICY)(x), model(x))


@pytest.mark.skipif(not KERAS_3, reason="Keras 2 itself cannot copy an empty table")
def test_a_lookup_can_be_converted_before_it_is_adapted():
    model = as_functional(L.StringLookup(), (3,), "string")
    words = lp.convert(model, POLICY).layers[-1].get_vocabulary()
    assert words == ["[UNK]"]


def shared_with_a_nested_model():
    dense = L.Dense(4, name="d")
    inner = tf.keras.Sequential([tf.keras.Input((4,)), dense])
    return as_functional(lambda x: inner(inner(dense(x))), (4,))


def shared_with_a_wrapper():
    dense = L.Dense(4, name="d")
    return as_functional(lambda x: L.TimeDistributed(dense)(dense(x)), (4, 4))


class Tied(tf.keras.Model):
    """One layer as an attribute and in a model inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(4, name="d")
        self.inner = tf.keras.Sequential([tf.keras.Input((4,)), self.dense])

    def call(self, x):
        return self.inner(self.dense(x))


def shared_in_a_subclassed_model():
    model = Tied()
    model(batch(2, 4))
    return model


@pytest.mark.parametrize(
    "make",
    [
        shared_with_a_nested_model,
        shared_with_a_wrapper,
        pytest.param(shared_in_a_subclassed_model, marks=needs_keras_3),
    ],
)
def test_a_layer_that_is_shared_stays_one_layer(make):
    model = make()
    converted = lp.convert(model, lp.Policy.float32())
    dense = {id(layer) for layer in layers_of(converted).values() if layer.name == "d"}
    assert len(dense) == 1
    x = batch(2, 4, 4) if make is shared_with_a_wrapper else batch(2, 4)
    np.testing.assert_array_equal(converted(x), model(x))


def sequential_part():
    return tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(3, name="d")], name="part")


def functional_part():
    x = tf.keras.Input((4,))
    return tf.keras.Model(x, L.Dense(3, name="d")(x), name="part")


@pytest.mark.parametrize("part", [sequential_part, functional_part])
def test_a_model_in_time_distributed(part):
    model = as_functional(L.TimeDistributed(part(), name="steps"), (5, 4))
    converted = lp.convert(model, POLICY)
    assert layers_of(converted)["steps/part/d"].precision == POLICY
    same = lp.convert(model, lp.Policy.float32())
    np.testing.assert_array_equal(same(batch(2, 5, 4)), model(batch(2, 5, 4)))


@needs_keras_3
def test_time_distributed_in_a_subclassed_model():
    model = Holder(lambda: L.TimeDistributed(L.Dense(3, name="d"), name="steps"))
    model.build((None, 5, 4))
    assert layers_of(lp.convert(model, POLICY))["steps/d"].precision == POLICY


def operations():
    """{name: (function of a (3, 4) input, what `unconverted` calls it)}."""
    kernel = np.ones((1, 4, 2), np.float32)
    if not KERAS_3:
        return {
            "matmul": (lambda x: tf.matmul(x, x, transpose_b=True), "TFOpLambda"),
            "@": (lambda x: x @ tf.transpose(x, (0, 2, 1)), "TFOpLambda"),
            "einsum": (lambda x: tf.einsum("bij,bkj->bik", x, x), "TFOpLambda"),
            "conv1d": (lambda x: tf.nn.conv1d(x, kernel, 1, "SAME"), "TFOpLambda"),
            "Lambda": (L.Lambda(lambda x: x @ tf.transpose(x, (0, 2, 1))), "Lambda"),
        }
    ops = tf.keras.ops
    return {
        "matmul": (lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1))), "Matmul"),
        "@": (lambda x: x @ ops.transpose(x, (0, 2, 1)), "Matmul"),
        "einsum": (lambda x: ops.einsum("bij,bkj->bik", x, x), "Einsum"),
        "conv1d": (lambda x: ops.conv(x, kernel), "Conv"),
        "vectorized_map": (lambda x: ops.vectorized_map(lambda row: 2 * row, x), "VectorizedMap"),
        "Lambda": (L.Lambda(lambda x: x @ ops.transpose(x, (0, 2, 1))), "Lambda"),
    }


@pytest.mark.parametrize("function, kind", operations().values(), ids=operations().keys())
def test_products_outside_layers_are_listed(function, kind):
    model = as_functional(function, (3, 4))
    assert [found for _, found, _ in lp.unconverted(model)] == [kind]


@needs_keras_3
def test_an_operation_with_a_function_is_kept():
    function, _ = operations()["vectorized_map"]
    model = as_functional(function, (3, 4))
    np.testing.assert_array_equal(lp.convert(model, POLICY)(batch(2, 3, 4)), 2 * batch(2, 3, 4))


def test_the_path_of_an_operation_inside_a_model():
    multiply = operations()["matmul"][0]
    x = tf.keras.Input((3, 4))
    inner = tf.keras.Model(x, multiply(x), name="inner")
    ((path, _, _),) = lp.unconverted(as_functional(inner, (3, 4)))
    assert path.startswith("inner/") and "matmul" in path


def test_operations_that_do_not_multiply_are_not_listed():
    assert lp.unconverted(as_functional(lambda x: 2 * x + 1, (4,))) == ()
