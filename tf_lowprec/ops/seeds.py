"""Seeds: two integers, as in tf.random.stateless_*; the key of Philox 4x32-10."""

import numbers

import numpy as np
import tensorflow as tf

_INTEGERS = {tf.int8, tf.uint8, tf.int16, tf.uint16, tf.int32, tf.uint32, tf.int64}


def as_seed(seed, needed):
    """`seed` as an int32 or int64 tensor of shape [2].

    Args:
        seed: two integers, each taken modulo 2^32, or None.
        needed: whether random numbers will be drawn. If so, None draws a seed from TensorFlow's
            global generator (so `tf.random.set_seed` and `keras.utils.set_random_seed` make runs
            repeatable), which works in eager mode only.

    Raises:
        ValueError: a seed of another shape or type; none in a tf.function that needs one.
    """
    if seed is None:
        if not needed:
            return tf.constant([0, 0], tf.int32)
        if not tf.executing_eagerly():
            raise ValueError(
                "seed = None: stochastic rounding inside tf.function needs an explicit seed, two "
                "integers as in tf.random.stateless_uniform; a traced draw would repeat itself"
            )
        return tf.random.uniform([2], -(2**31), 2**31 - 1, dtype=tf.int32)
    if isinstance(seed, (tuple, list)) and all(
        isinstance(s, numbers.Integral) and not isinstance(s, bool) for s in seed
    ):
        # Python integers of any size, modulo 2^32, as int32 holds them.
        seed = np.array([int(s) % 2**32 for s in seed], np.uint32).astype(np.int32)
    try:
        seed = tf.convert_to_tensor(seed)
    except (ValueError, TypeError) as error:
        raise ValueError(f"seed = {seed!r} must be two integers, such as seed=(1, 2)") from error
    if seed.dtype not in _INTEGERS or not seed.shape.is_compatible_with([2]):
        raise ValueError(
            f"seed has dtype {seed.dtype.name} and shape {seed.shape}; it must be two integers of "
            "shape [2], such as seed=(1, 2)"
        )
    if seed.dtype in (tf.int32, tf.int64):
        return seed
    return tf.cast(seed, tf.int64)


def fold_in_replica(seed):
    """Another seed on each replica of a tf.distribute strategy; replica 0 keeps `seed`."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return seed
    replica = tf.cast(context.replica_id_in_sync_group, tf.int64)
    # An odd factor (the golden ratio's) is a bijection modulo 2^32.
    return tf.cast(seed, tf.int64) + tf.stack([replica * 0x9E3779B9, tf.zeros((), tf.int64)])


def nth(seed, index):
    """Another seed for the index-th of several products that share one; `seed` for index 0."""
    if index == 0:
        return seed
    # The generators of seeds count in the second word: far from the counts near it.
    return tf.cast(seed, tf.int64) + tf.constant([0, index * 0x9E3779B9], tf.int64)
