"""Rounding to a format on the bits of float32 or float64, in ops that TF Lite has, too."""

import math
import struct

import tensorflow as tf

from tf_lowprec.formats import FixedPointFormat, FloatFormat, Rounding


class _Carrier:
    """float32 or float64 as integers; magnitudes order as their bits do."""

    def __init__(self, dtype):
        single = dtype == tf.float32
        self.dtype, self.integer = dtype, tf.int32 if single else tf.int64
        self.mantissa_bits = 23 if single else 52
        self.min_exponent = -126 if single else -1022
        self.sign = -(2**31) if single else -(2**63)
        self._codes = ("<f", "<i") if single else ("<d", "<q")
        self.infinity = self.bits(math.inf)
        self.nan = self.bits(math.nan)

    def bits(self, value):
        """The bits of a Python float, as an int."""
        return struct.unpack(self._codes[1], struct.pack(self._codes[0], value))[0]

    def constant(self, value):
        return tf.constant(value, self.integer)


def round_to_format(x, format, rounding):
    """`x` rounded once to `format`, as lp.quantize has it, in the dtype of x.

    Args:
        x: float32 or float64.
        format: a FloatFormat or FixedPointFormat.
        rounding: a Rounding that is not stochastic.
    """
    if rounding == Rounding.STOCHASTIC:
        raise ValueError(
            "rounding = 'stochastic' has no form in TensorFlow's own ops: export a model whose "
            "inference_rounding is nearest, as Policy has it by default"
        )
    carrier = _Carrier(x.dtype)
    bits = tf.bitcast(x, carrier.integer)
    negative = bits < 0
    magnitude = tf.where(negative, bits - carrier.constant(carrier.sign), bits)
    if isinstance(format, FixedPointFormat):
        value = _to_fixed(x, format, rounding)
    else:
        rounded = _to_float(x, magnitude, negative, format, rounding, carrier)
        signed = tf.where(negative, rounded + carrier.constant(carrier.sign), rounded)
        value = tf.bitcast(signed, x.dtype)
    is_nan = magnitude > carrier.constant(carrier.infinity)
    return tf.where(is_nan, tf.constant(math.nan, x.dtype), value)


def _to_integer(x, rounding):
    """x rounded to an integer."""
    if rounding == Rounding.NEAREST_EVEN:
        return tf.round(x)
    down = tf.floor(x)
    if rounding == Rounding.NEAREST_UP:
        # x - down is exact but for tiny negative x, where it is on the same side of a half.
        return tf.where(x - down >= 0.5, down + 1, down)
    return tf.where(x < 0, tf.math.ceil(x), down)


def _to_fixed(x, format, rounding):
    scale = 2.0**format.fractional_bits
    y = tf.clip_by_value(x * scale, format.min * scale, format.max * scale)
    value = _to_integer(y, rounding) * format.epsilon
    return tf.where(value == 0, tf.zeros_like(value), value)  # there is no -0


def _to_float(x, magnitude, negative, format, rounding, carrier):
    """The bits of the rounded magnitude."""
    rounded = _cut(magnitude, negative, carrier.mantissa_bits, format.mantissa_bits, rounding)
    if format.min_exponent > carrier.min_exponent:
        # Below the lowest normal binade the spacing stays what it is there. A carrier of the same
        # exponents has its own subnormals there, spaced so by the cut.
        step = 2.0 ** (format.mantissa_bits - format.min_exponent)
        steps = _to_integer((tf.abs(x) if rounding != Rounding.NEAREST_UP else x) * step, rounding)
        low = tf.bitcast(tf.abs(steps * (1 / step)), carrier.integer)
        lowest = carrier.constant(carrier.bits(2.0**format.min_exponent))
        rounded = tf.where(magnitude < lowest, low, rounded)
    if not format.subnormals:
        smallest = carrier.bits(format.smallest)
        goes_up = _is_beyond_half(magnitude, negative, carrier.bits(format.smallest / 2), rounding)
        gap = tf.where(goes_up, carrier.constant(smallest), carrier.constant(0))
        rounded = tf.where(magnitude < carrier.constant(smallest), gap, rounded)
    beyond, edge = rounded > carrier.constant(carrier.bits(format.max)), _edge(format, carrier)
    if rounding == Rounding.TOWARD_ZERO:
        is_infinite = magnitude == carrier.constant(carrier.infinity)
        edge = tf.where(is_infinite, edge, carrier.constant(carrier.bits(format.max)))
    return tf.where(beyond, edge, rounded)


def _cut(magnitude, negative, bits, kept, rounding):
    """`magnitude` rounded to `kept` of its `bits` mantissa bits; a carry goes into the exponent."""
    cut = bits - kept
    if cut == 0:
        return magnitude
    integer = magnitude.dtype
    half, one = tf.constant(1 << (cut - 1), integer), tf.constant(1, integer)
    if rounding == Rounding.NEAREST_EVEN:
        if kept == 0:
            magnitude += half  # the significand is 1, odd: ties go up
        else:
            shifted = tf.bitwise.right_shift(magnitude, tf.constant(cut, integer))
            even = tf.bitwise.right_shift(shifted, one) * 2
            magnitude += (half - 1) + (shifted - even)
    elif rounding == Rounding.NEAREST_UP:
        magnitude += tf.where(negative, half - 1, half)
    kept_bits = tf.bitwise.right_shift(magnitude, tf.constant(cut, integer))
    return kept_bits * tf.constant(1 << cut, integer)


def _is_beyond_half(magnitude, negative, half, rounding):
    """Whether a value between 0 and the smallest goes up; a tie goes to 0, or towards +inf."""
    half = tf.constant(half, magnitude.dtype)
    if rounding == Rounding.TOWARD_ZERO:
        return tf.zeros_like(negative)
    if rounding == Rounding.NEAREST_UP:
        return (magnitude > half) | ((magnitude == half) & tf.logical_not(negative))
    return magnitude > half


def _edge(format: FloatFormat, carrier):
    """Bits of what overflow and infinity become."""
    if format.saturate or format.specials == "finite":
        return carrier.constant(carrier.bits(format.max))
    return carrier.constant(carrier.infinity if format.specials == "ieee" else carrier.nan)
