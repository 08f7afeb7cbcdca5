"""Prints a digest of the bits that lp.quantize gives: python quantize_digest.py THREADS.

A process of its own, since TensorFlow fixes its threads and the op its instruction set only once.
"""

import hashlib
import sys

import numpy as np
import tensorflow as tf

import tf_lowprec as lp

FORMATS = [
    lp.FixedPointFormat(2, 14),
    lp.FixedPointFormat(1, 0),
    lp.FP4_E2M1FN,
    lp.FP8_E5M2,
    lp.FP8_E4M3FN,
    lp.BF16,
    lp.DLFLOAT16,
    lp.FP32,
    lp.FloatFormat(4, 3, "finite", subnormals=False),
]
SIZES = [1, 1023, 131072, 150001]  # the larger ones are split among threads


def values(dtype):
    """Ordinary numbers, then random bit patterns."""
    rng = np.random.default_rng(0)
    bits = np.uint32 if dtype == np.float32 else np.uint64
    ordinary = rng.normal(size=max(SIZES) // 2)
    patterns = rng.integers(0, np.iinfo(bits).max, max(SIZES), bits).view(dtype)
    return np.concatenate([ordinary.astype(dtype), patterns])


def digest():
    sha = hashlib.sha256()
    for dtype in (np.float32, np.float64):
        x = values(dtype)
        r = np.random.default_rng(1).integers(0, 2**24, x.size, np.int32)
        for size in SIZES:
            part, bits = tf.constant(x[-size:]), tf.constant(r[-size:])
            for format in FORMATS:
                for rounding in lp.Rounding:
                    y = lp.quantize(part, format, rounding, seed=(3, 4))
                    sha.update(y.numpy().tobytes())
                y = lp.quantize(part, format, "stochastic", random_bits=bits)
                sha.update(y.numpy().tobytes())
    return sha.hexdigest()


if __name__ == "__main__":
    tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
    print("digest", digest())
