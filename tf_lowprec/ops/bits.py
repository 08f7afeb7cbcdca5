"""lp.to_bits and lp.from_bits: values as the integers that storage and hardware hold."""

import tensorflow as tf

from tf_lowprec import formats
from tf_lowprec.ops._library import ops
from tf_lowprec.ops.tensors import as_tensor


def storage_dtype(format):
    """The narrowest of int8, int16, int32 that holds `format`'s bits."""
    return tf.int8 if format.bits <= 8 else tf.int16 if format.bits <= 16 else tf.int32


def to_bits(x, format):
    """The integer code of each element of `x`, which must lie on the grid of `format`.

    Floats: sign, exponent and mantissa fields, right-aligned (FP8 1.0 in E5M2 is 0x3C). Fixed
    point: the two's complement integer x * 2^FL.

    Args:
        x: float32 tensor of any shape.
        format: a FloatFormat or FixedPointFormat.

    Returns:
        int8, int16 or int32 tensor (the narrowest that fits) of x's shape.

    Raises:
        ValueError: another dtype, or no format.
        tf.errors.InvalidArgumentError: a value off the grid, beyond the range, or NaN or infinity
            where the format has none; it names the element.
    """
    formats.check_format(format)
    x = as_tensor(x, "x")
    if x.dtype != tf.float32:
        raise ValueError(f"x has dtype {x.dtype.name}; it must be float32, rounded by lp.quantize")
    return ops.lowprec_to_bits(x=x, T=storage_dtype(format), format=format.spec)


def from_bits(bits, format):
    """The value of each code: the inverse of `to_bits`.

    Args:
        bits: int8, int16 or int32 tensor of any shape; bits above the format's own must repeat
            its sign bit or be 0.
        format: a FloatFormat or FixedPointFormat.

    Returns:
        float32 tensor of the shape of `bits`.

    Raises:
        ValueError: another dtype, or no format.
        tf.errors.InvalidArgumentError: an integer that is no code of the format.
    """
    formats.check_format(format)
    bits = as_tensor(bits, "bits")
    if bits.dtype not in (tf.int8, tf.int16, tf.int32) or bits.dtype.size * 8 < format.bits:
        raise ValueError(
            f"bits has dtype {bits.dtype.name}; {format} has {format.bits} bits, so it must be "
            f"{storage_dtype(format).name} or a wider signed integer up to int32"
        )
    return ops.lowprec_from_bits(bits=bits, format=format.spec)


for _op in ("Lowprec>ToBits", "Lowprec>FromBits"):
    tf.no_gradient(_op)
