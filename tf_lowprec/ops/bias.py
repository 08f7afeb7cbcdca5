"""add_bias: x + bias, rounded once; so is the bias' gradient. Op Lowprec>AddBiasPasses."""

import tensorflow as tf

from tf_lowprec import formats
from tf_lowprec.formats import Rounding
from tf_lowprec.ops._library import ops
from tf_lowprec.ops.quantize import round_to
from tf_lowprec.ops.streams import Stream


def _sum_is_exact_in_float32(a, b):
    """Whether the sum of two values of these formats always is a float32."""
    if not all(isinstance(f, formats.FixedPointFormat) for f in (a, b)):
        return False
    whole = max(a.integer_bits, b.integer_bits)
    return whole + max(a.fractional_bits, b.fractional_bits) <= 24


def add_bias(x, bias, policy, x_format, seed):
    """``round(x + round(bias))``.

    Args:
        x: float32, its values in `x_format` (None: float32).
        bias: float32, of a shape that broadcasts to that of x, such as ``[C]``.
        policy: its `weights` is the bias' format, `activations` the result's, `gradients` that of
            the bias' gradient: the sum of the errors, exact in float64, rounded once.
    """
    bias = round_to(bias, policy.weights, policy.for_inference().rounding, seed, Stream.BIAS)
    lhs, rhs = tf.stop_gradient(x), tf.stop_gradient(bias)
    if policy.activations is not None and not _sum_is_exact_in_float32(x_format, policy.weights):
        lhs, rhs = tf.cast(lhs, tf.float64), tf.cast(rhs, tf.float64)
    total = ops.lowprec_add_bias_passes(
        sum=lhs + rhs,
        x=x,
        bias=bias,
        seed=seed,
        format="" if policy.gradients is None else policy.gradients.spec,
        rounding=policy.rounding.value,
    )
    return round_to(total, policy.activations, policy.rounding, seed, Stream.BIAS)


@tf.RegisterGradient("Lowprec>AddBiasPasses")
def _add_bias_gradient(op, dy):
    spec = op.get_attr("format").decode()
    rounding = Rounding(op.get_attr("rounding").decode())
    # In a loop of a SavedModel the bias has no static shape.
    shape = tf.shape(op.inputs[2])
    _, axes = tf.raw_ops.BroadcastGradientArgs(s0=tf.shape(dy), s1=shape)
    total = tf.reshape(tf.reduce_sum(tf.cast(dy, tf.float64), axes), shape)
    total.set_shape(op.inputs[2].shape)
    dbias = round_to(
        total,
        formats.parse_spec(spec) if spec else None,
        rounding,
        op.inputs[3],
        Stream.BIAS_GRADIENT,
    )
    return [None, tf.cast(dy, tf.float32), dbias, None]
