"""The exact product of matrices on grids, in float64: how Accumulator.wide() multiplies."""

import tensorflow as tf

from tf_lowprec.formats import FixedPointFormat
from tf_lowprec.ops._library import HAS_GPU_KERNELS, ops


def wide_matmul(a, b, a_format, b_format, transpose_a=False, transpose_b=False):
    """``a . b`` exactly, as float64, for float32 values on the grids of two formats.

    Fixed point of up to 16 bits is multiplied as integers (op Lowprec>WideMatMul); anything else by
    TensorFlow in float64. Both are exact while products and sums fit 53 bits, which the caller
    checks, so that they agree to the bit.
    """
    fits = all(isinstance(f, FixedPointFormat) and f.bits <= 16 for f in (a_format, b_format))
    same_batch = (
        a.shape.rank is not None
        and a.shape.rank == b.shape.rank
        and (a.shape.rank == 2 or _known_equal(a.shape[:-2], b.shape[:-2]))
    )
    if fits and same_batch and (HAS_GPU_KERNELS or not _on_gpu(a)):
        return ops.lowprec_wide_mat_mul(
            a=a,
            b=b,
            transpose_a=transpose_a,
            transpose_b=transpose_b,
            a_format=a_format.spec,
            b_format=b_format.spec,
        )
    a, b = tf.cast(a, tf.float64), tf.cast(b, tf.float64)
    return tf.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)


def _known_equal(a, b):
    return a.is_fully_defined() and b.is_fully_defined() and a == b


def _on_gpu(x):
    """Whether x lies, or will lie, on a GPU."""
    return "GPU" in (getattr(x, "device", None) or "") or (
        not tf.executing_eagerly() and bool(tf.config.list_logical_devices("GPU"))
    )
