"""One GEMM under a `Gemm` description: rounds the operands, multiplies, rounds the result.

matmul.py and conv2d.py say what the product is; this file says how it is done.
"""

import tensorflow as tf

from tf_lowprec.ops._library import ops
from tf_lowprec.ops.quantize import round_to
from tf_lowprec.ops.streams import Stream
from tf_lowprec.ops.xla import check_not_xla

# (lhs, rhs, output, accumulator) of each pass.
FORWARD = (
    Stream.FORWARD_LHS,
    Stream.FORWARD_RHS,
    Stream.FORWARD_OUTPUT,
    Stream.FORWARD_ACCUMULATOR,
)
BACKWARD = (
    Stream.BACKWARD_LHS,
    Stream.BACKWARD_RHS,
    Stream.BACKWARD_OUTPUT,
    Stream.BACKWARD_ACCUMULATOR,
)
GRADIENT = (
    Stream.GRADIENT_LHS,
    Stream.GRADIENT_RHS,
    Stream.GRADIENT_OUTPUT,
    Stream.GRADIENT_ACCUMULATOR,
)


class Operand:
    """A float32 tensor and the roundings it goes through, one after the other, before a product.

    Args:
        tensor: the tensor.
        roundings: (format, rounding, stream) each; those to None are left out.
        grid: the format on whose grid the tensor lies already, if any.
    """

    def __init__(self, tensor, roundings=(), grid=None):
        self.tensor, self.grid, self.roundings = tensor, grid, []
        for format, rounding, stream in roundings:
            # Values on a grid stay what they are when rounded to it again.
            if format is not None and format != grid:
                self.roundings.append((format, rounding, stream))
                grid = format

    def then(self, format, rounding, stream):
        """This operand with one more rounding."""
        return Operand(self.tensor, [*self.roundings, (format, rounding, stream)], self.grid)

    @property
    def last_format(self):
        """The format on whose grid the values are in the product."""
        return self.roundings[-1][0] if self.roundings else self.grid

    def rounded(self, seed):
        """The tensor after its roundings."""
        x = self.tensor
        for format, rounding, stream in self.roundings:
            x = round_to(x, format, rounding, seed, stream)
        return x

    def attributes(self, name):
        """As the attributes of Lowprec>MatMul and its kin for their operand `name`."""
        return {
            f"{name}_formats": [format.spec for format, _, _ in self.roundings],
            f"{name}_roundings": [rounding.value for _, rounding, _ in self.roundings],
            f"{name}_streams": [int(stream) for _, _, stream in self.roundings],
        }


class Products:
    """The three ways to compute one product; matmul.py and conv2d.py derive from it."""

    def native(self, lhs, rhs):
        """lhs . rhs of tensors by TensorFlow in float32."""
        raise NotImplementedError

    def wide(self, lhs, rhs, gemm):
        """lhs . rhs of tensors on the grids of `gemm`, exactly, in float64."""
        raise NotImplementedError

    def narrow(self, lhs, rhs, seed, random_bits, **attributes):
        """lhs . rhs of Operands under a narrow accumulator, given as attributes of the op."""
        raise NotImplementedError

    def length(self):
        """Number of terms of each sum: an int, or a scalar tensor where it is unknown."""
        raise NotImplementedError


def multiply(lhs, rhs, gemm, products, seed, streams, round_output=True, random_bits=None):
    """round(accumulate(round(lhs) * round(rhs))) as float32 (float64 if `wide` and not rounded).

    Args:
        lhs, rhs: Operands, with the roundings that they had before those of `gemm`.
        gemm: a Gemm.
        products: a Products.
        seed: two integers as a tensor.
        streams: FORWARD, BACKWARD or GRADIENT.
        round_output: False leaves the result as the accumulator has it.
        random_bits: of a narrow accumulator's roundings, instead of the seed.
    """
    lhs = lhs.then(gemm.lhs, gemm.rounding, streams[0])
    rhs = rhs.then(gemm.rhs, gemm.rounding, streams[1])
    kind = gemm.accumulator.kind
    if kind == "narrow":
        output = gemm.output if round_output else None
        return products.narrow(
            lhs,
            rhs,
            seed,
            [] if random_bits is None else [random_bits],
            accumulator=gemm.accumulator.format.spec,
            rounding=gemm.accumulator.rounding.value,
            chunk=gemm.accumulator.chunk or 0,
            stream=int(streams[3]),
            output_format="" if output is None else output.spec,
            output_rounding=gemm.rounding.value,
            output_stream=int(streams[2]),
        )
    lhs, rhs = lhs.rounded(seed), rhs.rounded(seed)
    total = products.native(lhs, rhs) if kind == "native" else _wide(lhs, rhs, gemm, products)
    return round_to(total, gemm.output, gemm.rounding, seed, streams[2]) if round_output else total


def _wide(lhs, rhs, gemm, products):
    """The exact product: every partial sum is an integer of at most 53 bits, in any order."""
    bound, length = gemm.exact_length, products.length()
    too_long = (
        f"sums for lhs = {gemm.lhs} and rhs = {gemm.rhs} are longer than {bound}, the longest that "
        "Accumulator.wide() adds exactly in 53 bits: use narrower formats, or "
        "Accumulator.native()"
    )
    if isinstance(length, int):
        if length > bound:
            raise ValueError(f"length = {length}: {too_long}")
        return products.wide(lhs, rhs, gemm)
    check = tf.debugging.assert_less_equal(
        tf.cast(length, tf.int64), tf.constant(bound, tf.int64), message=too_long
    )
    with tf.control_dependencies([check] if check is not None else []):
        return products.wide(tf.identity(lhs), tf.identity(rhs), gemm)


def forward(lhs, rhs, policy, products, seed, passes, random_bits=None):
    """The FWD product as float32; its gradient is the BWD and GRAD products of the op `passes`.

    Args:
        lhs, rhs: tensors as they come; the gradients of their rounding are straight-through.
        passes: an op of cc/ops/passes.cc, but for the arguments given here: the identity, with a
            registered gradient that reads the policy from its attributes.
    """
    check_not_xla()
    gemm = policy.forward
    narrow = gemm.accumulator.kind == "narrow"
    if narrow:
        left, right = Operand(tf.stop_gradient(lhs)), Operand(tf.stop_gradient(rhs))
    else:
        # Rounded here, once, and saved so for the backward pass.
        lhs = round_to(lhs, gemm.lhs, gemm.rounding, seed, FORWARD[0])
        rhs = round_to(rhs, gemm.rhs, gemm.rounding, seed, FORWARD[1])
        left = Operand(tf.stop_gradient(lhs), grid=gemm.lhs)
        right = Operand(tf.stop_gradient(rhs), grid=gemm.rhs)
    total = multiply(left, right, gemm, products, seed, FORWARD, False, random_bits)
    total = passes(
        product=total,
        lhs=lhs,
        rhs=rhs,
        seed=seed,
        rounded=not narrow,
        forward=gemm.to_json(),
        backward=policy.backward.to_json(),
        gradient=policy.gradient.to_json(),
    )
    return round_to(total, gemm.output, gemm.rounding, seed, FORWARD[2])


def saved_operands(op, forward):
    """(lhs, rhs) that a `passes` op saved, as Operands with the roundings of the forward pass."""
    operands = zip(op.inputs[1:3], (forward.lhs, forward.rhs), FORWARD)
    if op.get_attr("rounded"):
        return tuple(Operand(x, grid=format) for x, format, _ in operands)
    return tuple(Operand(x, [(format, forward.rounding, stream)]) for x, format, stream in operands)


def straight_through(gradient, operand):
    """The gradient of the operand's tensor, from that of the operand as rounded."""
    for format, _, _ in operand.roundings:
        gradient = ops.lowprec_quantize_grad(dy=gradient, x=operand.tensor, format=format.spec)
    return gradient


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
