"""lp.layers.Conv2DTranspose."""

import tensorflow as tf

from tf_lowprec.layers.precision_layer import PrecisionLayer
from tf_lowprec.ops.conv2d_transpose import conv2d_transpose


@tf.keras.utils.register_keras_serializable("tf_lowprec")
class Conv2DTranspose(PrecisionLayer, tf.keras.layers.Conv2DTranspose):
    """keras.layers.Conv2DTranspose, the transpose of a convolution, under a precision policy.

    Takes the arguments of keras.layers.Conv2DTranspose, and `precision` and `seed` (see
    PrecisionLayer). Under a low-precision policy images are channels_last.

    Shapes: ``[B, h, w, C]`` to ``[B, H, W, filters]``. FWD sums over those of the kh kw C terms
    that contribute, BWD over kh kw filters, GRAD over B h w.
    """

    def _forward_lengths(self, input_shape):
        height, width, _, channels = self.kernel.shape
        return [height * width * channels]

    def call(self, inputs, training=None):
        if self.precision.is_native:
            return super().call(inputs)
        return self._low_precision_call(inputs, self._convolve, training)

    def _convolve(self, x, kernel, policy, seed):
        known, dynamic = x.shape, tf.shape(x)
        size = [
            self._output_size(
                dynamic[1 + axis] if known[1 + axis] is None else known[1 + axis], axis
            )
            for axis in range(2)
        ]
        return conv2d_transpose(
            x,
            kernel,
            policy,
            size,
            strides=tuple(self.strides),
            padding=self.padding,
            dilations=tuple(self.dilation_rate),
            seed=seed,
        )

    def _output_size(self, size, axis):
        """As Keras has it; `size` is an int or a scalar tensor."""
        stride = self.strides[axis]
        extent = (self.kernel_size[axis] - 1) * self.dilation_rate[axis] + 1
        extra = None if self.output_padding is None else self.output_padding[axis]
        if self.padding == "valid":
            extra = max(stride - extent, 0) if extra is None else extra
            return (size - 1) * stride + extent + extra
        if extra is None:
            return size * stride
        return (size - 1) * stride + extent % 2 + extra
