"""lp.quantize_mx: rounds a tensor to an OCP MX block format. Op Lowprec>QuantizeMx."""

import numbers

import tensorflow as tf

from tf_lowprec import formats
from tf_lowprec.formats import Rounding
from tf_lowprec.ops._library import ops
from tf_lowprec.ops.quantize import as_float
from tf_lowprec.ops.seeds import as_seed
from tf_lowprec.ops.streams import Stream
from tf_lowprec.ops.xla import check_not_xla


def quantize_mx(
    x,
    format,
    axis=-1,
    rounding="nearest_even",
    seed=None,
    *,
    return_scales=False,
    stream=Stream.QUANTIZE,
):
    """Rounds blocks of `x` along an axis to elements with a shared power-of-two scale.

    Of each run of ``format.block`` values V: ``X = 2^(floor(log2(max |V_i|)) - emax)``, at least
    2^-127, and ``y_i = X round(V_i / X)``, rounded once to ``format.element``; what lies beyond its
    largest value, 2^emax times something below 2, saturates. A block of zeros has the scale 2^-127.
    A block that holds a NaN or an infinity has the scale NaN, and all of it is NaN. (OCP
    Microscaling Formats (MX) Specification v1.0, sections 5 and 6.3.)

    The gradient is straight-through, dy everywhere.

    Args:
        x: tensor of rank 1 or more: float32, or float64, which is rounded in one step too. float16
            and bfloat16 are widened exactly.
        format: an MXFormat.
        axis: along which blocks run.
        rounding: a Rounding or its name; the specification's is "nearest_even".
        seed: two integers, for stochastic rounding; random numbers are those of `quantize`.
        return_scales: whether to return the scales as well.
        stream: a Stream; tells roundings that share a seed apart.

    Returns:
        float32 tensor of x's shape; with `return_scales` also their E8M0 codes, uint8 (exponent +
        127, or 255 for NaN), of x's shape with a block's scale along `axis`.

    Raises:
        ValueError, tf.errors.InvalidArgumentError: an argument that is none of these.
    """
    check_not_xla()
    if not isinstance(format, formats.MXFormat):
        raise ValueError(f"format = {format!r} must be a tf_lowprec.MXFormat, such as MXFP8_E4M3")
    rounding = Rounding.of(rounding)
    x = as_float(x)
    if not isinstance(axis, numbers.Integral) or isinstance(axis, bool):
        raise ValueError(f"axis = {axis!r} must be an integer, an axis of x")
    rank = x.shape.rank
    if rank is not None and not -rank <= axis < rank:
        raise ValueError(f"axis = {axis} is outside x of shape {x.shape}")
    seed = as_seed(seed, needed=rounding == Rounding.STOCHASTIC)
    if not 0 <= int(stream) < 2**63:
        raise ValueError(f"stream = {stream!r} must be in 0..2^63-1")
    y, scales = round_blocks(x, format, int(axis), rounding, seed, stream)
    return (y, scales) if return_scales else y


def round_blocks(x, format, axis, rounding, seed, stream):
    """quantize_mx without checks: (values, scales)."""
    return ops.lowprec_quantize_mx(
        x=x,
        seed=seed,
        element=format.element.spec,
        axis=axis,
        block=format.block,
        rounding=rounding.value,
        stream=int(stream),
    )


@tf.RegisterGradient("Lowprec>QuantizeMx")
def _quantize_mx_gradient(op, dy, _):
    return [tf.cast(dy, op.inputs[0].dtype), None]
