"""What the networks here have in common: layers with a precision, a name and seeds of their own."""

import tensorflow as tf

from tf_lowprec.layers import Conv2D
from tf_lowprec.precision import Policy


class Maker:
    """Makes the layers of one network.

    Args:
        precision: Policy or PolicyMap of every layer that has one; None is Policy.float32().
        seed: integer for initial weights and roundings; None draws one.
    """

    def __init__(self, precision, seed):
        self.precision = Policy.float32() if precision is None else precision
        self.seed, self.count = seed, 0

    def arguments(self, name, initializer="HeNormal", **initializer_arguments):
        """Arguments of one layer; layers may not share an initializer, or its values repeat."""
        self.count += 1
        seeds = (None, None)
        if self.seed is not None:
            seeds = (self.seed * 1000 + self.count, self.seed * 1000 + 500 + self.count)
        make = getattr(tf.keras.initializers, initializer)
        return {
            "name": name,
            "precision": self.precision,
            "seed": seeds[0],
            "kernel_initializer": make(seed=seeds[1], **initializer_arguments),
        }

    def convolution(self, x, filters, size, name, stride=1, activation="relu"):
        """Convolution without bias, batch normalization, activation."""
        x = Conv2D(filters, size, stride, padding="same", use_bias=False, **self.arguments(name))(x)
        x = tf.keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)
        if activation is None:
            return x
        return tf.keras.layers.Activation(activation, name=f"{name}_{activation}")(x)

    def add(self, shortcut, x, name):
        """ReLU of the sum of a block and its shortcut."""
        x = tf.keras.layers.Add(name=f"{name}_add")([shortcut, x])
        return tf.keras.layers.Activation("relu", name=f"{name}_relu")(x)
