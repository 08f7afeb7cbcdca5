"""lp.layers.Dense."""

import tensorflow as tf

from tf_lowprec.layers.precision_layer import PrecisionLayer
from tf_lowprec.ops.matmul import matmul


@tf.keras.utils.register_keras_serializable("tf_lowprec")
class Dense(PrecisionLayer, tf.keras.layers.Dense):
    """keras.layers.Dense, ``activation(x . kernel + bias)``, under a precision policy.

    Takes the arguments of keras.layers.Dense, and `precision` and `seed` (see PrecisionLayer).

    Shapes: ``[..., in]`` to ``[..., units]``. FWD sums over in, BWD over units, GRAD over all
    leading axes.
    """

    def call(self, inputs, training=None):
        if self.precision.is_native:
            return super().call(inputs)
        return self._low_precision_call(
            inputs,
            lambda x, kernel, policy, seed: matmul(x, kernel, policy, seed=seed),
            training,
        )
