"""Slow, obvious twins of the arithmetic in the design's contract. No TensorFlow, no rounding.

Numbers are Python integers: every float64 is an integer multiple of 2^-1074, and so is every value
of every format. A format is read by its fields only (exponent_bits, mantissa_bits, specials, ...),
so that mistakes in the properties that formats derive from them show.
"""

import math

import numpy as np

ROUNDINGS = ("nearest_even", "nearest_up", "stochastic", "toward_zero")
RANDOM_BITS = 24  # b of stochastic rounding: r / 2^24 is added below the cut
_UNITS = 2**1074  # per 1.0
_MASK32 = 2**32 - 1


def is_fixed(format):
    return hasattr(format, "integer_bits")


# Codes and values of float formats. A code is the exponent and mantissa fields, without the sign.


def bias(format):
    return 2 ** (format.exponent_bits - 1) - 1


def finite_codes(format):
    """How many codes stand for finite numbers: 0, 1, ... up to the largest one."""
    codes = 2 ** (format.exponent_bits + format.mantissa_bits)
    if format.specials == "ieee":  # the top exponent is inf and NaN
        return codes - 2**format.mantissa_bits
    if format.specials == "finite":
        return codes
    return codes - 1  # fn, dlfloat: all ones is NaN


def code_units(code, format):
    """The number that a code stands for, times 2^1074; None where it stands for none."""
    exponent, mantissa = divmod(code, 2**format.mantissa_bits)
    # dlfloat's lowest exponent is a normal binade, whose zero mantissa is the number 0.
    if exponent > 0 or (format.specials == "dlfloat" and mantissa > 0):
        significand = 2**format.mantissa_bits + mantissa
    elif mantissa > 0 and not format.subnormals:
        return None
    else:
        significand = mantissa
        exponent = 1
    return significand << (1074 + exponent - bias(format) - format.mantissa_bits)


def grid(format):
    """All values >= 0 of a float format, ascending, by enumeration; Python floats."""
    units = (code_units(code, format) for code in range(finite_codes(format)))
    return [u / _UNITS for u in units if u is not None]


def decode(code, format):
    """The float that a whole code (with sign, as unsigned integer) stands for, or None."""
    if is_fixed(format):
        word = format.integer_bits + format.fractional_bits
        signed = code - 2**word if code >= 2 ** (word - 1) else code
        return signed / 2**format.fractional_bits
    sign, magnitude = divmod(code, 2 ** (format.exponent_bits + format.mantissa_bits))
    if magnitude < finite_codes(format):
        units = code_units(magnitude, format)
        return None if units is None else (-1.0 if sign else 1.0) * (units / _UNITS)
    if format.specials == "ieee" and magnitude == finite_codes(format):
        return -math.inf if sign else math.inf
    return math.nan


def largest(format):
    """The largest value."""
    if is_fixed(format):
        word = format.integer_bits + format.fractional_bits
        return (2 ** (word - 1) - 1) / 2**format.fractional_bits
    return code_units(finite_codes(format) - 1, format) / _UNITS


def smallest(format):
    """The smallest positive value."""
    if is_fixed(format):
        return 1 / 2**format.fractional_bits
    code = 1
    while code_units(code, format) is None:
        code *= 2  # the first code with a value is 1 or, without subnormals, 2^m
    return code_units(code, format) / _UNITS


# Rounding.


def _units(x):
    numerator, denominator = x.as_integer_ratio()
    return numerator * (_UNITS // denominator)


def _round_quotient(number, quantum, rounding, up, r):
    """number / quantum as an integer. `up`: whether the larger of two integers is nearer to +inf
    (always, unless `number` is the magnitude of a negative one)."""
    below, rest = divmod(number, quantum)
    if rounding == "stochastic":
        # floor(number / quantum + r / 2^24)
        return ((number << RANDOM_BITS) + r * quantum) // (quantum << RANDOM_BITS)
    if rounding == "toward_zero":  # of a magnitude
        return below
    if 2 * rest != quantum:
        return below + (2 * rest > quantum)
    if rounding == "nearest_even":
        return below + below % 2
    assert rounding == "nearest_up"
    return below + up


def _round_fixed(x, format, rounding, r):
    if math.isnan(x):
        return math.nan
    word = format.integer_bits + format.fractional_bits
    low, high = -(2 ** (word - 1)), 2 ** (word - 1) - 1
    if math.isinf(x):
        whole = high if x > 0 else low
    else:
        number, quantum = _units(x), _UNITS >> format.fractional_bits
        if rounding == "toward_zero":
            whole = abs(number) // quantum * (1 if number >= 0 else -1)
        else:
            whole = _round_quotient(number, quantum, rounding, True, r)
    return min(max(whole, low), high) / 2**format.fractional_bits


def _overflow(format):
    """What becomes of infinity, and of finite values that round beyond the largest one."""
    if format.saturate or format.specials == "finite":
        return largest(format)
    return math.inf if format.specials == "ieee" else math.nan


def _round_float(x, format, rounding, r):
    if math.isnan(x):
        return math.nan
    if math.isinf(x):
        return math.copysign(_overflow(format), x)
    number = abs(_units(x))
    lowest_exponent = (0 if format.specials == "dlfloat" else 1) - bias(format)
    least = _units(smallest(format))
    if number < least:
        quantum = least  # also the spacing of the subnormals, where there are some
    else:
        exponent = max(number.bit_length() - 1 - 1074, lowest_exponent)
        quantum = 1 << (1074 + exponent - format.mantissa_bits)
    result = _round_quotient(number, quantum, rounding, x > 0, r) * quantum
    if result <= _units(largest(format)):
        return math.copysign(result / _UNITS, x)
    # A finite value that is truncated never overflows.
    beyond = largest(format) if rounding == "toward_zero" else _overflow(format)
    return math.copysign(beyond, x)


def round_value(x, format, rounding, r=None):
    """`x`, an exact Python float, rounded once to a format; r in [0, 2^24) if stochastic.

    The stochastic mode takes floor(|x| / quantum + r / 2^24) of floats and
    floor(x / quantum + r / 2^24) of fixed point. Below the smallest positive value of a float
    format the quantum is that value.
    """
    rounding = getattr(rounding, "value", rounding)
    x = float(x)
    r = None if r is None else int(r)
    if is_fixed(format):
        return _round_fixed(x, format, rounding, r)
    return _round_float(x, format, rounding, r)


def round_array(x, format, rounding, r=None):
    """round_value of each element, as float32 with the canonical NaN."""
    x = np.asarray(x)
    r = np.zeros(x.shape, np.int32) if r is None else np.asarray(r)
    flat = [round_value(a, format, rounding, b) for a, b in zip(x.ravel().tolist(), r.ravel())]
    return canonical(np.array(flat, np.float32).reshape(x.shape))


def canonical(x):
    """float32 values in which every NaN is 0x7FC00000."""
    bits = np.array(x, np.float32).view(np.uint32)
    return np.where(np.isnan(x), np.uint32(0x7FC00000), bits).view(np.float32)


# Philox 4x32-10 (Salmon et al., SC 2011), and the random bits drawn from it.


def philox4x32_10(counter, key):
    """Four 32-bit words from a counter of four words and a key of two. Python integers, or numpy
    uint64 arrays of words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        left, right = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            right >> 32 ^ c1 ^ k0,
            right & _MASK32,
            left >> 32 ^ c3 ^ k1,
            left & _MASK32,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _MASK32, (k1 + 0xBB67AE85) & _MASK32
    return c0, c1, c2, c3


def random_word(index, stream, seed):
    """The 32-bit word of element `index`: word index % 4 of block index // 4 of a stream."""
    index, stream = int(index), int(stream)
    block = index // 4
    counter = (block & _MASK32, block >> 32, stream & _MASK32, stream >> 32)
    return philox4x32_10(counter, [int(s) % 2**32 for s in seed])[index % 4]


def random_bits(index, stream, seed):
    """r of element `index`: the top 24 bits of its word."""
    return random_word(index, stream, seed) >> (32 - RANDOM_BITS)


def random_words(count, stream, seed):
    """random_word of elements 0 .. count - 1, uint64."""
    stream = int(stream)
    blocks = np.arange(-(-count // 4), dtype=np.uint64)
    zeros = np.zeros_like(blocks)
    counter = (blocks, zeros, zeros + (stream & _MASK32), zeros + (stream >> 32))
    words = philox4x32_10(counter, [int(s) % 2**32 for s in seed])
    return np.stack(words, axis=1).ravel()[:count]


def random_bits_array(count, stream, seed):
    """r of elements 0 .. count - 1, int32."""
    return (random_words(count, stream, seed) >> (32 - RANDOM_BITS)).astype(np.int32)
