"""lp.layers.Conv2D."""

import tensorflow as tf

from tf_lowprec.layers.precision_layer import PrecisionLayer, over_images
from tf_lowprec.ops.conv2d import conv2d


@tf.keras.utils.register_keras_serializable("tf_lowprec")
class Conv2D(PrecisionLayer, tf.keras.layers.Conv2D):
    """keras.layers.Conv2D, ``activation(conv2d(x, kernel) + bias)``, under a precision policy.

    Takes the arguments of keras.layers.Conv2D, and `precision` and `seed` (see PrecisionLayer).
    Under a low-precision policy images are channels_last.

    Shapes: ``[B, H, W, C]`` to ``[B, oh, ow, filters]``. FWD sums over kh kw C / groups, BWD over
    kh kw filters / groups, GRAD over B oh ow. On Keras 2 B may be several axes.
    """

    def call(self, inputs, training=None):
        if self.precision.is_native:
            return super().call(inputs)
        return self._low_precision_call(inputs, self._convolve, training)

    def _convolve(self, x, kernel, policy, seed):
        def convolve(x):
            return conv2d(
                x,
                kernel,
                policy,
                strides=tuple(self.strides),
                padding=self.padding,
                dilations=tuple(self.dilation_rate),
                groups=self.groups,
                seed=seed,
            )

        return over_images(convolve, x, rank=3)
