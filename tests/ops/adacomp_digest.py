"""Prints a digest of the bits of lp.adacomp_encode and decode: python adacomp_digest.py THREADS."""

import hashlib
import sys

import numpy as np
import tensorflow as tf

import tf_lowprec as lp

SIZES = [1, 1023, 131072, 700001]  # the last is six segments, split among threads


def digest():
    sha = hashlib.sha256()
    rng = np.random.default_rng(0)
    for size in SIZES:
        dw, residue = (tf.constant(rng.normal(size=size).astype(np.float32)) for _ in range(2))
        for scale in (0.05, 1.0, 1e-39):  # the last makes subnormals
            for bin_size in (50, 64, 500):
                for encoding in ("plain", "entropy"):
                    for soft_threshold in (2.0, 1.7):
                        packet, new = lp.adacomp_encode(
                            scale * dw, residue * scale, bin_size, encoding, soft_threshold
                        )
                        sha.update(packet.numpy().tobytes() + new.numpy().tobytes())
                        sha.update(lp.adacomp_decode([packet, packet], size).numpy().tobytes())
    return sha.hexdigest()


if __name__ == "__main__":
    tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
    print("digest", digest())
