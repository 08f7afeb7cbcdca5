"""A layer's source of seeds: state that Keras saves and that strategies and SavedModels take."""

import random

import tensorflow as tf


def make_seed_state(seed):
    """An object that Keras tracks, with which `next_seed` draws.

    Make it in a layer's build, inside the strategy's scope. It adds nothing to `layer.weights`, so
    that weights go to and fro between a layer and its stock parent.

    Args:
        seed: an integer, or None for one from Python's `random`, which
            keras.utils.set_random_seed sets.
    """
    if seed is None:
        seed = random.randint(1, 2**31 - 1)
    if hasattr(tf.keras, "random"):  # Keras 3
        return tf.keras.random.SeedGenerator(seed)
    return tf.random.Generator.from_seed(seed, alg="philox")


def next_seed(state):
    """The next seed of `state`: an int64 tensor of shape [2]."""
    if isinstance(state, tf.random.Generator):
        return state.make_seeds(1)[:, 0]
    return tf.cast(state.next(), tf.int64)
