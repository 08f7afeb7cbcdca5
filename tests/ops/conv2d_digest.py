"""Prints a digest of the bits that lp.conv2d gives: python conv2d_digest.py THREADS.

A process of its own, since TensorFlow fixes its threads and the op its instruction set only once.
"""

import hashlib
import itertools
import sys

import numpy as np
import tensorflow as tf

import tf_lowprec as lp

# x, filters, options: small ones, and some that are cut into blocks of rows, columns and k.
SMALL = [
    ((2, 9, 7, 6), (3, 2, 3, 10), {"strides": (1, 2), "groups": 2}),
    ((1, 7, 9, 5), (2, 3, 5, 17), {"dilations": 2, "padding": ((3, 1), (0, 4))}),
    ((2, 8, 8, 12), (3, 3, 1, 24), {"groups": 12, "strides": 2}),
]
LARGE = [
    ((1, 5, 6, 260), (3, 3, 260, 500), {}),
    ((1, 130, 131, 9), (3, 3, 9, 3), {}),
]
# operand, accumulator, rounding
GEMMS = [
    (lp.FP8_E5M2, lp.FloatFormat(6, 9), "nearest_even"),
    (lp.FP8_E5M2, lp.FloatFormat(6, 6), "stochastic"),
    (None, lp.FloatFormat(6, 7), "nearest_even"),
    (lp.FP8_E4M3FN, lp.FloatFormat(6, 14), "nearest_even"),
    (lp.FP8_E5M2, lp.FloatFormat(6, 10), "stochastic"),
    (None, lp.FloatFormat(8, 23), "nearest_even"),
    (lp.FP8_E5M2, lp.FloatFormat(6, 6), "toward_zero"),
    (lp.FP16, lp.FloatFormat(4, 5), "nearest_even"),
    (lp.FP16, lp.FloatFormat(5, 5), "nearest_up"),
    (lp.FP16, lp.FloatFormat(4, 5), "stochastic"),
]


def values(rng, shape, kind):
    """Ordinary numbers, or some that often cancel and underflow."""
    if kind == "ordinary":
        return rng.normal(size=shape).astype(np.float32)
    return rng.choice([-1, -1, -0.5, -(2.0**-14), 2.0**-14, 0.0, 0.5, 1], shape).astype(np.float32)


def digest():
    sha = hashlib.sha256()

    def update(shape, kind, operand, format, rounding, chunk):
        x_shape, w_shape, options = shape
        rng = np.random.default_rng(0)
        x, w = (tf.constant(values(rng, s, kind)) for s in (x_shape, w_shape))
        accumulator = lp.Accumulator(format, chunk, rounding)
        gemm = lp.Gemm(operand, operand, accumulator, lp.BF16, "stochastic")
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = lp.conv2d(x, w, gemm, seed=(3, 4), **options)
        dy = values(rng, y.shape, kind)
        for result in (y, *tape.gradient(y, [x, w], output_gradients=dy)):
            sha.update(result.numpy().tobytes())

    for shape, gemm, chunk in itertools.product(SMALL, GEMMS, (None, 70)):
        for kind in ("ordinary", "cancelling"):
            update(shape, kind, *gemm, chunk)
    for shape, gemm in itertools.product(LARGE, GEMMS[:3]):
        update(shape, "ordinary", *gemm, 64)
    return sha.hexdigest()


if __name__ == "__main__":
    tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
    print("digest", digest())
