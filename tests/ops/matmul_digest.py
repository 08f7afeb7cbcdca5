"""Prints a digest of the bits of lp.matmul with narrow accumulators: matmul_digest.py THREADS.

A process of its own, since TensorFlow fixes its threads and the op its instruction set only once.
"""

import hashlib
import itertools
import sys

import gemm_cases
import numpy as np
import tensorflow as tf

import tf_lowprec as lp

SEED = (3, 4)
ACCUMULATORS = [
    (6, 2, 7),
    (6, 9, 64),
    (6, 14, None),
    (5, 10, 1),
    (8, 7, None),
    (8, 23, 50),
    (4, 3, None),
]
# Tiles and their edges, and enough of them that two threads share them.
SHAPES = [((1, 9, 1), ()), ((13, 70, 33), ()), ((61, 129, 67), ()), ((25, 40, 17), (3,))]


def operands(rng, gemm, kind, where, extents, batch):
    (m, k, n), accumulator = extents, gemm.accumulator.format
    powers = gemm_cases.exponents(accumulator, where, rng)
    formats, shapes = (gemm.lhs, gemm.rhs), ((*batch, m, k), (k, n))
    return [
        tf.constant(gemm_cases.operand(rng, s, kind, f, accumulator.mantissa_bits, power))
        for s, f, power in zip(shapes, formats, powers)
    ]


def digest():
    sha = hashlib.sha256()
    rng = np.random.default_rng(0)
    for (e, m, chunk), rounding in itertools.product(ACCUMULATORS, lp.Rounding):
        accumulator = lp.Accumulator(lp.FloatFormat(e, m), chunk, rounding)
        for format, (extents, batch) in itertools.product(gemm_cases.OPERANDS, SHAPES):
            gemm = lp.Gemm(format, format, accumulator, rounding=rounding)
            kind = rng.choice(["ordinary", "ties", "ties", "speckled", "finite"])
            where = rng.choice(["middle", "middle", "low", "high"])
            a, b = operands(rng, gemm, kind, where, extents, batch)
            sha.update(lp.matmul(a, b, gemm, seed=SEED).numpy().tobytes())
    policy = lp.Policy.fp8((5, 9, 12), accumulator_rounding="stochastic", rounding="stochastic")
    x, w = (tf.constant(rng.normal(size=s), tf.float32) for s in ((90, 70), (70, 80)))
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        y = lp.matmul(x, w, policy, seed=SEED)
    for gradient in tape.gradient(y, [x, w], output_gradients=tf.math.sin(y)):
        sha.update(gradient.numpy().tobytes())
    return sha.hexdigest()


if __name__ == "__main__":
    tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
    print("digest", digest())
