"""lp.matmul: a matrix product with a precision for each of its three passes."""

import functools

import tensorflow as tf

from tf_lowprec.ops import gemm
from tf_lowprec.ops._library import ops
from tf_lowprec.ops.quantize import as_float
from tf_lowprec.ops.seeds import as_seed
from tf_lowprec.ops.wide_matmul import wide_matmul
from tf_lowprec.precision import Gemm, as_policy


def _operand(x, name):
    x = as_float(x, name)
    if x.dtype != tf.float32:
        raise ValueError(f"{name} has dtype {x.dtype.name}; it must be float32")
    if x.shape.rank is not None and x.shape.rank < 2:
        raise ValueError(f"{name} has shape {x.shape}; it must have at least two axes")
    return x


def matmul(a, b, precision, transpose_a=False, transpose_b=False, seed=None):
    """``a . b`` of matrices with leading batch axes, as tf.matmul, in low precision.

    Forward: ``round(sum_k round(a[i, k]) * round(b[k, j]))`` under ``precision.forward``.
    The gradient of `a` is the BWD product ``dy . b^T`` and that of `b` the GRAD product
    ``a^T . dy``, under ``precision.backward`` and ``precision.gradient``, with a and b as the
    forward pass rounded them (Sakr et al., 2019, figure 1; Gupta et al., 2015, section 3).

    Args:
        a: float32 ``[..., M, K]`` (``[..., K, M]`` with transpose_a): the activations.
        b: float32 ``[..., K, N]`` (``[..., N, K]`` with transpose_b): the weights.
        precision: a Gemm, for all three passes, or a Policy.
        transpose_a, transpose_b: whether the last two axes are swapped first.
        seed: two integers, for stochastic rounding. None draws one in eager mode.

    Returns:
        float32 ``[..., M, N]``.

    Raises:
        ValueError, tf.errors.InvalidArgumentError: dtypes, shapes that do not match, a sum too long
            for Accumulator.wide(), no seed inside tf.function.
    """
    policy = as_policy(precision)
    a, b = _operand(a, "a"), _operand(b, "b")
    inner_a, inner_b = a.shape[-2 if transpose_a else -1 :], b.shape[-1 if transpose_b else -2 :]
    if inner_a.rank and inner_b.rank and not inner_a[:1].is_compatible_with(inner_b[:1]):
        raise ValueError(
            f"a of shape {a.shape} and b of shape {b.shape} do not match: K is {inner_a[0]} in a "
            f"and {inner_b[0]} in b (transpose_a={transpose_a}, transpose_b={transpose_b})"
        )
    if policy.forward.is_native and policy.backward.is_native and policy.gradient.is_native:
        return tf.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
    passes = (policy.forward, policy.backward, policy.gradient)
    seed = as_seed(seed, needed=any(p.is_stochastic for p in passes))
    if not transpose_a and b.shape.rank == 2 and (a.shape.rank or 0) > 2:
        # One product for all batch entries, so that GRAD sums over them in one dot product.
        rows = tf.reshape(a, [-1, a.shape[-1] or tf.shape(a)[-1]])
        y = _matmul(rows, b, policy, False, transpose_b, seed)
        y = tf.reshape(y, tf.concat([tf.shape(a)[:-1], tf.shape(y)[-1:]], 0))
        y.set_shape(a.shape[:-1] + [b.shape[-2 if transpose_b else -1]])
        return y
    return _matmul(a, b, policy, transpose_a, transpose_b, seed)


def _matmul(a, b, policy, transpose_a, transpose_b, seed):
    formats = (policy.forward.lhs, policy.forward.rhs)
    transposes = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    return gemm.forward(
        a,
        b,
        policy,
        lambda x, y, wide: _product(x, y, transpose_a, transpose_b, formats if wide else None),
        gemm.size(a, -2 if transpose_a else -1),
        seed,
        functools.partial(ops.lowprec_mat_mul_passes, **transposes),
    )


def _product(x, y, transpose_x, transpose_y, formats):
    """x . y in float32, or exactly in float64 if the operands' formats are given."""
    if formats is None:
        return tf.matmul(x, y, transpose_a=transpose_x, transpose_b=transpose_y)
    return wide_matmul(x, y, *formats, transpose_x, transpose_y)


def _sum_to(gradient, shape_like):
    """Adds up the batch axes along which the operand was broadcast."""
    if gradient.shape.is_fully_defined() and gradient.shape == shape_like.shape:
        return gradient
    target = tf.shape(shape_like)
    _, axes = tf.raw_ops.BroadcastGradientArgs(s0=tf.shape(gradient), s1=target)
    return tf.reshape(tf.reduce_sum(gradient, axes), target)


@tf.RegisterGradient("Lowprec>MatMulPasses")
def _matmul_gradient(op, dy):
    _, a, b, seed = op.inputs
    backward = Gemm.from_json(op.get_attr("backward"))
    gradient = Gemm.from_json(op.get_attr("gradient"))
    transpose_a, transpose_b = op.get_attr("transpose_a"), op.get_attr("transpose_b")
    dy = tf.cast(dy, tf.float32)  # exact: float64 only carries float32 errors here

    def product_a(dy, b, wide):
        formats = (backward.lhs, backward.rhs) if wide else None
        if transpose_a:
            formats = formats and formats[::-1]
            return _sum_to(_product(b, dy, transpose_b, True, formats), a)
        return _sum_to(_product(dy, b, False, not transpose_b, formats), a)

    def product_b(a, dy, wide):
        formats = (gradient.lhs, gradient.rhs) if wide else None
        if transpose_b:
            formats = formats and formats[::-1]
            return _sum_to(_product(dy, a, True, transpose_a, formats), b)
        return _sum_to(_product(a, dy, not transpose_a, False, formats), b)

    # Sums over broadcast batch axes belong to the same dot product.
    rows, columns = gemm.size(dy, -2), gemm.size(dy, -1)
    da_length = columns * _times(dy, a)
    db_length = rows * _times(dy, b)
    da = gemm.run(dy, b, backward, product_a, da_length, seed, gemm.BACKWARD)
    db = gemm.run(a, dy, gradient, product_b, db_length, seed, gemm.GRADIENT)
    return [None, da, db, None]


def _times(dy, operand):
    """How many batch entries of dy share one of the operand."""
    batch = dy.shape[:-2]
    if batch == operand.shape[:-2]:
        return 1
    if batch.is_fully_defined() and operand.shape[:-2].is_fully_defined():
        return batch.num_elements() // max(operand.shape[:-2].num_elements(), 1)
    total = tf.reduce_prod(tf.shape(dy, tf.int64)[:-2])
    return total // tf.maximum(tf.reduce_prod(tf.shape(operand, tf.int64)[:-2]), 1)
