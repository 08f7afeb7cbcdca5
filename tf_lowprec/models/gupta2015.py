"""The three networks of Gupta et al., "Deep Learning with Limited Numerical Precision", 2015."""

import tensorflow as tf

from tf_lowprec.layers import Conv2D, Dense
from tf_lowprec.precision import Policy


def _arguments(precision, initial_std, seed):
    """A function that makes each layer's arguments; layers draw from seeds of their own."""
    precision = Policy.float32() if precision is None else precision
    count = 0

    def make():
        nonlocal count
        count += 1
        # Layers may not share one initializer object: seeded, it would repeat its values.
        return {
            "precision": precision,
            "seed": None if seed is None else seed * 1000 + count,
            "kernel_initializer": tf.keras.initializers.RandomNormal(
                stddev=initial_std, seed=None if seed is None else seed * 1000 + 500 + count
            ),
        }

    return make


def mnist_dnn(precision=None, initial_std=0.01, units=(1000, 1000), seed=None):
    """784-1000-1000-10 with ReLU for MNIST; returns logits.

    The paper initializes weights from N(0, 0.01), which can be read as a standard deviation of
    0.01 (the default here) or a variance of 0.01 (`initial_std=0.1`, which converges faster). It
    trains with SGD, batch 100, learning rate 0.1, no momentum.

    Args:
        precision: Policy of all layers. Default: Policy.float32().
        initial_std: standard deviation of the initial weights; biases start at 0.
        units: widths of the hidden layers.
        seed: integer for initial weights and roundings; None draws one.
    """
    make = _arguments(precision, initial_std, seed)
    layers = [tf.keras.Input((28, 28)), tf.keras.layers.Flatten()]
    layers += [Dense(width, activation="relu", **make()) for width in units]
    return tf.keras.Sequential([*layers, Dense(10, **make())], name="mnist_dnn")


def mnist_cnn(precision=None, initial_std=0.1, seed=None):
    """LeNet-5-like, for MNIST: 5x5x8, pool, 5x5x16, pool, dense 128, 10; returns logits.

    The paper trains it with momentum 0.9, learning rate 0.1 times 0.95 per epoch and weight decay
    5e-4.
    """
    make = _arguments(precision, initial_std, seed)
    return tf.keras.Sequential(
        [
            tf.keras.Input((28, 28, 1)),
            Conv2D(8, 5, padding="same", activation="relu", **make()),
            tf.keras.layers.MaxPooling2D(2),
            Conv2D(16, 5, padding="same", activation="relu", **make()),
            tf.keras.layers.MaxPooling2D(2),
            tf.keras.layers.Flatten(),
            Dense(128, activation="relu", **make()),
            Dense(10, **make()),
        ],
        name="mnist_cnn",
    )


def cifar10_cnn(precision=None, initial_std=0.05, seed=None):
    """Three 5x5x64 convolutions with 3x3 pooling of stride 2, then 10 outputs; returns logits.

    The paper trains it with learning rate 0.01, halved at epochs 50, 75 and 100.
    """
    make = _arguments(precision, initial_std, seed)
    layers = [tf.keras.Input((32, 32, 3))]
    for _ in range(3):
        layers.append(Conv2D(64, 5, padding="same", activation="relu", **make()))
        layers.append(tf.keras.layers.MaxPooling2D(3, strides=2, padding="same"))
    layers += [tf.keras.layers.Flatten(), Dense(10, **make())]
    return tf.keras.Sequential(layers, name="cifar10_cnn")
