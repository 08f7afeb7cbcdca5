"""Lengths of sums: against sums of ones, taken by Keras itself, and by hand."""

import numpy as np
import pytest
import tensorflow as tf
from compat import KERAS_3, native, needs_keras_3

import tf_lowprec as lp
from tf_lowprec import analysis

L = tf.keras.layers

# Layer, shape of a batch. Padding "valid" or strides of 1: where no term is left out of every sum.
LAYERS = {
    "dense": (lambda: L.Dense(5), (4, 7)),
    "dense over time": (lambda: L.Dense(5), (4, 3, 7)),
    "conv1d": (lambda: L.Conv1D(6, 3), (2, 9, 4)),
    "conv2d": (lambda: L.Conv2D(6, (3, 2)), (2, 9, 8, 4)),
    "conv2d same": (lambda: L.Conv2D(6, 3, padding="same"), (2, 9, 8, 4)),
    "conv2d dilated": (lambda: L.Conv2D(6, 3, dilation_rate=2), (2, 9, 9, 4)),
    "depthwise": (lambda: L.DepthwiseConv2D(3, depth_multiplier=2), (2, 7, 8, 3)),
    "transposed": (lambda: L.Conv2DTranspose(5, (3, 2)), (2, 6, 7, 3)),
    "einsum": (lambda: L.EinsumDense("abc,cde->abde", (3, 5, 6)), (2, 3, 4)),
    "einsum of two axes": (lambda: L.EinsumDense("abcd,cde->abe", (3, 5)), (2, 3, 4, 6)),
    "einsum with dots": (lambda: L.EinsumDense("...x,xy->...y", 5), (2, 3, 4)),
}


def sums_of(layer, call):
    """{pass: length} of one layer's plan, in a model where it is not the last and has all."""
    inputs = tf.keras.Input(call[1:])
    x = L.Dense(call[-1])(inputs)
    y = L.Dense(2)(layer(x))
    plan = analysis.plan(tf.keras.Model(inputs, y), call[0])
    return {s.which: s.n for s in plan.sums if s.layer == layer.name}


@pytest.mark.parametrize("name", LAYERS)
def test_lengths_are_what_ones_sum_up_to(name):
    make, shape = LAYERS[name]
    layer = make()
    x = tf.ones(shape)
    layer.build(x.shape)
    layer.set_weights([np.ones_like(layer.get_weights()[0]), *layer.get_weights()[1:]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    dx, dw = tape.gradient(y, [x, native(layer.trainable_variables[0])], tf.ones_like(y))
    want = {"FWD": np.max(y), "BWD": np.max(dx), "GRAD": np.max(dw)}
    assert sums_of(make(), shape) == want


def test_groups_divide_forward_and_backward():
    # TensorFlow has no gradient of grouped convolutions on CPUs to count ones with.
    got = sums_of(L.Conv2D(6, 3, groups=2), (2, 9, 8, 4))
    assert got == {"FWD": 9 * 2, "BWD": 9 * 3, "GRAD": 2 * 7 * 6}


def test_strides_shorten_grad_only():
    got = sums_of(L.Conv2D(6, 3, strides=2, padding="same"), (2, 8, 8, 4))
    assert got == {"FWD": 36, "BWD": 54, "GRAD": 2 * 4 * 4}


def by_product(plan, layer):
    return {(s.product, s.which): s.n for s in plan.sums if s.layer == layer}


@pytest.mark.parametrize(
    "layer, gates, at_once",
    [
        (lambda **k: L.LSTM(7, **k), 4, 4),
        (lambda **k: L.GRU(7, **k), 3, 3),
        (lambda **k: L.GRU(7, reset_after=False, **k), 3, 2),
        (lambda **k: lp.layers.LSTM(7, precision=lp.Policy.fp8(9), **k), 4, 4),
    ],
)
def test_recurrent_layers(layer, gates, at_once):
    inputs = tf.keras.Input((5, 3))
    x = L.Dense(6)(inputs)
    model = tf.keras.Model(inputs, L.Dense(2)(layer(name="cell")(x)))
    assert by_product(analysis.plan(model, 4), "cell") == {
        ("kernel", "FWD"): 6,
        ("kernel", "BWD"): gates * 7,
        ("kernel", "GRAD"): 4 * 5,
        ("recurrent_kernel", "FWD"): 7,
        ("recurrent_kernel", "BWD"): at_once * 7,
        ("recurrent_kernel", "GRAD"): 4,
    }


@pytest.mark.parametrize("named", [False, True])
def test_attention(named):
    q, v, k = (tf.keras.Input(s) for s in ((5, 8), (7, 6), (7, 10)))
    x, y, z = L.Dense(8)(q), L.Dense(6)(v), L.Dense(10)(k)
    layer = L.MultiHeadAttention(2, 4, value_dim=3, name="mha")
    h = layer(query=x, value=y, key=z) if named else layer(x, y, z)
    plan = analysis.plan(tf.keras.Model([q, v, k], L.Dense(2)(h)), 4)
    lengths = {
        "query": (8, 2 * 4, 4 * 5),
        "key": (10, 2 * 4, 4 * 7),
        "value": (6, 2 * 3, 4 * 7),
        "scores": (4, 7, 5),
        "context": (7, 3, 5),
        "output": (2 * 3, 8, 4 * 5),
    }
    want = {
        (product, which): n
        for product, values in lengths.items()
        for which, n in zip(("FWD", "BWD", "GRAD"), values)
    }
    assert by_product(plan, "mha") == want


def backward_products(layer, shape):
    inputs = tf.keras.Input(shape)
    x = layer(inputs, inputs) if isinstance(layer, L.MultiHeadAttention) else layer(inputs)
    plan = analysis.plan(tf.keras.Model(inputs, L.Dense(2, name="last")(x)), 4)
    return {s.product for s in plan.sums if s.layer != "last" and s.which == "BWD"}


def test_first_layers_have_backward_of_what_lies_behind_their_own_weights():
    assert backward_products(L.MultiHeadAttention(2, 4), (5, 8)) == {"scores", "context", "output"}
    assert backward_products(L.LSTM(4), (5, 8)) == {"recurrent_kernel"}
    assert backward_products(L.LSTM(4, trainable=False), (5, 8)) == set()


def test_attention_over_some_axes():
    x = tf.keras.Input((6, 5, 8))
    layer = L.MultiHeadAttention(2, 4, attention_axes=(2,), name="attention")
    plan = analysis.plan(tf.keras.Model(x, layer(x, x)), 3)
    found = by_product(plan, "attention")
    assert [found["context", which] for which in ("FWD", "BWD", "GRAD")] == [5, 4, 5]
    assert found["query", "GRAD"] == 3 * 6 * 5
    assert {s.macs for s in plan.sums if s.product == "context"} == {3 * 6 * 2 * 5 * 5 * 4}


def test_attention_with_an_output_of_several_axes():
    x = tf.keras.Input((6, 8))
    layer = L.MultiHeadAttention(2, 4, output_shape=(3, 7), name="attention")
    plan = analysis.plan(tf.keras.Model(x, layer(x, x)), 3)
    assert by_product(plan, "attention")["output", "BWD"] == 21
    assert {s.macs for s in plan.sums if s.product == "output"} == {3 * 6 * 8 * 21}


def test_an_input_by_name():
    x = tf.keras.Input((6, 8))
    y = L.Dense(3, name="dense")(inputs=L.Conv1D(5, 2, name="conv")(inputs=x))
    y = L.GRU(4, name="gru")(sequences=y) if KERAS_3 else L.GRU(4, name="gru")(inputs=y)
    plan = analysis.plan(tf.keras.Model(x, y), 2)
    assert {s.layer: s.n for s in plan.sums if s.which == "FWD" and s.product == "kernel"} == {
        "conv": 16,
        "dense": 5,
        "gru": 3,
    }


@needs_keras_3
def test_a_kernel_that_is_a_product_itself_is_listed():
    model = tf.keras.Sequential([tf.keras.Input((8,)), L.Dense(5, name="lora"), L.Dense(2)])
    model.layers[0].enable_lora(2)
    assert [path for path, *_ in analysis.plan(model, 4).unknown] == ["lora"]
