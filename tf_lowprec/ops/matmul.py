"""lp.matmul: a matrix product with a precision for each of its three passes."""

import dataclasses
import functools
import numbers

import numpy as np
import tensorflow as tf

from tf_lowprec.formats import Rounding
from tf_lowprec.ops import gemm
from tf_lowprec.ops._library import ops
from tf_lowprec.ops.quantize import as_float, as_integers, narrowed
from tf_lowprec.ops.seeds import as_seed
from tf_lowprec.ops.wide_matmul import wide_matmul
from tf_lowprec.precision import Accumulator, Gemm, as_policy


def _operand(x, name):
    x = as_float(x, name)
    if x.dtype != tf.float32:
        raise ValueError(f"{name} has dtype {x.dtype.name}; it must be float32")
    if x.shape.rank is not None and x.shape.rank < 2:
        raise ValueError(f"{name} has shape {x.shape}; it must have at least two axes")
    return x


def _flag(value, name):
    if not isinstance(value, (bool, np.bool_, numbers.Integral)) or value not in (0, 1):
        raise ValueError(f"{name} = {value!r} must be True or False")
    return bool(value)


def matmul(a, b, precision, transpose_a=False, transpose_b=False, seed=None, *, random_bits=None):
    """``a . b`` of matrices with leading batch axes, as tf.matmul, in low precision.

    Forward: ``round(sum_k round(a[i, k]) * round(b[k, j]))`` under ``precision.forward``, its
    accumulator saying how the sum is taken.
    The gradient of `a` is the BWD product ``dy . b^T`` and that of `b` the GRAD product
    ``a^T . dy``, under ``precision.backward`` and ``precision.gradient``, with a and b as the
    forward pass rounded them (Sakr et al., 2019, figure 1; Gupta et al., 2015, section 3).

    Args:
        a: float32 ``[..., M, K]`` (``[..., K, M]`` with transpose_a): the activations.
        b: float32 ``[..., K, N]`` (``[..., N, K]`` with transpose_b): the weights.
        precision: a Gemm, for all three passes, or a Policy.
        transpose_a, transpose_b: whether the last two axes are swapped first.
        seed: two integers, for stochastic rounding. None draws one in eager mode.
        random_bits: integers ``[..., M, N, K + chunks]`` in [0, 2^16): what a stochastic
            accumulator of the forward pass uses instead of `seed`, for cosimulation with hardware;
            one value for each k and, if there are chunks, one after each chunk's last k. Under
            Accumulator.wide(), integers ``[..., M, N]`` in [0, 2^24) for the stochastic rounding of
            the output, as in lp.quantize; operands still round by the seed. Values beyond are an
            error on a CPU, and taken modulo 2^16 (2^24) on a GPU.

    Returns:
        float32 ``[..., M, N]``.

    Raises:
        ValueError, tf.errors.InvalidArgumentError: dtypes, shapes that do not match, a sum too long
            for Accumulator.wide(), no seed inside tf.function.
    """
    policy = as_policy(precision)
    random_bits = _random_bits(random_bits, policy)
    a, b = _operand(a, "a"), _operand(b, "b")
    transpose_a, transpose_b = _flag(transpose_a, "transpose_a"), _flag(transpose_b, "transpose_b")
    inner_a, inner_b = a.shape[-2 if transpose_a else -1 :], b.shape[-1 if transpose_b else -2 :]
    if inner_a.rank and inner_b.rank and not inner_a[:1].is_compatible_with(inner_b[:1]):
        raise ValueError(
            f"a of shape {a.shape} and b of shape {b.shape} do not match: K is {inner_a[0]} in a "
            f"and {inner_b[0]} in b (transpose_a={transpose_a}, transpose_b={transpose_b})"
        )
    _check_batches(a, b)
    if policy.forward.accumulator.kind == "wide":
        a, b = _checked_when_run(a, b, transpose_a, transpose_b)
    if policy.forward.is_native and policy.backward.is_native and policy.gradient.is_native:
        return tf.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
    if random_bits is not None and policy.forward.accumulator.kind == "wide":
        _check_wide_random_bits(random_bits, a, b, transpose_a, transpose_b)
    seed, has_seed = _seed(seed, policy, random_bits)
    if not transpose_a and b.shape.rank == 2 and (a.shape.rank or 0) > 2:
        # One product for all batch entries, so that GRAD sums over them in one dot product.
        rows = _as_rows(a, 1)
        rows.set_shape([None, a.shape[-1]])
        if random_bits is not None and policy.forward.accumulator.kind == "wide":
            random_bits = _as_rows(random_bits, 1)
        elif random_bits is not None:
            like = a.shape[:-1] + [b.shape[-2 if transpose_b else -1]]
            if not random_bits.shape[:-1].is_compatible_with(like):
                raise ValueError(
                    f"random_bits must have shape {like + [None]} (the product's, and a value for "
                    f"each k and each chunk), got {random_bits.shape}"
                )
            random_bits = _as_rows(random_bits, 2)
        y = _matmul(rows, b, policy, False, transpose_b, seed, has_seed, random_bits)
        y = tf.reshape(y, tf.concat([_shape(a)[:-1], _shape(y)[-1:]], 0))
        y.set_shape(a.shape[:-1] + [b.shape[-2 if transpose_b else -1]])
        return y
    return _matmul(a, b, policy, transpose_a, transpose_b, seed, has_seed, random_bits)


def _shape(x):
    # 64 bits: the number of rows of all batch entries may be beyond 32.
    return tf.shape(x, tf.int64)


def _as_rows(x, last):
    """x with all but its `last` axes merged into one."""
    shape = _shape(x)
    # Not -1, which a tensor without elements may leave open.
    return tf.reshape(x, tf.concat([[tf.reduce_prod(shape[:-last])], shape[-last:]], 0))


def _check_batches(a, b):
    if a.shape.rank is None or b.shape.rank is None:
        return
    batches = a.shape[:-2], b.shape[:-2]
    try:
        tf.broadcast_static_shape(*batches)
    except ValueError:
        raise ValueError(
            f"a of shape {a.shape} and b of shape {b.shape} do not match: their batch axes, "
            f"{batches[0]} and {batches[1]}, do not broadcast"
        ) from None


def _checked_when_run(a, b, transpose_a, transpose_b):
    """a and b, after a check of what their static shapes leave open, if anything."""
    axis_a, axis_b = -2 if transpose_a else -1, -1 if transpose_b else -2
    if a.shape.rank is not None and b.shape.rank is not None:
        batches = (a.shape[:-2] + b.shape[:-2]).is_fully_defined()
        batches = batches or 2 in (a.shape.rank, b.shape.rank)
        if batches and None not in (a.shape[axis_a], b.shape[axis_b]):
            return a, b
    shapes = _shape(a), _shape(b)
    rank = tf.reduce_max([2, *(tf.size(shape) for shape in shapes)])
    of_a, of_b = (
        tf.concat([tf.ones([rank - tf.size(shape)], tf.int64), shape], 0) for shape in shapes
    )
    broadcast = (of_a == of_b) | (of_a == 1) | (of_b == 1)
    conditions = (
        (
            tf.reduce_min([tf.size(shape) for shape in shapes]) >= 2,
            "a and b must have at least two axes, got shapes {} and {}",
        ),
        (
            tf.reduce_all(broadcast[:-2]) & (of_a[axis_a] == of_b[axis_b]),
            "a of shape {} and b of shape {} do not match "
            f"(transpose_a={transpose_a}, transpose_b={transpose_b})",
        ),
    )
    checks = [
        tf.raw_ops.Assert(condition=holds, data=[tf.strings.format(text, shapes, summarize=-1)])
        for holds, text in conditions
    ]
    with tf.control_dependencies(checks):
        return tf.identity(a), tf.identity(b)


def _check_wide_random_bits(random_bits, a, b, transpose_a, transpose_b):
    if a.shape.rank is None or b.shape.rank is None:
        return
    batch = tf.broadcast_static_shape(a.shape[:-2], b.shape[:-2])
    like = batch + [a.shape[-1 if transpose_a else -2], b.shape[-2 if transpose_b else -1]]
    if not random_bits.shape.is_compatible_with(like):
        raise ValueError(
            f"random_bits must have the product's shape, {like}, got {random_bits.shape}"
        )


def _random_bits(random_bits, policy):
    if random_bits is None:
        return None
    gemm = policy.forward
    if gemm.accumulator.kind == "wide":
        if gemm.output is None or gemm.rounding != Rounding.STOCHASTIC or gemm.scaling is not None:
            raise ValueError(
                "random_bits are for a forward pass with a stochastic accumulator, or with a wide "
                f"one whose output is rounded stochastically and not scaled, got {gemm}"
            )
    elif gemm.accumulator.rounding != Rounding.STOCHASTIC:
        raise ValueError(
            f"random_bits are for a forward pass with a stochastic accumulator, got "
            f"{gemm.accumulator}"
        )
    random_bits = as_integers(random_bits)
    if random_bits.dtype == tf.int32:
        return random_bits
    values = tf.get_static_value(random_bits)
    bits = 24 if gemm.accumulator.kind == "wide" else 16
    if values is not None:
        wrong = np.flatnonzero((values < 0) | (values >= 2**bits))
        if wrong.size:
            raise ValueError(
                f"random_bits[{wrong[0]}] = {values.flat[wrong[0]]} (flat index) must be in "
                f"0..2^{bits}-1"
            )
        return tf.constant(values.astype(np.int32))
    return narrowed(random_bits, bits)


def _seed(seed, policy, random_bits):
    """The seed as a tensor, and whether it is one.

    In a tf.function without a seed, random_bits are enough for the forward pass; the gradient then
    refuses to draw.
    """
    forward = policy.forward
    if random_bits is not None and forward.accumulator.kind == "narrow":
        forward = dataclasses.replace(forward, accumulator=Accumulator.native())
        if seed is None and not forward.is_stochastic and not tf.executing_eagerly():
            return as_seed(None, needed=False), False
    passes = (forward, policy.backward, policy.gradient)
    return as_seed(seed, needed=any(p.is_stochastic for p in passes)), True


def _matmul(a, b, policy, transpose_a, transpose_b, seed, has_seed, random_bits):
    transposes = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    return gemm.forward(
        a,
        b,
        policy,
        MatrixProduct(a, transpose_a, transpose_b),
        seed,
        functools.partial(ops.lowprec_mat_mul_passes, has_seed=has_seed, **transposes),
        random_bits,
    )


class MatrixProduct(gemm.Products):
    """The products of one contraction: over axis -1 of lhs (-2 if transpose_a), and so on."""

    def __init__(self, lhs, transpose_a, transpose_b):
        self.transposes = {"transpose_a": transpose_a, "transpose_b": transpose_b}
        self.terms = gemm.size(lhs, -2 if transpose_a else -1)

    def native(self, lhs, rhs):
        return tf.matmul(lhs, rhs, **self.transposes)

    def wide(self, lhs, rhs, precision):
        return wide_matmul(lhs, rhs, precision.lhs, precision.rhs, **self.transposes)

    def narrow(self, lhs, rhs, seed, random_bits, **attributes):
        return ops.lowprec_mat_mul(
            a=lhs.tensor,
            b=rhs.tensor,
            seed=seed,
            random_bits=random_bits,
            **self.transposes,
            **lhs.attributes("a"),
            **rhs.attributes("b"),
            **attributes,
        )

    def aligned(self, a, b, precision):
        """a . b of tensors on the grids of `precision` under an aligned accumulator."""
        accumulator = precision.accumulator
        return ops.lowprec_aligned_mat_mul(
            a=a,
            b=b,
            **self.transposes,
            a_format=precision.lhs.spec,
            b_format=precision.rhs.spec,
            group=accumulator.group,
            fraction_bits=accumulator.fraction_bits,
            accumulator=accumulator.format.spec,
            rounding=accumulator.rounding.value,
            promote=accumulator.promote or 0,
        )

    def as_matrices(self, lhs, rhs):
        return lhs, rhs, self, lambda total: total

    def summed_axes(self):
        """The axes of lhs and rhs that are summed over."""
        return (
            -2 if self.transposes["transpose_a"] else -1,
            -1 if self.transposes["transpose_b"] else -2,
        )

    def length(self):
        return self.terms


@tf.RegisterGradient("Lowprec>MatMulPasses")
def _matmul_gradient(op, dy):
    if not op.get_attr("forward"):
        gemm.no_second_order(op)
    forward, backward, gradient = (
        Gemm.from_json(op.get_attr(name)) for name in ("forward", "backward", "gradient")
    )
    if not op.get_attr("has_seed") and (backward.is_stochastic or gradient.is_stochastic):
        raise ValueError(
            "seed = None: the BWD and GRAD products round stochastically, and random_bits are for "
            "the forward pass alone: give lp.matmul a seed, two integers"
        )
    transpose_a, transpose_b = op.get_attr("transpose_a"), op.get_attr("transpose_b")
    a, b = gemm.saved_operands(op, forward)
    dy = gemm.Operand(tf.cast(dy, tf.float32))  # exact: float64 only carries float32 errors here
    seed = op.inputs[3]
    # dy . b^T and a^T . dy, whichever way a and b are stored.
    da = _product_like(a.tensor, dy, b, False, not transpose_b, backward, seed, gemm.BACKWARD)
    db = _product_like(b.tensor, a, dy, not transpose_a, False, gradient, seed, gemm.GRADIENT)
    da = tf.linalg.matrix_transpose(da) if transpose_a else da
    db = tf.linalg.matrix_transpose(db) if transpose_b else db
    return [None, gemm.straight_through(da, a), gemm.straight_through(db, b), None]


def _product_like(target, lhs, rhs, transpose_a, transpose_b, precision, seed, streams):
    """op(lhs) . op(rhs) with the batch axes of `target`.

    The axes along which `target` was broadcast belong to the same dot products: they are put in
    front of the axis that is summed over.
    """
    full = tf.broadcast_dynamic_shape(_shape(lhs.tensor)[:-2], _shape(rhs.tensor)[:-2])
    ones = tf.ones([tf.size(full) + 2 - tf.rank(target)], tf.int64)
    like = tf.concat([ones, _shape(target)[:-2]], 0)
    batches = [x.shape[:-2] for x in (lhs.tensor, rhs.tensor, target)]
    equal = all(s.is_fully_defined() and s == batches[0] for s in batches)
    if not equal:
        lhs = lhs.for_gemm(precision, precision.lhs, streams[0], seed)
        rhs = rhs.for_gemm(precision, precision.rhs, streams[1], seed)
        lhs, rhs = (
            gemm.Operand(
                _fold(x.on_grid(seed), full, like, rows), grid=x.last_format, exponent=x.exponent
            )
            for x, rows in ((lhs, transpose_a), (rhs, not transpose_b))
        )
    products = MatrixProduct(lhs.tensor, transpose_a, transpose_b)
    result = gemm.multiply(lhs, rhs, precision, products, seed, streams)
    if not equal:
        result = tf.reshape(result, tf.concat([_shape(target)[:-2], _shape(result)[-2:]], 0))
    return result


def _fold(x, full, like, rows):
    """x with those batch axes of `full` that `like` lacks merged into its rows, or else columns."""
    matrix = _shape(x)[-2:]
    x = tf.broadcast_to(x, tf.concat([full, matrix], 0))
    rank = tf.size(full)
    kept = tf.cast(tf.where(full == like)[:, 0], tf.int32)
    summed = tf.cast(tf.where(full != like)[:, 0], tf.int32)
    terms = tf.reduce_prod(tf.gather(full, summed))
    if rows:
        order, matrix = [kept, summed, [rank, rank + 1]], [terms * matrix[0], matrix[1]]
    else:
        order, matrix = [kept, [rank], summed, [rank + 1]], [matrix[0], terms * matrix[1]]
    return tf.reshape(
        tf.transpose(x, tf.concat(order, 0)), tf.concat([tf.gather(full, kept), matrix], 0)
    )
