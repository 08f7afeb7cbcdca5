"""MultiHeadAttention against a twin of six lp.einsum calls with formats written out."""

import numpy as np
import pytest
import tensorflow as tf
from cases import assert_same_bits
from compat import native, needs_keras_3
from layer_cases import images

import tf_lowprec as lp

HEADS, KEY_DIM, INPUTS = 2, 4, 5


def narrow(mantissa_bits, chunk, rounding="nearest_even"):
    return lp.Accumulator(lp.FloatFormat(6, mantissa_bits), chunk, rounding)


# Activations E4M3, weights E5M2, errors E3M2, so that none is taken for another.
FORWARD = lp.Gemm(lp.FP8_E4M3FN, lp.FP8_E5M2, narrow(5, 3))
BACKWARD = lp.Gemm(lp.FP6_E3M2FN, lp.FP8_E5M2, narrow(6, 4, "toward_zero"), lp.BF16)
GRADIENT = lp.Gemm(lp.FP8_E4M3FN, lp.FP6_E3M2FN, narrow(7, None, "nearest_up"), lp.FP16)
DIFFERENT = lp.Policy(FORWARD, BACKWARD, GRADIENT, errors=lp.FloatFormat(5, 5))
INNER = lp.Policy(
    lp.Gemm(lp.FP8_E4M3FN, lp.FP8_E4M3FN, narrow(5, 3)),
    lp.Gemm(lp.FP6_E3M2FN, lp.FP8_E4M3FN, narrow(6, 4, "toward_zero"), lp.BF16),
    lp.Gemm(lp.FP8_E4M3FN, lp.FP6_E3M2FN, narrow(7, None, "nearest_up"), lp.BF16),
    errors=lp.FloatFormat(5, 5),
)


def test_products_of_activations_have_no_weights_format():
    assert DIFFERENT.for_activations() == INNER
    fp8 = lp.Policy.fp8((5, 6, 9))
    assert fp8.for_activations() == fp8
    a, e = lp.FixedPointFormat(6, 10), lp.FixedPointFormat(3, 12)
    fixed = lp.Policy.fixed_point(lp.FixedPointFormat(2, 14), activations=a, errors=e)
    inner = fixed.for_activations()
    assert (inner.forward.lhs, inner.forward.rhs, inner.forward.output) == (a, a, a)
    assert (inner.backward.lhs, inner.backward.rhs, inner.backward.output) == (e, a, e)
    assert (inner.gradient.lhs, inner.gradient.rhs, inner.gradient.output) == (a, e, e)


@tf.custom_gradient
def round_error(y):
    return tf.identity(y), lambda dy: lp.quantize(dy, lp.FloatFormat(5, 5))


def einsum(equation, a, b, policy, bias=None):
    y = lp.einsum(equation, a, b, policy)
    return round_error(y if bias is None else y + bias)


def twin(weights, query, value, key, mask=None, gate=None):
    """(output, scores) from the weights of query, key, value and output, kernel and bias each."""
    (w_q, b_q), (w_k, b_k), (w_v, b_v), (w_o, b_o) = weights
    q = einsum("btc,cnh->btnh", query, w_q, DIFFERENT, b_q)
    k = einsum("bsc,cnh->bsnh", key, w_k, DIFFERENT, b_k)
    v = einsum("bsc,cnh->bsnh", value, w_v, DIFFERENT, b_v)
    scores = einsum("btnh,bsnh->bnts", q * 0.5, k, INNER)
    if mask is None:
        scores = tf.nn.softmax(scores)
    else:
        scores = tf.keras.layers.Softmax()(scores, mask=tf.constant(mask)[:, None])
    y = einsum("bnts,bsnh->btnh", scores, v, INNER)
    if gate is not None:
        y = y * tf.sigmoid(einsum("btc,cnh->btnh", query, gate[0], DIFFERENT, gate[1]))
    return einsum("btnh,nho->bto", y, w_o, DIFFERENT, b_o), scores


def make(policy=DIFFERENT, **arguments):
    layer = lp.layers.MultiHeadAttention(HEADS, KEY_DIM, precision=policy, **arguments)
    layer(QUERY, VALUE, KEY)
    layer.set_weights([images(w.shape, i) / 2 for i, w in enumerate(layer.get_weights())])
    return layer


def weights_of(layer):
    """(kernel, bias) of each projection, as tensors."""
    parts = ("_query_dense", "_key_dense", "_value_dense", "_output_dense")
    return [tuple(tf.constant(w) for w in getattr(layer, p).get_weights()) for p in parts]


QUERY, VALUE, KEY = (images((2, t, INPUTS), 30 + i) for i, t in enumerate((4, 6, 6)))
CAUSAL = np.tril(np.ones((1, 4, 6), bool))
MASK = images((2, 4, 6), 40) > -0.5
MASKS = {
    "none": ({}, None),
    "mask": ({"attention_mask": MASK}, MASK),
    "causal": ({"use_causal_mask": True}, CAUSAL),
    "both": ({"use_causal_mask": True, "attention_mask": MASK}, MASK & CAUSAL),
}


@pytest.mark.parametrize("options, mask", MASKS.values(), ids=MASKS.keys())
def test_forward_is_the_twins(options, mask):
    layer = make()
    y, scores = layer(QUERY, VALUE, KEY, return_attention_scores=True, **options)
    want, want_scores = twin(weights_of(layer), QUERY, VALUE, KEY, mask)
    assert_same_bits(scores, want_scores.numpy())
    assert_same_bits(y, want.numpy())
    assert_same_bits(layer(QUERY, VALUE, KEY, **options), want.numpy())


def test_gradients_are_the_twins(run):
    layer = make()
    dy = images((2, 4, INPUTS), 50)

    def passes(function, variables):
        def call(query, value, key, dy):
            with tf.GradientTape() as tape:
                tape.watch([query, value, key, *variables])
                y = function(query, value, key)
            sources = [query, value, key, *variables]
            return [y, *tape.gradient(y, sources, output_gradients=dy)]

        return call

    weights = weights_of(layer)
    flat = tf.nest.flatten(weights)
    inputs = [tf.constant(v) for v in (QUERY, VALUE, KEY, dy)]
    want = passes(lambda *x: twin(tf.nest.pack_sequence_as(weights, flat), *x)[0], flat)(*inputs)
    owners = [layer._query_dense, layer._key_dense, layer._value_dense, layer._output_dense]
    variables = [native(v) for owner in owners for v in (owner.kernel, owner.bias)]
    got = run(passes(lambda *x: layer(*x, training=True), variables))(*inputs)
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        try:
            assert_same_bits(g, w.numpy())
        except AssertionError as error:
            raise AssertionError(f"{i}: {error}") from None


def test_self_attention_takes_value_for_key():
    layer = make()
    want, _ = twin(weights_of(layer), QUERY, VALUE, VALUE)
    assert_same_bits(layer(QUERY, VALUE), want.numpy())


@needs_keras_3
def test_gate():
    layer = make(use_gate=True)
    gate = [tf.constant(w) for w in layer._gate_dense.get_weights()]
    assert len(gate) == 2 and isinstance(layer._gate_dense, lp.layers.EinsumDense)
    want, _ = twin(weights_of(layer), QUERY, VALUE, KEY, gate=gate)
    assert_same_bits(layer(QUERY, VALUE, KEY), want.numpy())


@needs_keras_3
def test_flash_attention_is_refused():
    with pytest.raises(ValueError, match="flash_attention = True must be None or False"):
        lp.layers.MultiHeadAttention(HEADS, KEY_DIM, precision=DIFFERENT, flash_attention=True)


def test_dropout_acts_on_the_scores_in_training_only():
    layer = make(dropout=0.5, seed=2)
    want, _ = twin(weights_of(layer), QUERY, VALUE, KEY)
    assert_same_bits(layer(QUERY, VALUE, KEY), want.numpy())
    first, second = (layer(QUERY, VALUE, KEY, training=True) for _ in range(2))
    assert np.any(first != second)


def test_attention_over_several_axes():
    exact = lp.Policy(*[lp.Gemm(output=lp.FP32)] * 3)
    stock = tf.keras.layers.MultiHeadAttention(2, 3, attention_axes=(1, 2))
    ours = lp.layers.MultiHeadAttention(2, 3, attention_axes=(1, 2), precision=exact)
    x = images((2, 3, 2, 4))
    want = stock(x, x)
    ours(x, x)
    ours.set_weights(stock.get_weights())
    np.testing.assert_allclose(ours(x, x), want, atol=1e-6)


def test_projections_of_one_seed_round_differently():
    policy = lp.Policy.fixed_point(lp.FixedPointFormat(2, 6))
    layer = make(policy, seed=4)
    layer.set_weights([np.full_like(w, 0.3) for w in layer.get_weights()])
    x = images((2, 4, INPUTS))
    q, k, v = (
        getattr(layer, f"_{name}_dense")(x, training=True) for name in ("query", "key", "value")
    )
    assert np.any(q != k) and np.any(k != v) and np.any(q != v)
    again = lp.layers.MultiHeadAttention.from_config(layer.get_config())
    again(x, x)
    again.set_weights(layer.get_weights())
    assert_same_bits(again._query_dense(x, training=True), q.numpy())
