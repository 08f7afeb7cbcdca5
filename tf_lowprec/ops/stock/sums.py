"""Sums whose every partial sum is rounded, one term after the other, in TensorFlow's own ops."""

import tensorflow as tf

from tf_lowprec.formats import FixedPointFormat, Rounding
from tf_lowprec.ops.stock.rounding import round_to_format


class Adder:
    """``round(s + x)`` of the exact sum, for products x of two operands or for sums of chunks.

    In float32 where that is proved to give the same; else in float64, and where even that is not
    enough, with its sum rounded to odd (Boldo and Melquiond, 2008).

    Args:
        accumulator: a FloatFormat.
        rounding: of partial sums.
        term_bits: significant bits of what is added to a sum.
        is_term_float32: whether it is a normal float32 number.
    """

    def __init__(self, accumulator, rounding, term_bits, is_term_float32):
        self.format, self.rounding = accumulator, rounding

        def harmless(precision):
            # A sum that `precision` bits do not hold is never rounded to a tie of the accumulator:
            # either the term lies far below the sum and s is no tie, or s far below the term,
            # which is on the accumulator's grid.
            m = accumulator.mantissa_bits
            nearest = rounding in (Rounding.NEAREST_EVEN, Rounding.NEAREST_UP)
            near = term_bits + m <= precision - 3 and 2 * m <= precision - 4
            return nearest and near and term_bits <= m + 1

        single = is_term_float32 and accumulator.exponent_bits <= 7 and harmless(24)
        self.dtype = tf.float32 if single else tf.float64
        self._to_odd = not single and not harmless(53)

    def __call__(self, s, x):
        total = s + x
        if self._to_odd:
            total = _round_to_odd(s, x, total)
        return round_to_format(total, self.format, self.rounding)


def _round_to_odd(a, b, total):
    """a + b rounded to odd, from ``total``, that sum rounded to nearest in float64."""
    # Two-sum (Knuth): what is missing in `total`, exactly.
    part = total - a
    missing = (a - (total - part)) + (b - part)
    bits = tf.bitcast(total, tf.int64)
    is_even = tf.bitwise.bitwise_and(bits, tf.constant(1, tf.int64)) == 0
    inexact = (missing > 0) | (missing < 0)  # not where it is NaN
    away = tf.equal(missing > 0, total > 0)
    step = tf.where(away, tf.constant(1, tf.int64), tf.constant(-1, tf.int64))
    return tf.bitcast(tf.where(is_even & inexact, bits + step, bits), tf.float64)


def adders(accumulator, rounding, a_format, b_format):
    """(of products, of chunks' sums): the Adders of a product of operands on these grids."""
    bits = [24 if f is None else significant_bits(f) for f in (a_format, b_format)]
    known = a_format is not None and b_format is not None
    lowest = sum(_lowest_bit(f) for f in (a_format, b_format)) if known else -300
    highest = sum(_exponent(f.max) for f in (a_format, b_format)) if known else 300
    is_float32 = sum(bits) <= 24 and lowest >= -126 and highest < 126
    own = accumulator.mantissa_bits + 1
    return (
        Adder(accumulator, rounding, sum(bits), is_float32),
        Adder(accumulator, rounding, own, True),
    )


def significant_bits(format):
    """Bits of the longest significand of a format."""
    return format.bits if isinstance(format, FixedPointFormat) else format.mantissa_bits + 1


def _lowest_bit(format):
    if isinstance(format, FixedPointFormat):
        return -format.fractional_bits
    return format.min_exponent - format.mantissa_bits


def _exponent(value):
    return len(bin(int(value))) - 2


def narrow_sums(a, b, chunk, product_adder, chunk_adder, present=None):
    """``sum_k a[..., m, k] b[..., k, n]``, every partial sum rounded, for k ascending from +0.

    Args:
        a, b: float32 ``[..., M, K]`` and ``[..., K, N]``, batch axes broadcast.
        chunk: terms of a chunk; 0 for one sum.
        product_adder, chunk_adder: Adders.
        present: bool ``[K / repeats, ..., M, 1]``, broadcast: which terms are there. Those that are
            not are left out. None: all.

    Returns:
        float32 ``[..., M, N]``.
    """
    length = a.shape[-1] if a.shape[-1] is not None else tf.shape(a)[-1]
    zeros = tf.zeros(_result_shape(a, b), tf.float32)
    dtype = product_adder.dtype
    # Terms first, so that one is a slice.
    rows = tf.cast(_terms_first(a, -1), dtype)
    columns = tf.cast(_terms_first(b, -2), dtype)
    repeats = 1 if present is None else length // present.shape[0]

    def add_products(k, end):
        def body(k, s):
            added = product_adder(s, tf.gather(rows, k) * tf.gather(columns, k))
            if present is not None:
                added = tf.where(tf.gather(present, k // repeats), added, s)
            return k + 1, added

        start = tf.cast(zeros, dtype)
        _, s = tf.while_loop(
            lambda k, s: k < end, body, (k, start), parallel_iterations=1, swap_memory=False
        )
        return tf.cast(s, tf.float32)

    if not chunk:
        return add_products(tf.constant(0), length)

    def add_chunk(k, total):
        end = tf.minimum(k + chunk, length)
        part = tf.cast(add_products(k, end), chunk_adder.dtype)
        return end, chunk_adder(total, part)

    start = tf.cast(zeros, chunk_adder.dtype)
    _, total = tf.while_loop(
        lambda k, total: k < length, add_chunk, (tf.constant(0), start), parallel_iterations=1
    )
    return tf.cast(total, tf.float32)


def _terms_first(x, axis):
    """x with `axis` in front, and an axis of one in its place."""
    order = list(range(x.shape.rank))
    term = order.pop(axis)
    return tf.expand_dims(tf.transpose(x, [term, *order]), axis)


def _result_shape(a, b):
    if a.shape.rank == b.shape.rank == 2:
        batch = tf.zeros([0], tf.int32)
    elif b.shape.rank == 2:
        batch = tf.shape(a)[:-2]
    else:
        batch = tf.broadcast_dynamic_shape(tf.shape(a)[:-2], tf.shape(b)[:-2])
    return tf.concat([batch, tf.shape(a)[-2:-1], tf.shape(b)[-1:]], 0)
