"""lp.layers.DepthwiseConv2D."""

import math

import tensorflow as tf

from tf_lowprec.layers.precision_layer import PrecisionLayer
from tf_lowprec.ops.conv2d import conv2d


@tf.keras.utils.register_keras_serializable("tf_lowprec")
class DepthwiseConv2D(PrecisionLayer, tf.keras.layers.DepthwiseConv2D):
    """keras.layers.DepthwiseConv2D, each channel's own convolution, under a precision policy.

    Takes the arguments of keras.layers.DepthwiseConv2D, and `precision` and `seed` (see
    PrecisionLayer). Under a low-precision policy images are channels_last.

    Shapes: ``[B, H, W, C]`` to ``[B, oh, ow, C depth_multiplier]``. FWD sums over kh kw, BWD over
    kh kw depth_multiplier, GRAD over B oh ow: lp.conv2d with C groups.
    """

    def _forward_lengths(self, input_shape):
        return [math.prod(self.kernel_size)]

    def call(self, inputs, training=None):
        if self.precision.is_native:
            return super().call(inputs)
        kernel = self.kernel if hasattr(self, "kernel") else self.depthwise_kernel
        return self._low_precision_call(inputs, self._convolve, training, kernel)

    def _convolve(self, x, kernel, policy, seed):
        height, width, channels, multiplier = kernel.shape
        return conv2d(
            x,
            tf.reshape(kernel, [height, width, 1, channels * multiplier]),
            policy,
            strides=tuple(self.strides),
            padding=self.padding,
            dilations=tuple(self.dilation_rate),
            groups=channels,
            seed=seed,
        )
