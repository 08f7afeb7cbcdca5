"""Residual networks of He et al., "Deep Residual Learning for Image Recognition", 2015."""

import tensorflow as tf

from tf_lowprec.layers import Dense
from tf_lowprec.models.build import Maker


def resnet_cifar(depth, precision=None, classes=10, seed=None, input_shape=(32, 32, 3)):
    """The CIFAR-10 family, section 4.2: depth 6 k + 2; returns logits.

    3x3x16, then three stages of k blocks of two 3x3 convolutions, with 16, 32 and 64 channels and
    stride 2 into the last two stages; global average pooling; dense. Shortcuts have no parameters
    (the paper's option A): where channels double they are subsampled and padded with zeros.
    Every convolution is followed by batch normalization. The paper trains it with momentum 0.9,
    weight decay 1e-4, batch 128 and learning rate 0.1, divided by 10 twice.

    Args:
        depth: 8, 14, 20, 26, 32, ...
        precision: Policy or PolicyMap of all convolutions and of the dense layer. Default: float32.
        classes: width of the last layer.
        seed: integer for initial weights and roundings; None draws one.
        input_shape: (height, width, channels).
    """
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth = {depth!r} must be 6 k + 2 for k >= 1, such as 8, 20 or 32")
    make = Maker(precision, seed)
    inputs = tf.keras.Input(input_shape, name="images")
    x = make.convolution(inputs, 16, 3, "conv1")
    for stage, filters in enumerate((16, 32, 64), 1):
        for block in range(1, depth // 6 + 1):
            name = f"stage{stage}_block{block}"
            stride = 2 if stage > 1 and block == 1 else 1
            y = make.convolution(x, filters, 3, f"{name}_conv1", stride)
            y = make.convolution(y, filters, 3, f"{name}_conv2", activation=None)
            if stride > 1:
                x = tf.keras.layers.AveragePooling2D(1, stride, name=f"{name}_subsample")(x)
                x = ZeroChannels(filters, name=f"{name}_pad")(x)
            x = make.add(x, y, name)
    x = tf.keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = Dense(classes, **make.arguments("dense"))(x)
    return tf.keras.Model(inputs, outputs, name=f"resnet{depth}")


def resnet8(precision=None, classes=10, seed=None):
    """`resnet_cifar` of depth 8: 75,290 trainable weights."""
    return resnet_cifar(8, precision, classes, seed)


def resnet20(precision=None, classes=10, seed=None):
    """`resnet_cifar` of depth 20: 0.27 M weights, 40.6 M multiply-accumulates per image."""
    return resnet_cifar(20, precision, classes, seed)


def resnet32(precision=None, classes=10, seed=None):
    """`resnet_cifar` of depth 32: 0.46 M weights, 68.9 M multiply-accumulates per image."""
    return resnet_cifar(32, precision, classes, seed)


def resnet18(precision=None, classes=1000, seed=None, input_shape=(224, 224, 3)):
    """The ImageNet network of 18 layers, table 1; returns logits.

    7x7x64 with stride 2, 3x3 max pooling, four stages of two blocks of two 3x3 convolutions with
    64, 128, 256 and 512 channels; global average pooling; dense. Shortcuts are 1x1 convolutions
    where shapes change (the paper's option B), as in all common implementations.
    11.69 M trainable weights, 1.81 G multiply-accumulates per image of 224 x 224.

    Arguments as for `resnet_cifar`.
    """
    make = Maker(precision, seed)
    inputs = tf.keras.Input(input_shape, name="images")
    x = make.convolution(inputs, 64, 7, "conv1", 2)
    x = tf.keras.layers.MaxPooling2D(3, 2, padding="same", name="pool1")(x)
    for stage, filters in enumerate((64, 128, 256, 512), 1):
        for block in (1, 2):
            name = f"stage{stage}_block{block}"
            stride = 2 if stage > 1 and block == 1 else 1
            y = make.convolution(x, filters, 3, f"{name}_conv1", stride)
            y = make.convolution(y, filters, 3, f"{name}_conv2", activation=None)
            if stride > 1:
                x = make.convolution(x, filters, 1, f"{name}_shortcut", stride, activation=None)
            x = make.add(x, y, name)
    x = tf.keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = Dense(classes, **make.arguments("dense"))(x)
    return tf.keras.Model(inputs, outputs, name="resnet18")


@tf.keras.utils.register_keras_serializable("tf_lowprec")
class ZeroChannels(tf.keras.layers.Layer):
    """Pads the channels of ``[B, H, W, C]`` with zeros to `filters`: a shortcut without weights."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters

    def call(self, inputs):
        missing = self.filters - inputs.shape[-1]
        before = missing // 2
        return tf.pad(inputs, [[0, 0], [0, 0], [0, 0], [before, missing - before]])

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}
