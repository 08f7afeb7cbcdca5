"""A layer's source of seeds: state that strategies and SavedModels take."""

import numbers
import random

import tensorflow as tf

from tf_lowprec._keras import KERAS_3


class _Keras3Generator(tf.__internal__.tracking.AutoTrackable):
    """A SeedGenerator whose state TensorFlow's checkpoints and SavedModels find, too."""

    def __init__(self, seed):
        self.generator = tf.keras.random.SeedGenerator(seed)
        self.state = self.generator.state.value

    def next(self):
        return self.generator.next()


class _Keras2Generator(tf.__internal__.tracking.AutoTrackable):
    """A tf.random.Generator that Keras 2 saves without counting it among a layer's weights."""

    def __init__(self, seed):
        self.generator = tf.random.Generator.from_seed(seed, alg="philox")

    def next(self):
        return self.generator.make_seeds(1)[:, 0]


def make_seed_state(seed):
    """An object that Keras tracks, with which `next_seed` draws.

    Make it in a layer's build, inside the strategy's scope. It adds nothing to `layer.weights`, so
    that weights go to and fro between a layer and its stock parent.

    Args:
        seed: an integer, or None for one from Python's `random`, which
            keras.utils.set_random_seed sets.

    Raises:
        ValueError: a seed of another kind.
    """
    if seed is None:
        seed = random.randint(1, 2**31 - 1)
    is_integer = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not is_integer or not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed = {seed!r} must be an integer of 64 bits or None")
    return _Keras3Generator(seed) if KERAS_3 else _Keras2Generator(seed)


def next_seed(state):
    """The next seed of `state`: an int64 tensor of shape [2]."""
    return tf.cast(state.next(), tf.int64)
