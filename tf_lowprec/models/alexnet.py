"""AlexNet."""

import tensorflow as tf

from tf_lowprec.layers import Conv2D, Dense
from tf_lowprec.models.build import Maker


def alexnet(precision=None, classes=1000, seed=None, input_shape=(227, 227, 3), dropout=0.5):
    """Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", 2012.

    Five convolutions, in groups of two in the second, fourth and fifth as on the paper's two GPUs,
    and three dense layers; returns logits. Images are 227 x 227, which is what 55 x 55 outputs of
    an 11 x 11 convolution of stride 4 without padding take. 60.97 M weights, 0.72 G
    multiply-accumulates per image. Local response normalization is left out; it has no weights.

    Args:
        precision: Policy or PolicyMap of all layers. Default: float32.
        classes: width of the last layer.
        seed: integer for initial weights and roundings; None draws one.
        input_shape: (height, width, channels).
        dropout: ratio dropped before the two hidden dense layers.
    """
    make = Maker(precision, seed)

    def convolve(x, filters, size, name, **options):
        arguments = make.arguments(name)
        return Conv2D(filters, size, activation="relu", **options, **arguments)(x)

    inputs = tf.keras.Input(input_shape, name="images")
    x = convolve(inputs, 96, 11, "conv1", strides=4)
    x = tf.keras.layers.MaxPooling2D(3, 2, name="pool1")(x)
    x = convolve(x, 256, 5, "conv2", padding="same", groups=2)
    x = tf.keras.layers.MaxPooling2D(3, 2, name="pool2")(x)
    x = convolve(x, 384, 3, "conv3", padding="same")
    x = convolve(x, 384, 3, "conv4", padding="same", groups=2)
    x = convolve(x, 256, 3, "conv5", padding="same", groups=2)
    x = tf.keras.layers.MaxPooling2D(3, 2, name="pool5")(x)
    x = tf.keras.layers.Flatten(name="flatten")(x)
    for name in ("dense6", "dense7"):
        x = tf.keras.layers.Dropout(dropout, seed=seed, name=f"{name}_dropout")(x)
        x = Dense(4096, activation="relu", **make.arguments(name))(x)
    outputs = Dense(classes, **make.arguments("dense8"))(x)
    return tf.keras.Model(inputs, outputs, name="alexnet")
