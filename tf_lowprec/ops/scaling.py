"""Per-tensor scaling of a product's operands by powers of two, so that small ones are not lost."""

import math

import tensorflow as tf

# A sum of up to 2^20 terms does not overflow its accumulator.
_LENGTH_BITS = 20
# Keeps 2^k and 2^-k normal float32 numbers.
_MOST = 126


def target_exponent(gemm, format):
    """T: an operand of `gemm` in `format` is scaled so that its largest magnitude is below 2^T.

    The largest T with which the operand does not overflow, floor(log2(max)), and, for a narrow
    accumulator, with which 2^20 products of two such operands do not overflow it.
    """
    top = math.floor(math.log2(format.max))
    if gemm.accumulator.kind == "narrow":
        bits = math.floor(math.log2(gemm.accumulator.format.max)) - _LENGTH_BITS
        top = min(top, bits // 2)
    return top


def exponent_for(x, target):
    """k, an int32 scalar: the largest with ``max|x| 2^k < 2^target``, within -126..126.

    0 where x is empty, 0, infinite or NaN.
    """
    amax = tf.reduce_max(tf.abs(x))
    bits = tf.bitcast(amax, tf.int32)
    exponent = tf.bitwise.right_shift(bits, 23) - 127  # of subnormals: -127, near enough
    k = tf.clip_by_value(target - 1 - exponent, -_MOST, _MOST)
    usable = tf.math.is_finite(amax) & (amax > 0)
    return tf.where(usable, k, 0)


def scale(x, k):
    """x 2^k for a k within -126..126, exactly unless that leaves float32's range."""
    return x * tf.bitcast(tf.bitwise.left_shift(k + 127, 23), tf.float32)


def unscale(x, i, j):
    """x 2^-(i + j) for two exponents of `exponent_for`, exactly as `scale`.

    2^-i and then 2^-j could leave float32's range in between and come back. Two halves of the sum
    have one sign: what comes between x and the result is in range if these two are.
    """
    k = -(i + j)
    half = tf.bitwise.right_shift(k, 1)
    return scale(scale(x, half), k - half)
