"""lp.quantize_mx and block formats in products: against exact numbers."""

import aligned_oracle
import numpy as np
import oracle
import pytest
import tensorflow as tf
from cases import assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

import tf_lowprec as lp
from tf_lowprec.ops.streams import Stream

FORMATS = [lp.MXFP8_E5M2, lp.MXFP8_E4M3, lp.MXFP6_E3M2, lp.MXFP6_E2M3, lp.MXFP4_E2M1]
SEED = (7, -9)


def values(rng, shape, kind):
    x = rng.standard_normal(shape)
    if kind == "wide":
        x *= 2.0 ** rng.integers(-30, 31, shape)
    elif kind == "ends":  # of float32's range, subnormal numbers too
        x *= 2.0 ** rng.choice([-149, -140, -126, 100, 126], shape)
        x = np.clip(x, -3e38, 3e38)
    elif kind == "special":
        x[rng.random(shape) < 0.02] = rng.choice([np.nan, np.inf, -np.inf])
    x[rng.random(shape) < 0.2] = 0
    x[rng.random(shape) < 0.05] = -0.0
    return x.astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(
    format=st.sampled_from([*FORMATS, lp.MXFormat(lp.FloatFormat(5, 10), 3)]),
    rounding=st.sampled_from(list(lp.Rounding)),
    shape=st.sampled_from([(70,), (3, 65), (33, 2, 3), (2, 40, 2)]),
    axis=st.integers(-1, 2),
    kind=st.sampled_from(["normal", "wide", "ends", "special"]),
    seed=st.integers(0, 2**31),
)
def test_blocks(format, rounding, shape, axis, kind, seed):
    axis = min(axis, len(shape) - 1)
    x = values(np.random.default_rng(seed), shape, kind)
    y, scales = lp.quantize_mx(x, format, axis, rounding, seed=SEED, return_scales=True)
    r = oracle.random_bits_array(x.size, int(Stream.QUANTIZE), SEED).reshape(shape)
    expected, codes = aligned_oracle.mx(x, format, axis, rounding.value, r)
    np.testing.assert_array_equal(scales.numpy(), codes)
    assert_same_bits(y.numpy(), oracle.canonical(expected))


def test_an_example_by_hand():
    """max = 7: X = 2^(2 - 2); E2M1 has 4, 6: 7 saturates; 5 is a tie to even 4; 0.2 goes to 0."""
    y, scales = lp.quantize_mx([7.0, 5.0, 0.2, -0.3], lp.MXFP4_E2M1, return_scales=True)
    assert y.numpy().tolist() == [6, 4, 0, -0.5]
    assert scales.numpy().tolist() == [127]


def test_gradient_is_straight_through():
    x = tf.constant([1.0, 1000.0, 3.3])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = lp.quantize_mx(x, lp.MXFP4_E2M1)
    np.testing.assert_array_equal(tape.gradient(y, x, tf.constant([1.0, 2.0, 3.0])), [1, 2, 3])


@pytest.mark.parametrize("accumulator", [None, lp.Accumulator(lp.FloatFormat(8, 23))])
def test_passes_round_along_their_own_axes(accumulator):
    """BWD and GRAD round what came in, along the axis over which they sum."""
    rng = np.random.default_rng(1)
    x, w, dy = (rng.integers(-40, 41, s).astype(np.float32) for s in ((40, 70), (70, 50), (40, 50)))
    policy = lp.Policy.mx(lp.MXFP8_E4M3, lp.MXFP6_E2M3, lp.MXFP8_E5M2, accumulator)
    x_t, w_t = tf.constant(x), tf.constant(w)
    with tf.GradientTape() as tape:
        tape.watch((x_t, w_t))
        y = lp.matmul(x_t, w_t, policy)
    dx, dw = tape.gradient(y, (x_t, w_t), dy)

    def blocks(v, format, axis):
        return aligned_oracle.mx(v, format, axis)[0].astype(np.float64)

    for got, lhs, rhs in (
        (y, blocks(x, lp.MXFP8_E4M3, 1), blocks(w, lp.MXFP6_E2M3, 0)),
        (dx, blocks(dy, lp.MXFP8_E5M2, 1), blocks(w, lp.MXFP6_E2M3, 1).T),
        (dw, blocks(x, lp.MXFP8_E4M3, 0).T, blocks(dy, lp.MXFP8_E5M2, 0)),
    ):
        np.testing.assert_array_equal(got, (lhs @ rhs).astype(np.float32))  # all sums are exact


def test_arguments():
    with pytest.raises(ValueError, match="must be a tf_lowprec.MXFormat"):
        lp.quantize_mx([1.0], lp.FP8_E5M2)
    with pytest.raises(ValueError, match="block formats are for"):
        lp.quantize([1.0], lp.MXFP8_E5M2)
    with pytest.raises(ValueError, match="outside x of shape"):
        lp.quantize_mx([1.0], lp.MXFP8_E5M2, axis=1)
    with pytest.raises(ValueError, match="element = "):
        lp.MXFormat(lp.BF16)
    with pytest.raises(ValueError, match="no block formats"):
        lp.Gemm(lp.MXFP8_E5M2, lp.MXFP8_E5M2, lp.Accumulator.wide())
    with pytest.raises(ValueError, match="needs FloatFormats"):
        lp.Gemm(lp.MXFP8_E5M2, lp.MXFP8_E5M2, lp.Accumulator.hopper())


def test_configurations_come_back():
    policy = lp.Policy.mx(lp.MXFP4_E2M1, errors=lp.MXFP8_E5M2)
    assert lp.Policy.from_config(policy.get_config()) == policy
    assert lp.MXFP4_E2M1.bits == 4.25


@pytest.mark.parametrize("axis", [None, 0.5, 0.0, "0", True, [0]], ids=repr)
def test_axis_is_an_integer(axis):
    with pytest.raises(ValueError, match="axis = .* must be an integer"):
        lp.quantize_mx([1.0], lp.MXFP8_E5M2, axis=axis)


def test_axis_may_be_numpys_integer():
    assert lp.quantize_mx([1.0], lp.MXFP8_E5M2, axis=np.int64(0)).numpy() == [1]


@pytest.mark.parametrize("stream", [-1, 2**63])
def test_stream_of_64_bits(stream):
    with pytest.raises(ValueError, match=f"stream = {stream} must be in"):
        lp.quantize_mx([1.0], lp.MXFP8_E5M2, stream=stream)


def test_float64_is_rounded_once():
    """Just above a tie of E4M3, 1.0625 for a scale of 2^-8, and a maximum just below 2."""
    x = tf.constant([[1.0625 + 2.0**-40, 1.0], [2 - 2.0**-40, 0]], tf.float64)
    y, scales = lp.quantize_mx(x, lp.MXFP8_E4M3, return_scales=True)
    assert y.dtype == tf.float32
    assert y.numpy().tolist() == [[1.125, 1], [1.75, 0]]  # 448 2^-8 is the largest
    assert scales.numpy().tolist() == [[119], [119]]


def test_gradient_of_float64_is_float64():
    x = tf.constant([1.0, 1000.0], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = lp.quantize_mx(x, lp.MXFP4_E2M1)
    gradient = tape.gradient(y, x, tf.constant([1.0, 2.0]))
    assert gradient.dtype == tf.float64
    np.testing.assert_array_equal(gradient, [1, 2])
