"""Quantize's gradient is straight-through: dy where x was within the range, 0 where it was not."""

import numpy as np
import pytest
import tensorflow as tf

import tf_lowprec as lp

FORMATS = [
    lp.FixedPointFormat(2, 14),
    lp.FixedPointFormat(1, 0),
    lp.FP8_E4M3FN,
    lp.FP8_E5M2,
    lp.FP4_E2M1FN,
    lp.DLFLOAT16,
    lp.FloatFormat(5, 2, saturate=True, subnormals=False),
]
formats = pytest.mark.parametrize("format", FORMATS, ids=str)


def gradient(run, x, dy, format, rounding="nearest_even"):
    def tape(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = lp.quantize(x, format, rounding, seed=(1, 2))
        return tape.gradient(y, x, output_gradients=dy)

    return run(tape)(tf.constant(x), tf.constant(dy)).numpy()


def upstream(x):
    return np.arange(1, x.size + 1, dtype=np.float32) * np.float32(0.7)


@formats
@pytest.mark.parametrize("rounding", list(lp.Rounding))
def test_passes_within_the_range(run, format, rounding):
    x = np.linspace(format.min, format.max, 101).astype(np.float32)
    dy = upstream(x)
    np.testing.assert_array_equal(gradient(run, x, dy, format, rounding), dy)


@formats
def test_passes_at_exactly_the_ends(run, format):
    x = np.array([format.min, format.max], np.float32)
    np.testing.assert_array_equal(gradient(run, x, upstream(x), format), upstream(x))


@formats
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_is_zero_just_beyond_the_ends(run, format, dtype):
    # Some of these round to max; the mask is tested on the unrounded input.
    inf = dtype(np.inf)
    x = np.array([np.nextafter(dtype(format.max), inf), np.nextafter(dtype(format.min), -inf)])
    np.testing.assert_array_equal(gradient(run, x, upstream(x), format), [0, 0])


@formats
def test_is_zero_far_beyond_the_ends(run, format):
    x = np.array([1e30, -1e30, np.inf, -np.inf], np.float32)
    np.testing.assert_array_equal(gradient(run, x, upstream(x), format), [0, 0, 0, 0])


@formats
def test_passes_where_x_is_nan(run, format):
    x = np.array([np.nan], np.float32)
    np.testing.assert_array_equal(gradient(run, x, upstream(x), format), upstream(x))


@pytest.mark.parametrize("format", [lp.FP32, lp.BF16], ids=str)
def test_is_zero_at_infinity_where_the_format_has_one(run, format):
    x = np.array([np.inf, -np.inf], np.float32)
    np.testing.assert_array_equal(gradient(run, x, upstream(x), format), [0, 0])


def test_is_zero_where_dy_is_not_finite_but_x_was_beyond(run):
    # 0 * inf would be NaN.
    x = np.array([3.0, 3.0], np.float32)
    dy = np.array([np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(gradient(run, x, dy, lp.FixedPointFormat(2, 14)), [0, 0])


def test_keeps_float32_subnormals(run):
    x, dy = np.array([0.5], np.float32), np.array([1e-40], np.float32)
    assert gradient(run, x, dy, lp.FP8_E5M2).view(np.uint32) == dy.view(np.uint32)


def test_of_float64_is_float64(run):
    x = np.array([0.5, 3.0])
    dx = gradient(run, x, upstream(x), lp.FixedPointFormat(2, 14))
    assert dx.dtype == np.float64
    np.testing.assert_array_equal(dx, [upstream(x)[0], 0])


def test_of_float16_is_float16(run):
    x = np.array([0.5, 3.0], np.float16)
    dx = gradient(run, x, np.array([1, 1], np.float32), lp.FixedPointFormat(2, 14))
    assert dx.dtype == np.float16
    np.testing.assert_array_equal(dx, [1, 0])


def test_with_random_bits_is_the_same():
    x = tf.constant([0.3, 3.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = lp.quantize(x, lp.FixedPointFormat(2, 14), "stochastic", random_bits=[1, 2])
    np.testing.assert_array_equal(tape.gradient(y, x), [1, 0])


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_second_gradient_is_that_of_the_mask(run, dtype):
    # y = Q(x)^2 has dy/dx = 2 Q(x) mask(x), and d2y/dx2 = 2 mask(x)^2.
    def second(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = lp.quantize(x, lp.FixedPointFormat(2, 14)) ** 2
            dx = inner.gradient(y, x)
        return outer.gradient(dx, x)

    np.testing.assert_array_equal(run(second)(tf.constant([0.25, 3.0], dtype)), [2, 0])


def test_of_nothing_is_nothing(run):
    x = np.zeros([0, 3], np.float32)
    assert gradient(run, x, x, lp.FP8_E5M2).shape == (0, 3)
