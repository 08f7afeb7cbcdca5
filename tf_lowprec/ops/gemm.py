"""One GEMM under a `Gemm` description: rounds the operands, multiplies, rounds the result.

matmul.py and conv2d.py say what the product is; this file says how it is done.
"""

import abc

import tensorflow as tf

from tf_lowprec.formats import MXFormat, Rounding
from tf_lowprec.ops._library import ops
from tf_lowprec.ops.mx import round_blocks
from tf_lowprec.ops.quantize import round_to
from tf_lowprec.ops.scaling import exponent_for, scale, target_exponent, unscale
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
        exponent: what is meant is 2^-exponent times all this; None for 0.
    """

    def __init__(self, tensor, roundings=(), grid=None, exponent=None):
        self.tensor, self.grid, self.roundings = tensor, grid, []
        self.exponent = exponent
        for format, rounding, stream in roundings:
            # Values on a grid stay what they are when rounded to it again.
            if format is not None and format != grid:
                self.roundings.append((format, rounding, stream))
                grid = format

    def then(self, format, rounding, stream):
        """This operand with one more rounding."""
        roundings = [*self.roundings, (format, rounding, stream)]
        return Operand(self.tensor, roundings, self.grid, self.exponent)

    def for_gemm(self, gemm, format, stream, seed):
        """This operand as `gemm` takes it: scaled if it says so, rounded to `format`."""
        if self.exponent is not None and not self.roundings and self.grid == format:
            return self  # it has been through here
        x = self if self.exponent is None else Operand(self.rounded(seed))
        if isinstance(format, MXFormat):
            return x  # rounded in `_multiply_matrices`, where the axis that is summed over is known
        if gemm.scaling is None:
            return x.then(format, gemm.rounding, stream)
        x = x.rounded(seed)
        exponent = exponent_for(x, target_exponent(gemm, format))
        return Operand(scale(x, exponent), [(format, gemm.rounding, stream)], exponent=exponent)

    @property
    def last_format(self):
        """The format on whose grid the values are in the product."""
        return self.roundings[-1][0] if self.roundings else self.grid

    def on_grid(self, seed):
        """The tensor after its roundings, still scaled."""
        x = self.tensor
        for format, rounding, stream in self.roundings:
            x = round_to(x, format, rounding, seed, stream)
        return x

    def rounded(self, seed):
        """The value after its roundings."""
        x = self.on_grid(seed)
        return x if self.exponent is None else scale(x, -self.exponent)

    def attributes(self, name):
        """As the attributes of Lowprec>MatMul and its kin for their operand `name`.

        A grid that no rounding follows is listed as one. It changes nothing, and the op, which
        trusts its own roundings alone, then knows how few bits the values have: it is faster so.
        """
        roundings = self.roundings
        if not roundings and self.grid is not None:
            roundings = [(self.grid, Rounding.NEAREST_EVEN, 0)]
        return {
            f"{name}_formats": [format.spec for format, _, _ in roundings],
            f"{name}_roundings": [rounding.value for _, rounding, _ in roundings],
            f"{name}_streams": [int(stream) for _, _, stream in roundings],
        }


class Products(abc.ABC):
    """The three ways to compute one product; matmul.py and conv2d.py derive from it."""

    @abc.abstractmethod
    def native(self, lhs, rhs):
        """lhs . rhs of tensors by TensorFlow in float32."""

    @abc.abstractmethod
    def wide(self, lhs, rhs, gemm):
        """lhs . rhs of tensors on the grids of `gemm`, exactly, in float64."""

    @abc.abstractmethod
    def narrow(self, lhs, rhs, seed, random_bits, **attributes):
        """lhs . rhs of Operands under a narrow accumulator, given as attributes of the op."""

    @abc.abstractmethod
    def as_matrices(self, lhs, rhs):
        """(a, b, matrices, restore): lhs . rhs of tensors is ``restore(a . b)``.

        `matrices` is the MatrixProduct of the tensors a and b.
        """

    @abc.abstractmethod
    def length(self):
        """Number of terms of each sum: an int, or a scalar tensor where it is unknown."""


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
    lhs = lhs.for_gemm(gemm, gemm.lhs, streams[0], seed)
    rhs = rhs.for_gemm(gemm, gemm.rhs, streams[1], seed)
    kind = gemm.accumulator.kind
    scaled = gemm.scaling is not None
    if kind == "aligned" or gemm.has_blocks:
        total = _multiply_matrices(lhs, rhs, gemm, products, seed, streams, random_bits)
    elif kind == "narrow":
        output = gemm.output if round_output and not scaled else None
        total = products.narrow(
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
        if not scaled:
            return total
        total = unscale(total, lhs.exponent, rhs.exponent)
    else:
        lhs, rhs = lhs.rounded(seed), rhs.rounded(seed)
        total = products.native(lhs, rhs) if kind == "native" else _wide(lhs, rhs, gemm, products)
    if streams is not FORWARD and (kind == "wide" or gemm.has_blocks):
        total = _once(total, seed)
    return round_to(total, gemm.output, gemm.rounding, seed, streams[2]) if round_output else total


def _multiply_matrices(lhs, rhs, gemm, products, seed, streams, random_bits):
    """The product as one of matrices, for what goes by consecutive k: blocks, aligned groups."""
    a, b, matrices, restore = products.as_matrices(lhs.on_grid(seed), rhs.on_grid(seed))
    for_k = matrices.summed_axes()
    if isinstance(gemm.lhs, MXFormat):
        a, _ = round_blocks(a, gemm.lhs, for_k[0], gemm.rounding, seed, streams[0])
    if isinstance(gemm.rhs, MXFormat):
        b, _ = round_blocks(b, gemm.rhs, for_k[1], gemm.rounding, seed, streams[1])
    accumulator = gemm.accumulator
    if accumulator.kind == "native":
        total = matrices.native(a, b)
    elif accumulator.kind == "narrow":
        total = matrices.narrow(
            Operand(a),
            Operand(b),
            seed,
            [] if random_bits is None else [random_bits],
            accumulator=accumulator.format.spec,
            rounding=accumulator.rounding.value,
            chunk=accumulator.chunk or 0,
            stream=int(streams[3]),
        )
    else:
        total = matrices.aligned(a, b, gemm)
    total = restore(total)
    return total if gemm.scaling is None else unscale(total, lhs.exponent, rhs.exponent)


def _wide(lhs, rhs, gemm, products):
    """The exact product: every partial sum is an integer of at most 53 bits, in any order."""
    bound, length = gemm.exact_length, products.length()
    if isinstance(length, int):
        gemm.check_length(length)
        return products.wide(lhs, rhs, gemm)
    check = tf.debugging.assert_less_equal(
        tf.cast(length, tf.int64), tf.constant(bound, tf.int64), message=gemm.too_long
    )
    with tf.control_dependencies([check] if check is not None else []):
        return products.wide(tf.identity(lhs), tf.identity(rhs), gemm)


def forward(lhs, rhs, policy, products, seed, passes, random_bits=None):
    """The FWD product as float32; its gradient is the BWD and GRAD products of the op `passes`.

    Args:
        lhs, rhs: tensors as they come; the gradients of their rounding are straight-through.
        passes: an op of cc/ops/passes.cc, but for the arguments given here: the identity, with a
            registered gradient that reads the policy from its attributes.
        random_bits: of a narrow accumulator's roundings, or of the output's where it is wide,
            instead of the seed.
    """
    check_not_xla()
    gemm = policy.forward
    wide_bits = None
    if gemm.accumulator.kind == "wide":
        wide_bits, random_bits = random_bits, None
    # A narrow product rounds its operands while it packs them: they are saved as they come. So are
    # those in blocks, which BWD and GRAD round along other axes.
    kind = gemm.accumulator.kind
    narrow = kind in ("narrow", "aligned") or gemm.scaling is not None or gemm.has_blocks
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
    return round_to(total, gemm.output, gemm.rounding, seed, FORWARD[2], wide_bits)


def saved_operands(op, forward):
    """(lhs, rhs) that a `passes` op saved, as Operands with the roundings of the forward pass."""
    operands = zip(op.inputs[1:3], (forward.lhs, forward.rhs), FORWARD)
    if op.get_attr("rounded"):
        return tuple(Operand(x, grid=format) for x, format, _ in operands)
    return tuple(
        Operand(x).for_gemm(forward, format, stream, op.inputs[3]) for x, format, stream in operands
    )


def straight_through(gradient, operand):
    """The gradient of the operand's tensor, from that of the operand as rounded."""
    for format, _, _ in operand.roundings:
        gradient = ops.lowprec_quantize_grad(dy=gradient, x=operand.tensor, format=format.spec)
    return gradient


def _once(total, seed):
    """`total`, a product of BWD or GRAD that TensorFlow could differentiate on: that is refused.

    By MatMulPasses without precisions, which a SavedModel holds as it holds those with them.
    """
    return ops.lowprec_mat_mul_passes(
        product=total, lhs=0.0, rhs=0.0, seed=seed, forward="", backward="", gradient=""
    )


def no_second_order(op, *_):
    raise NotImplementedError(
        f"{op.type} has no gradient: lp.matmul and lp.conv2d are differentiated once, in the BWD "
        "and GRAD products of their policy, and nothing says in which precision to go on. For "
        "second derivatives (nested tapes, gradient penalties, Hessians) use Policy.float32(), or "
        "tf.stop_gradient on the first ones"
    )


for _op in (
    "MatMul",
    "WideMatMul",
    "AlignedMatMul",
    "Conv2D",
    "Conv2DBackpropInput",
    "Conv2DBackpropFilter",
):
    tf.RegisterGradient(f"Lowprec>{_op}")(no_second_order)


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
