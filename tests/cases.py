"""Formats and inputs that the tests of rounding share: grids, ties, boundaries, special values."""

import ml_dtypes
import numpy as np
import oracle
from hypothesis import strategies as st

import tf_lowprec as lp

# Every preset whose values can be listed, and its NumPy type where there is one.
PRESETS = {
    "FP4_E2M1FN": (lp.FP4_E2M1FN, "float4_e2m1fn"),
    "FP6_E2M3FN": (lp.FP6_E2M3FN, "float6_e2m3fn"),
    "FP6_E3M2FN": (lp.FP6_E3M2FN, "float6_e3m2fn"),
    "FP8_E4M3FN": (lp.FP8_E4M3FN, "float8_e4m3fn"),
    "FP8_E5M2": (lp.FP8_E5M2, "float8_e5m2"),
    "FP16": (lp.FP16, "float16"),
    "BF16": (lp.BF16, "bfloat16"),
    "DLFLOAT16": (lp.DLFLOAT16, None),
}


def numpy_type(name):
    """The NumPy scalar type called `name`, or None where this ml_dtypes is too old for it."""
    return np.float16 if name == "float16" else getattr(ml_dtypes, name or "", None)


def float_formats(max_bits=32):
    """Hypothesis strategy: every FloatFormat that the constructor allows."""

    @st.composite
    def draw_format(draw):
        exponent_bits = draw(st.integers(2, 8))
        mantissa_bits = draw(st.integers(0, min(23, max_bits - 1 - exponent_bits)))
        specials = ["ieee"]
        if exponent_bits < 8:
            specials += ["fn", "finite"] + (["dlfloat"] if mantissa_bits > 0 else [])
        return lp.FloatFormat(
            exponent_bits,
            mantissa_bits,
            draw(st.sampled_from(specials)),
            saturate=draw(st.booleans()),
            subnormals=draw(st.booleans()),
        )

    return draw_format()


def fixed_formats(max_bits=24):
    """Hypothesis strategy: every FixedPointFormat that the constructor allows."""
    words = st.integers(1, max_bits).flatmap(
        lambda word: st.tuples(st.just(word), st.integers(1, word))
    )
    return words.map(lambda w: lp.FixedPointFormat(w[1], w[0] - w[1]))


def _neighbours(format, rng, count):
    """Random neighbours (low, high) of the grid, as exact float64, both signs for fixed point.

    The last pair's `high` is beyond the largest value: where it would be, were the grid longer.
    """
    if oracle.is_fixed(format):
        top = 2 ** (format.bits - 1)
        k = np.concatenate([rng.integers(-top, top, count), [-top - 1, -top, -1, 0, 1, top - 1]])
        return k * format.epsilon, (k + 1) * format.epsilon
    top = oracle.finite_codes(format) - 1
    low_codes = min(top, 2 ** (format.mantissa_bits + 1))
    code = np.concatenate(
        [
            rng.integers(0, top + 1, count),
            rng.integers(0, low_codes + 1, count // 4),  # subnormals and the lowest binades
            rng.integers(max(0, top - 3), top + 1, 8),
            [0, top],
        ]
    )
    low, high = _float_values(format, code), _float_values(format, code + 1)
    zeros = np.zeros(
        count // 4
    )  # between 0 and the smallest value, in formats with a gap there too
    return np.append(low, zeros), np.append(high, zeros + oracle.smallest(format))


def _float_values(format, codes):
    """Values of magnitude codes, as float64; the codes may run beyond the largest one."""
    exponent, mantissa = codes >> format.mantissa_bits, codes & (2**format.mantissa_bits - 1)
    normal = (exponent > 0) | (format.specials == "dlfloat")
    significand = mantissa + np.where(normal, 2**format.mantissa_bits, 0)
    power = np.where(normal, exponent, 1) - oracle.bias(format) - format.mantissa_bits
    values = np.ldexp(significand.astype(np.float64), power)
    if format.specials == "dlfloat" or not format.subnormals:
        values[(values < oracle.smallest(format)) | (codes == 0)] = 0.0
    return values


def inputs(format, dtype, seed, count=96):
    """(x, r): values of `dtype` close to all that is special about a format, and random bits.

    Grid values, ties, values whose stochastic rounding hangs on the last random bit, and their
    neighbours in `dtype`; random bit patterns; subnormals, zeros, infinities and NaN.
    """
    rng = np.random.default_rng(seed)
    low, high = _neighbours(format, rng, count)
    gap = high - low
    sixteenths = rng.integers(0, 17, low.shape) / 16
    last_bits = rng.integers(0, 2**24 + 1, low.shape) / 2**24
    exact = np.concatenate([low, low + gap / 2, low + gap * sixteenths, low + gap * last_bits])
    fractions = np.concatenate([np.zeros_like(low), np.full_like(low, 0.5), sixteenths, last_bits])
    signs = 1 if oracle.is_fixed(format) else rng.choice([-1.0, 1.0], exact.shape)
    with np.errstate(over="ignore"):
        x = (exact * signs).astype(dtype)
        x = np.where(rng.random(x.shape) < 0.5, x, np.nextafter(x, x * dtype(2) + dtype(1)))
        x = np.where(rng.random(x.shape) < 0.5, x, np.nextafter(x, dtype(0)))
    # r such that fraction + r / 2^24 is 1, or one unit short of it, or anything.
    edge = 2**24 - np.round(fractions * 2**24).astype(np.int64) - rng.integers(0, 2, x.shape)
    r = np.where(rng.random(x.shape) < 0.7, edge, rng.integers(0, 2**24, x.shape))

    unsigned = np.uint32 if dtype == np.float32 else np.uint64
    patterns = rng.integers(0, np.iinfo(unsigned).max, count, unsigned, endpoint=True)
    tiny = np.finfo(dtype).smallest_subnormal
    special = np.array([0.0, np.inf, np.nan, 1e-42, tiny, 3 * tiny, np.finfo(dtype).tiny], dtype)
    extra = np.concatenate([patterns.view(dtype), special, -special])
    r = np.concatenate([r, rng.integers(0, 2**24, extra.shape)])
    return np.concatenate([x, extra]), np.clip(r, 0, 2**24 - 1).astype(np.int32)


def assert_same_bits(got, want, x=None, r=None):
    """Float32 arrays are equal bit for bit; the message shows the first difference."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.dtype == want.dtype == np.float32
    assert got.shape == want.shape
    different = np.flatnonzero(got.ravel().view(np.uint32) != want.ravel().view(np.uint32))
    if different.size:
        i = different[0]
        of = "" if x is None else f" of x = {float(np.ravel(x)[i]).hex()}"
        bits = "" if r is None else f", r = {np.ravel(r)[i]}"
        raise AssertionError(
            f"{different.size} of {got.size} differ; element {i}{of}{bits}: "
            f"got {got.ravel()[i]!r}, want {want.ravel()[i]!r}"
        )
