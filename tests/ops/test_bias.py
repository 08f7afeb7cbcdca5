"""add_bias: the sum and the bias' gradient are exact, and rounded once."""

import numpy as np
import oracle
import pytest
import tensorflow as tf
from cases import assert_same_bits

import tf_lowprec as lp
from tf_lowprec.ops.bias import add_bias

WEIGHTS, ACTIVATIONS = lp.FixedPointFormat(2, 14), lp.FixedPointFormat(6, 10)
COARSE = lp.FixedPointFormat(9, 6)
POLICY = lp.Policy.fixed_point(WEIGHTS, "nearest_even", activations=ACTIVATIONS, gradients=COARSE)
SEED = tf.constant([1, 2])
# An EinsumDense with bias_axes "e", "c", "bd" and all of "abcde"'s but the first
BIASES = [(5,), (3, 1, 1), (2, 1, 4, 1), (2, 3, 4, 5), (1,)]


def normal(seed, shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", BIASES, ids=str)
def test_biases_broadcast(run, shape):
    x = lp.quantize(normal(0, (3, 2, 3, 4, 5)), ACTIVATIONS).numpy()
    bias, dy = normal(1, shape) / 4, normal(2, x.shape)

    @run
    def passes(x, bias, dy):
        with tf.GradientTape() as tape:
            tape.watch([x, bias])
            y = add_bias(x, bias, POLICY, ACTIVATIONS, SEED)
        return [y, *tape.gradient(y, [x, bias], output_gradients=dy)]

    y, dx, dbias = passes(tf.constant(x), tf.constant(bias), tf.constant(dy))
    rounded = oracle.round_array(bias, WEIGHTS, "nearest_even")
    want = oracle.round_array(x.astype(np.float64) + rounded, ACTIVATIONS, "nearest_even")
    assert_same_bits(y, want)
    assert_same_bits(dx, dy)
    lost = x.ndim - len(shape)
    axes = (*range(lost), *(lost + i for i, size in enumerate(shape) if size == 1))
    total = dy.astype(np.float64).sum(axes).reshape(shape)
    assert_same_bits(dbias, oracle.round_array(total, COARSE, "nearest_even"))


@pytest.mark.parametrize("shape", [(1, 3), (4, 1)], ids=str)
def test_gradient_is_rounded_once_after_the_sum(shape):
    # 2^-7 is a tie of <9,6> that the 2^-14's decide; rounding each error first would give 0.
    dy = np.full((4, 3), 2.0**-14, np.float32)
    dy[0, 0] = 2.0**-7
    with tf.GradientTape() as tape:
        bias = tf.zeros(shape)
        tape.watch(bias)
        y = add_bias(tf.zeros((4, 3)), bias, POLICY, ACTIVATIONS, SEED)
    dbias = tape.gradient(y, bias, output_gradients=tf.constant(dy)).numpy()
    assert dbias.ravel()[0] == 2.0**-6 and not np.any(dbias.ravel()[1:])
