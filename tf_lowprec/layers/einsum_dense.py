"""lp.layers.EinsumDense."""

import math

import tensorflow as tf

from tf_lowprec.layers.precision_layer import PrecisionLayer
from tf_lowprec.ops.einsum import einsum, parse_equation


@tf.keras.utils.register_keras_serializable("tf_lowprec")
class EinsumDense(PrecisionLayer, tf.keras.layers.EinsumDense):
    """keras.layers.EinsumDense, ``activation(einsum(equation, x, kernel) + bias)``, under a policy.

    Takes the arguments of keras.layers.EinsumDense, and `precision` and `seed` (see
    PrecisionLayer).

    FWD sums over the indices that x and kernel share, BWD over those that only the kernel has, GRAD
    over those that only x has: see lp.einsum.
    """

    def _forward_lengths(self, input_shape):
        shape = self.kernel.shape
        of_x, of_kernel, result = parse_equation(self.equation, len(input_shape), len(shape))
        terms = [i in of_x and i not in result for i in of_kernel]
        return [math.prod(size for size, summed in zip(shape, terms) if summed)]

    def call(self, inputs, training=None):
        if self.precision.is_native:
            return super().call(inputs)
        return self._low_precision_call(
            inputs,
            lambda x, kernel, policy, seed: einsum(self.equation, x, kernel, policy, seed=seed),
            training,
        )
