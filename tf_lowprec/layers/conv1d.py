"""lp.layers.Conv1D."""

import tensorflow as tf

from tf_lowprec.layers.precision_layer import PrecisionLayer, over_images
from tf_lowprec.ops.conv2d import conv2d


@tf.keras.utils.register_keras_serializable("tf_lowprec")
class Conv1D(PrecisionLayer, tf.keras.layers.Conv1D):
    """keras.layers.Conv1D, ``activation(conv1d(x, kernel) + bias)``, under a precision policy.

    Takes the arguments of keras.layers.Conv1D, and `precision` and `seed` (see PrecisionLayer).
    Under a low-precision policy sequences are channels_last.

    Shapes: ``[B, T, C]`` to ``[B, ot, filters]``. FWD sums over k C / groups, BWD over
    k filters / groups, GRAD over B ot: lp.conv2d of images of height 1. On Keras 2 B may be several
    axes.
    """

    def call(self, inputs, training=None):
        if self.precision.is_native:
            return super().call(inputs)
        return self._low_precision_call(inputs, self._convolve, training)

    def _convolve(self, x, kernel, policy, seed):
        padding = self.padding
        if padding == "causal":
            padding = ((0, 0), (self.dilation_rate[0] * (self.kernel_size[0] - 1), 0))

        def convolve(x):
            y = conv2d(
                x[:, None],
                kernel[None],
                policy,
                strides=(1, self.strides[0]),
                padding=padding,
                dilations=(1, self.dilation_rate[0]),
                groups=self.groups,
                seed=seed,
            )
            return y[:, 0]

        return over_images(convolve, x, rank=2)
