"""lp.layers.LSTM."""

import tensorflow as tf

from tf_lowprec.layers.recurrent import PrecisionCell, PrecisionRecurrent


class _LSTMCell(PrecisionCell, tf.keras.layers.LSTMCell):
    def call(self, inputs, states, training=None):
        step = self.step(training)
        h, c = states
        z = step.add(inputs, step.affine(h, self.recurrent_kernel))
        i, f, g, o = tf.split(z, 4, axis=-1)
        i, f, o = (step.activate(self.recurrent_activation, gate) for gate in (i, f, o))
        g = step.activate(self.activation, g)
        c = step.add(step.multiply(f, c), step.multiply(i, g))
        h = step.multiply(o, step.activate(self.activation, c))
        return h, [h, c]


@tf.keras.utils.register_keras_serializable("tf_lowprec")
class LSTM(PrecisionRecurrent, tf.keras.layers.LSTM):
    """keras.layers.LSTM under a precision policy.

    Takes the arguments of keras.layers.LSTM, and `precision` and `seed` (see PrecisionLayer).
    Under a low-precision policy recurrent_dropout must be 0. With R rounding to the policy's
    activations' format, and sigma the recurrent activation::

        z_t = R(R(x_t . W + b) + R(h_{t-1} . U))          (i, f, g, o) = the quarters of z_t
        c_t = R(R(R(sigma(f)) c_{t-1}) + R(R(sigma(i)) R(tanh(g))))
        h_t = R(R(sigma(o)) R(tanh(c_t)))

    FWD sums over the inputs for W and over units for U, BWD over 4 units. GRAD sums over B T for W,
    whose products of all steps are one; for U it sums over B at each step, and the steps' results
    are added in float32.
    """

    _cell_class = _LSTMCell
