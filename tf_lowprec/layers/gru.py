"""lp.layers.GRU."""

import tensorflow as tf

from tf_lowprec.layers.recurrent import PrecisionCell, PrecisionRecurrent


class _GRUCell(PrecisionCell, tf.keras.layers.GRUCell):
    def input_bias(self):
        if not self.use_bias:
            return None
        return tf.convert_to_tensor(self.bias)[0] if self.reset_after else self.bias

    def call(self, inputs, states, training=None):
        step = self.step(training)
        h = states[0] if isinstance(states, (list, tuple)) else states
        x_z, x_r, x_h = tf.split(inputs, 3, axis=-1)
        kernel = tf.convert_to_tensor(self.recurrent_kernel)
        if self.reset_after:
            bias = tf.convert_to_tensor(self.bias)[1] if self.use_bias else None
            h_z, h_r, h_h = tf.split(step.affine(h, kernel, bias), 3, axis=-1)
        else:
            h_z, h_r = tf.split(step.affine(h, kernel[:, : 2 * self.units]), 2, axis=-1)
        z = step.activate(self.recurrent_activation, step.add(x_z, h_z))
        r = step.activate(self.recurrent_activation, step.add(x_r, h_r))
        if self.reset_after:
            h_h = step.multiply(r, h_h)
        else:
            h_h = step.affine(step.multiply(r, h), kernel[:, 2 * self.units :])
        candidate = step.activate(self.activation, step.add(x_h, h_h))
        h = step.add(step.multiply(z, h), step.multiply(step.add(1.0, -z), candidate))
        return h, ([h] if isinstance(states, (list, tuple)) else h)


@tf.keras.utils.register_keras_serializable("tf_lowprec")
class GRU(PrecisionRecurrent, tf.keras.layers.GRU):
    """keras.layers.GRU under a precision policy.

    Takes the arguments of keras.layers.GRU, and `precision` and `seed` (see PrecisionLayer). Under
    a low-precision policy recurrent_dropout must be 0. With R rounding to the policy's activations'
    format, sigma the recurrent activation, and reset_after::

        (x_z, x_r, x_h) = R(x_t . W + b)                  (u_z, u_r, u_h) = R(h_{t-1} . U + b')
        z = R(sigma(R(x_z + u_z)))                        r = R(sigma(R(x_r + u_r)))
        n = R(tanh(R(x_h + R(r u_h))))                    h_t = R(R(z h_{t-1}) + R(R(1 - z) n))

    Without reset_after R(r h_{t-1}) is multiplied by the last third of U in a product of its own.
    FWD sums over the inputs for W and over units for U, BWD over 3 units (over 2 and 1 without
    reset_after). GRAD sums over B T for W, whose products of all steps are one; for U it sums over
    B at each step, and the steps' results are added in float32.
    """

    _cell_class = _GRUCell
