"""One GEMM under a `Gemm` description: rounds the operands, multiplies, rounds the result.

matmul.py and conv2d.py say what the product is; this file says how it is done.
"""

import tensorflow as tf

from tf_lowprec.ops.quantize import round_to
from tf_lowprec.ops.streams import Stream

# (lhs, rhs, output) of each pass.
FORWARD = (Stream.FORWARD_LHS, Stream.FORWARD_RHS, Stream.FORWARD_OUTPUT)
BACKWARD = (Stream.BACKWARD_LHS, Stream.BACKWARD_RHS, Stream.BACKWARD_OUTPUT)
GRADIENT = (Stream.GRADIENT_LHS, Stream.GRADIENT_RHS, Stream.GRADIENT_OUTPUT)


def round_operands(lhs, rhs, gemm, seed, streams):
    """lhs and rhs in the formats of `gemm`."""
    return (
        round_to(lhs, gemm.lhs, gemm.rounding, seed, streams[0]),
        round_to(rhs, gemm.rhs, gemm.rounding, seed, streams[1]),
    )


def accumulate(lhs, rhs, gemm, product, length):
    """product(lhs, rhs) under gemm's accumulator, before the output is rounded.

    Args:
        lhs, rhs: float32 operands, already rounded.
        product: product(lhs, rhs, wide), bilinear: in float32, or if `wide` exact in float64.
        length: number of terms of each sum: an int, or a scalar tensor where it is unknown.

    Returns:
        float32 for the native accumulator; float64 for the wide one, which is the exact sum: every
        partial sum is an integer of at most 53 bits times a power of two, in any order.
    """
    if gemm.accumulator.kind == "native":
        return product(lhs, rhs, wide=False)
    bound = gemm.exact_length
    too_long = (
        f"sums for lhs = {gemm.lhs} and rhs = {gemm.rhs} are longer than {bound}, the longest that "
        "Accumulator.wide() adds exactly in 53 bits: use narrower formats, or "
        "Accumulator.native()"
    )
    if isinstance(length, int):
        if length > bound:
            raise ValueError(f"length = {length}: {too_long}")
        return product(lhs, rhs, wide=True)
    check = tf.debugging.assert_less_equal(
        tf.cast(length, tf.int64), tf.constant(bound, tf.int64), message=too_long
    )
    with tf.control_dependencies([check] if check is not None else []):
        return product(tf.identity(lhs), tf.identity(rhs), wide=True)


def forward(lhs, rhs, policy, product, length, seed, passes):
    """The FWD product as float32; its gradient is the BWD and GRAD products of the op `passes`.

    Args:
        product, length: as in `accumulate`.
        passes: an op of cc/ops/passes.cc, but for the arguments given here: the identity, with a
            registered gradient that reads the policy from its attributes.
    """
    gemm = policy.forward
    lhs, rhs = round_operands(lhs, rhs, gemm, seed, FORWARD)
    total = accumulate(tf.stop_gradient(lhs), tf.stop_gradient(rhs), gemm, product, length)
    total = passes(
        product=total,
        lhs=lhs,
        rhs=rhs,
        seed=seed,
        forward=gemm.to_json(),
        backward=policy.backward.to_json(),
        gradient=policy.gradient.to_json(),
    )
    return round_to(total, gemm.output, gemm.rounding, seed, FORWARD[2])


def run(lhs, rhs, gemm, product, length, seed, streams):
    """round(accumulate(round(lhs), round(rhs))) as float32."""
    lhs, rhs = round_operands(lhs, rhs, gemm, seed, streams)
    total = accumulate(lhs, rhs, gemm, product, length)
    return round_to(total, gemm.output, gemm.rounding, seed, streams[2])


def size(tensor, *axes):
    """Number of elements along `axes`: an int where they are known, else a tensor."""
    known = [tensor.shape[axis] for axis in axes]
    if None not in known:
        total = 1
        for extent in known:
            total *= extent
        return total
    shape = tf.shape(tensor, tf.int64)
    return tf.reduce_prod(tf.stack([shape[axis] for axis in axes]))
