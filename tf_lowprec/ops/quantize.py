"""lp.quantize: rounds a tensor to a number format. Op Lowprec>Quantize."""

import tensorflow as tf

from tf_lowprec import formats
from tf_lowprec.formats import Rounding
from tf_lowprec.ops._library import ops
from tf_lowprec.ops.seeds import as_seed
from tf_lowprec.ops.streams import Stream
from tf_lowprec.ops.tensors import as_tensor
from tf_lowprec.ops.xla import check_not_xla


def as_float(x, argument="x"):
    """`x` as a float32 or float64 tensor; 16-bit floats widen exactly."""
    x = as_tensor(x, argument)
    if x.dtype in (tf.float32, tf.float64):
        return x
    if x.dtype in (tf.float16, tf.bfloat16):
        return tf.cast(x, tf.float32)
    raise ValueError(
        f"{argument} has dtype {x.dtype.name}; it must be float32 (or float64, float16, bfloat16): "
        f"tf.cast({argument}, tf.float32)"
    )


def as_integers(random_bits):
    """`random_bits` as a tensor of integers."""
    try:
        bits = tf.convert_to_tensor(random_bits)
    except (TypeError, ValueError) as error:
        raise ValueError(f"random_bits cannot become a tensor of integers: {error}") from None
    if not bits.dtype.is_integer:
        raise ValueError(
            f"random_bits has dtype {bits.dtype.name}; it must be int32, or another integer"
        )
    return bits


def narrowed(random_bits, bits):
    """Integers of `bits` bits as int32: wider ones do not wrap into that range."""
    if random_bits.dtype != tf.int32:
        random_bits = tf.clip_by_value(tf.cast(random_bits, tf.int64), -1, 2**bits)
    return tf.cast(random_bits, tf.int32)


def _as_random_bits(random_bits, x):
    """`random_bits` as an int32 tensor of x's shape; the kernel checks its range."""
    bits = as_integers(random_bits)
    if not bits.shape.is_compatible_with(x.shape):
        shapes = (s.as_list() if s.rank is not None else s for s in (bits.shape, x.shape))
        raise ValueError("random_bits has shape {}; it must have x's, {}".format(*shapes))
    return narrowed(bits, 24)


def quantize(
    x, format, rounding="nearest_even", seed=None, *, stream=Stream.QUANTIZE, random_bits=None
):
    """Rounds each element of `x`, once, to a value of `format`.

    ``y = k * ulp`` with the integer k chosen by `rounding`; stochastic rounding takes
    ``floor(|x| / ulp + r * 2^-24)`` for floats and ``floor(x / ulp + r * 2^-24)`` for fixed point
    (Gupta et al., 2015, section 3), where r is the top 24 bits of word ``i % 4`` of Philox 4x32-10
    with key `seed` and counter ``(i // 4, stream)`` for the element of row-major index i.

    The gradient is straight-through: dy where x lies within the format's range, 0 beyond.

    TensorFlow's own ops flush float32 subnormals to zero on CPUs: what follows this op may do so
    to the subnormals of formats with 8 exponent bits.

    Args:
        x: tensor of any shape: float32, or float64, which is rounded in one step too. float16 and
            bfloat16 are widened exactly.
        format: a FloatFormat or FixedPointFormat.
        rounding: a Rounding or its name.
        seed: two integers, for stochastic rounding. None draws one in eager mode.
        stream: a Stream; tells roundings that share a seed apart.
        random_bits: int32 tensor of x's shape with r in [0, 2^24), instead of `seed`. Values beyond
            are an error on a CPU, and taken modulo 2^24 on a GPU.

    Returns:
        float32 tensor of x's shape, values on the format's grid. NaN stays NaN.

    Raises:
        ValueError: an integer or complex `x`, an unknown format or rounding, a seed of another
            shape, no seed inside tf.function.
        tf.errors.InvalidArgumentError: the same, where it shows at run time only.
    """
    check_not_xla()
    formats.check_format(format)
    rounding = Rounding.of(rounding)
    x = as_float(x)
    stochastic = rounding == Rounding.STOCHASTIC
    seed = as_seed(seed, needed=stochastic and random_bits is None)
    if not 0 <= int(stream) < 2**63:
        raise ValueError(f"stream = {stream!r} must be in 0..2^63-1")
    return ops.lowprec_quantize(
        x=x,
        seed=seed,
        random_bits=[] if random_bits is None else [_as_random_bits(random_bits, x)],
        format=format.spec,
        rounding=rounding.value,
        stream=int(stream),
    )


@tf.RegisterGradient("Lowprec>Quantize")
def _quantize_gradient(op, dy):
    dx = ops.lowprec_quantize_grad(dy=dy, x=op.inputs[0], format=op.get_attr("format"))
    return [dx] + [None] * (len(op.inputs) - 1)


@tf.RegisterGradient("Lowprec>QuantizeGrad")
def _quantize_gradient_gradient(op, ddx):
    ddy = tf.cast(
        ops.lowprec_quantize_grad(
            dy=tf.cast(ddx, tf.float32), x=op.inputs[1], format=op.get_attr("format")
        ),
        tf.float32,
    )
    return [ddy, None]


def round_to(x, format, rounding, seed, stream, random_bits=None):
    """quantize with few checks, where `format` may be None: x itself, as float32."""
    if format is None:
        if x.dtype == tf.float32:
            return x
        format, rounding = formats.FP32, Rounding.NEAREST_EVEN
    check_not_xla()
    return ops.lowprec_quantize(
        x=x,
        seed=seed,
        random_bits=[] if random_bits is None else [_as_random_bits(random_bits, x)],
        format=format.spec,
        rounding=rounding.value,
        stream=int(stream),
    )
