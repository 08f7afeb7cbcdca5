"""Gemm(scaling="amax"): operands scaled by powers of two, tensor by tensor."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import tf_lowprec as lp
from tf_lowprec.ops.scaling import exponent_for, scale, target_exponent, unscale

PLAIN = lp.Policy.fp8(9, chunk=4)
SCALED = lp.Policy.fp8(9, chunk=4, scaling="amax")


def matrices(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def products(policy, a, b, dy, seed=(1, 2)):
    """y, da, db."""
    a, b = tf.constant(a), tf.constant(b)
    with tf.GradientTape() as tape:
        tape.watch([a, b])
        y = lp.matmul(a, b, policy, seed=seed)
    return [y.numpy(), *(g.numpy() for g in tape.gradient(y, [a, b], tf.constant(dy)))]


def exponent(x, target):
    """k by Python's own arithmetic: the largest with max|x| 2^k < 2^target."""
    top = float(np.max(np.abs(x)))
    return target - 1 - int(np.floor(np.log2(top)))


@given(st.floats(2.0**-90, 2.0**90, width=32), st.integers(-40, 40))
@settings(max_examples=200, deadline=None)
def test_exponent_is_the_largest_below_the_target(amax, target):
    k = int(exponent_for(tf.constant([amax, -amax / 3]), target))
    if -126 < k < 126:
        assert amax * 2.0**k < 2.0**target <= amax * 2.0 ** (k + 1)


@pytest.mark.parametrize("x", [[], [0.0, -0.0], [np.inf, 1], [1, np.nan]])
def test_no_scale_where_there_is_no_largest_value(x):
    assert int(exponent_for(tf.constant(x, tf.float32), 5)) == 0


def test_targets():
    gemm = lp.Gemm(lp.FP8_E5M2, lp.FP8_E4M3FN, scaling="amax")
    assert target_exponent(gemm, lp.FP8_E5M2) == 15
    assert target_exponent(gemm, lp.FP8_E4M3FN) == 8
    narrow = SCALED.forward  # (1, 6, 9): up to 2^31, 20 bits for the length
    assert target_exponent(narrow, lp.FP8_E5M2) == (31 - 20) // 2


def test_scaled_products_are_those_of_the_scaled_operands():
    a, b, dy = matrices((5, 9), (9, 6), (5, 6))
    a, b, dy = a * 1e-7, b * 3e5, dy * 1e-9
    target = target_exponent(SCALED.forward, lp.FP8_E5M2)

    def scaled_product(lhs, rhs):
        i, j = exponent(lhs, target), exponent(rhs, target)
        y = lp.matmul(lhs * np.float32(2.0**i), rhs * np.float32(2.0**j), PLAIN).numpy()
        return y * np.float32(2.0**-i) * np.float32(2.0**-j)

    def saved(x):  # as the forward pass rounded it
        k = exponent(x, target)
        return lp.quantize(x * np.float32(2.0**k), lp.FP8_E5M2).numpy() * np.float32(2.0**-k)

    want = [
        scaled_product(a, b),
        scaled_product(dy, saved(b).T),
        scaled_product(saved(a).T, dy),
    ]
    for got, expected in zip(products(SCALED, a, b, dy), want):
        np.testing.assert_array_equal(got, expected)


def test_small_errors_are_kept():
    a, b, dy = matrices((5, 9), (9, 6), (5, 6))
    assert not any(np.any(g) for g in products(PLAIN, a, b, dy * 2.0**-30)[1:])
    plain, scaled = products(SCALED, a, b, dy), products(SCALED, a, b, dy * 2.0**-30)
    for small, large in zip(scaled[1:], plain[1:]):
        np.testing.assert_array_equal(small, large * 2.0**-30)


@pytest.mark.parametrize("power", [-60, 0, 60])
def test_a_power_of_two_changes_only_the_scale(power):
    a, b, dy = matrices((4, 3, 8), (8, 5), (4, 3, 5))
    factor = np.float32(2.0**power)
    policy = lp.Policy.fp8(9, scaling="amax", rounding="stochastic")
    y, da, db = products(policy, a, b, dy)
    y2, da2, db2 = products(policy, a * factor, b, dy)
    np.testing.assert_array_equal(y2, y * factor)
    np.testing.assert_array_equal(da2, da)
    np.testing.assert_array_equal(db2, db * factor)


def test_broadcast_batches_are_scaled_once():
    a, b, dy = matrices((3, 4, 8), (2, 1, 8, 5), (2, 3, 4, 5))
    factor = np.float32(2.0**-40)
    for got, want in zip(products(SCALED, a, b, dy * factor), products(SCALED, a, b, dy)):
        assert np.array_equal(got, want) or np.array_equal(got, want * factor)


def test_passes_may_differ_in_scaling():
    backward = dataclasses.replace(PLAIN.backward, scaling="amax")
    policy = dataclasses.replace(PLAIN, backward=backward)
    a, b, dy = matrices((5, 9), (9, 6), (5, 6))
    mixed, plain = products(policy, a, b, dy), products(PLAIN, a, b, dy)
    np.testing.assert_array_equal(mixed[0], plain[0])
    np.testing.assert_array_equal(mixed[2], plain[2])
    forward = dataclasses.replace(PLAIN, forward=SCALED.forward)
    for got, want in zip(products(forward, a, b, dy)[1:], products(PLAIN, a, b, dy)[1:]):
        # Operands of one binade are rounded alike, scaled or not.
        np.testing.assert_array_equal(got, want)


def test_scale_is_exact():
    x = np.array([1.5, -(2.0**-20), 0.0, -0.0, np.inf, np.nan], np.float32)
    got = scale(tf.constant(x), tf.constant(30)).numpy()
    np.testing.assert_array_equal(got, x * np.float32(2.0**30))


@pytest.mark.parametrize("exponents", [(126, 126), (-126, -126), (125, 126), (-125, -126), (1, 0)])
def test_two_scales_are_taken_off_exactly(exponents):
    power = sum(exponents)
    x = np.float32(1.5 * 2.0 ** (power / 2 // 1))  # both ends are in range
    got = unscale(tf.constant(x), *(tf.constant(k) for k in exponents)).numpy()
    assert got == float(x) * 2.0**-power


@pytest.mark.parametrize(
    "accumulator",
    [lp.Accumulator(lp.FloatFormat(6, 9)), lp.Accumulator.hopper()],
    ids=["narrow", "aligned"],
)
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    "large, small, want",
    [
        # One scale after the other: 2^-10 goes through 2^-136, which TensorFlow flushes to 0,
        ([[2.0**127], [2.0**116]], [[2.0**-126]], [[2], [2.0**-10]]),
        # and 8 through 2^129.
        ([[2.0**127] * 4], [[2.0**-126]] * 4, [[8]]),
    ],
    ids=["underflow", "overflow"],
)
def test_scales_that_cancel_are_taken_off_together(accumulator, swapped, large, small, want):
    gemm = lp.Gemm(lp.FP8_E5M2, lp.FP8_E5M2, accumulator, scaling="amax")
    a, b, want = np.float32(large), np.float32(small), np.float32(want)
    if swapped:
        a, b, want = b.T, a.T, want.T
    np.testing.assert_array_equal(lp.matmul(a, b, gemm), want)


def test_convolution_is_scaled_too(run):
    x, filters = matrices((2, 5, 5, 3), (3, 3, 3, 4))
    y = run(lambda x: lp.conv2d(x, filters, SCALED))(tf.constant(x * 2.0**-40))
    want = run(lambda x: lp.conv2d(x, filters, SCALED))(tf.constant(x))
    np.testing.assert_array_equal(y, want * np.float32(2.0**-40))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"scaling": "max"}, "scaling = 'max' must be 'amax' or None"),
        ({"scaling": "amax", "lhs": None}, "scaling = 'amax' needs FloatFormats"),
        ({"scaling": "amax", "rhs": lp.FixedPointFormat(2, 14)}, "scaling = 'amax' needs"),
    ],
)
def test_bad_scaling_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        lp.Gemm(**{"lhs": lp.FP8_E5M2, "rhs": lp.FP8_E5M2, **arguments})


def test_it_is_saved_with_the_policy():
    assert lp.Policy.from_config(SCALED.get_config()) == SCALED
