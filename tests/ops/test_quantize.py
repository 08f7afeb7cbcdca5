"""lp.quantize, bit for bit, against grids by enumeration, ml_dtypes and the exact oracle."""

import cases
import numpy as np
import oracle
import pytest
import tensorflow as tf
from cases import PRESETS, assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

import tf_lowprec as lp

FIXED = [lp.FixedPointFormat(*f) for f in [(2, 14), (8, 8), (16, 0), (1, 15), (1, 0), (6, 2)]]
HALF = 2**23  # random bits that stand for 1/2
names = pytest.mark.parametrize("name", PRESETS)
roundings = pytest.mark.parametrize("rounding", oracle.ROUNDINGS)


def quantize(x, format, rounding, r=None):
    return lp.quantize(tf.constant(x), format, rounding, random_bits=r).numpy()


def constant_bits(x, r):
    return np.full(np.shape(x), r, np.int32)


def float_ties(format):
    """Neighbours (low, high) of the grid >= 0, the tie between them, which of the two is even."""
    grid = np.array(oracle.grid(format), np.float32)
    low, high = grid[:-1], grid[1:]
    middle = ((low.astype(np.float64) + high) / 2).astype(np.float32)
    # Codes count the significands up, so an even code is an even significand.
    return low, middle, high, np.where(np.arange(low.size) % 2 == 0, low, high)


def fixed_ties(format):
    k = np.arange(-(2 ** (format.bits - 1)), 2 ** (format.bits - 1) - 1)
    low, high = k * format.epsilon, (k + 1) * format.epsilon
    even = np.where(k % 2 == 0, low, high)
    return [v.astype(np.float32) for v in (low, (low + high) / 2, high, even)]


def both_signs(*arrays):
    return [np.concatenate([a, -a]) for a in arrays]


def around(low, middle, high):
    """Values, in float32, of which the first four are nearer to `low`, the rest to `high`."""
    lower = [low, np.nextafter(low, high), np.nextafter(middle, low)]
    upper = [np.nextafter(middle, high), np.nextafter(high, low), high]
    return np.concatenate(lower), np.concatenate(upper)


def boundary_values(format):
    """All grid values, ties and their float32 neighbours, then overflow and special values."""
    low, middle, high, _ = float_ties(format)
    top = np.float32(oracle.largest(format))
    step = high[-1].astype(np.float64) - low[-1]
    beyond = [float(top) + step * f for f in (0.25, 0.5, 0.75, 1, 1.5, 2, 3)] + [float(top) * 4]
    beyond = np.array([v for v in beyond if v < 2.0**128 - 2.0**103], np.float32)
    beyond = np.concatenate([beyond, np.nextafter(beyond, top), np.nextafter(beyond, np.inf)])
    special = np.array([np.finfo(np.float32).max, np.inf, 1e-45, 1e-40, 2.0**-126], np.float32)
    below, above = around(low, middle, high)
    return both_signs(np.concatenate([below, middle, above, beyond, special]))[0]


# All encodings and all ties of the small formats, by enumeration of their grids.


@names
@roundings
def test_every_grid_value_stays(name, rounding):
    format = PRESETS[name][0]
    x = both_signs(np.array(oracle.grid(format), np.float32))[0]
    assert_same_bits(quantize(x, format, rounding, constant_bits(x, 2**24 - 1)), x, x)


@names
def test_every_tie_goes_to_even(name):
    low, middle, high, even = float_ties(PRESETS[name][0])
    x, want = both_signs(middle, even)
    assert_same_bits(quantize(x, PRESETS[name][0], "nearest_even"), want, x)


@names
def test_every_tie_goes_up(name):
    low, middle, high, _ = float_ties(PRESETS[name][0])
    x, want = np.concatenate([middle, -middle]), np.concatenate([high, -low])
    assert_same_bits(quantize(x, PRESETS[name][0], "nearest_up"), want, x)


@names
@pytest.mark.parametrize("rounding", ["nearest_even", "nearest_up"])
def test_either_side_of_every_tie_goes_to_the_nearest(name, rounding):
    low, middle, high, _ = float_ties(PRESETS[name][0])
    below, above = around(low, middle, high)
    x, want = both_signs(np.concatenate([below, above]), np.repeat([low, high], 3, 0).ravel())
    assert_same_bits(quantize(x, PRESETS[name][0], rounding), want, x)


@names
@pytest.mark.parametrize("rounding, r", [("toward_zero", None), ("stochastic", 0)])
def test_truncation_goes_to_the_lower_neighbour(name, rounding, r):
    low, middle, high, _ = float_ties(PRESETS[name][0])
    inside = np.concatenate([np.nextafter(low, high), middle, np.nextafter(high, low)])
    x, want = both_signs(inside, np.tile(low, 3))
    r = None if r is None else constant_bits(x, r)
    assert_same_bits(quantize(x, PRESETS[name][0], rounding, r), want, x)


@names
@pytest.mark.parametrize("r, goes_up", [(HALF, True), (HALF - 1, False)])
def test_stochastic_rounding_of_every_tie_turns_at_half(name, r, goes_up):
    low, middle, high, _ = float_ties(PRESETS[name][0])
    x, want = both_signs(middle, high if goes_up else low)
    assert_same_bits(quantize(x, PRESETS[name][0], "stochastic", constant_bits(x, r)), want, x)


@pytest.mark.parametrize("format", FIXED, ids=str)
@pytest.mark.parametrize(
    "rounding, r, place",
    [
        ("nearest_even", None, "even"),
        ("nearest_up", None, "high"),
        ("stochastic", HALF, "high"),
        ("stochastic", HALF - 1, "low"),
        ("toward_zero", None, "inner"),
    ],
)
def test_every_fixed_point_tie(format, rounding, r, place):
    low, middle, high, even = fixed_ties(format)
    inner = np.where(middle > 0, low, high)
    want = {"even": even, "high": high, "low": low, "inner": inner}[place] + np.float32(0)
    r = None if r is None else constant_bits(middle, r)
    assert_same_bits(quantize(middle, format, rounding, r), want, middle)


# Against ml_dtypes and the oracle: boundaries, overflow, special values.


@names
def test_nearest_even_equals_ml_dtypes(name):
    format, type_name = PRESETS[name]
    dtype = cases.numpy_type(type_name)
    if dtype is None:
        pytest.skip("ml_dtypes has no such type")
    x = boundary_values(format)
    with np.errstate(over="ignore"):
        want = x.astype(dtype).astype(np.float32)
    assert_same_bits(quantize(x, format, "nearest_even"), oracle.canonical(want), x)


@names
def test_nan_stays_nan(name):
    # ml_dtypes turns NaN into -0 where a format has none; here the float32 carrier holds it.
    patterns = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF], np.uint32)
    for rounding in oracle.ROUNDINGS:
        got = quantize(
            patterns.view(np.float32), PRESETS[name][0], rounding, constant_bits([0] * 4, 7)
        )
        np.testing.assert_array_equal(got.view(np.uint32), 0x7FC00000)


@names
@roundings
def test_boundaries_equal_the_oracle(name, rounding):
    format, rng = PRESETS[name][0], np.random.default_rng(1)
    x = boundary_values(format)
    x = np.concatenate([rng.choice(x, 1500), x[-40:], -x[-40:]])
    r = rng.integers(0, 2**24, x.shape, np.int32)
    assert_same_bits(
        quantize(x, format, rounding, r), oracle.round_array(x, format, rounding, r), x, r
    )


# Any format.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@roundings
@settings(max_examples=100, deadline=None)
@given(format=cases.float_formats(), seed=st.integers(0, 2**32))
def test_any_float_format_equals_the_oracle(rounding, dtype, format, seed):
    x, r = cases.inputs(format, dtype, seed)
    want = oracle.round_array(x, format, rounding, r)
    assert_same_bits(quantize(x, format, rounding, r), want, x, r)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@roundings
@settings(max_examples=100, deadline=None)
@given(format=cases.fixed_formats(), seed=st.integers(0, 2**32))
def test_any_fixed_point_format_equals_the_oracle(rounding, dtype, format, seed):
    x, r = cases.inputs(format, dtype, seed)
    want = oracle.round_array(x, format, rounding, r)
    assert_same_bits(quantize(x, format, rounding, r), want, x, r)


@pytest.mark.parametrize("format", [lp.FP16, lp.FixedPointFormat(6, 10)], ids=str)
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("off, steps", [(2.0**-40, 1), (-(2.0**-40), 0)])
def test_float64_is_rounded_once(format, sign, off, steps):
    # float32 would put it on the tie between 1 and 1 + 2^-10, then even would choose 1.
    x = tf.constant([sign * (1 + 2.0**-11 + off)], tf.float64)
    assert lp.quantize(x, format).numpy()[0] == np.float32(sign * (1 + steps * 2.0**-10))


def test_float64_overflows_from_float32s_last_tie_on():
    # Just below the tie between FP32's max and 2^128, then that tie.
    x = tf.constant([2.0**128 - 2.0**103 - 2.0**76, 2.0**128 - 2.0**103], tf.float64)
    np.testing.assert_array_equal(lp.quantize(x, lp.FP32), [np.finfo(np.float32).max, np.inf])


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_16_bit_floats_widen_exactly(dtype):
    x = tf.constant([1.0, -3.5, 448.0, 0.0078125], dtype)
    want = oracle.round_array(tf.cast(x, tf.float32).numpy(), lp.FP8_E4M3FN, "nearest_even")
    assert_same_bits(lp.quantize(x, lp.FP8_E4M3FN), want)


def test_subnormals_of_float32_survive_tensorflows_flush_to_zero():
    x = np.array([1e-40, -1e-45, 2.0**-127], np.float32)
    assert_same_bits(lp.quantize(x, lp.FP32), x)


@pytest.mark.parametrize("length", [1, 3, 7, 255, 257, 1023, 1025, 4097])
def test_every_element_of_an_odd_length_is_rounded(length):
    x = np.random.default_rng(length).normal(size=length).astype(np.float32)
    r = np.random.default_rng(0).integers(0, 2**24, length, np.int32)
    for rounding in oracle.ROUNDINGS:
        want = oracle.round_array(x, lp.FP8_E5M2, rounding, r)
        assert_same_bits(quantize(x, lp.FP8_E5M2, rounding, r), want, x, r)
