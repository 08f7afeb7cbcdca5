"""lp.optimizers.LowPrecision: weights that never leave their format."""

import tensorflow as tf

from tf_lowprec._keras import KERAS_3

if KERAS_3:
    from tf_lowprec.optimizers.keras3 import Implementation
else:
    from tf_lowprec.optimizers.keras2 import Implementation


@tf.keras.utils.register_keras_serializable("tf_lowprec")
class LowPrecision(Implementation):
    """Any Keras optimizer, with weights (and slots) in a low-precision format.

    Whenever the inner optimizer changes a weight w by a step s, here

        ``w <- Q(w + Q(s))``        (Gupta et al., 2015, section 3)

    with Q rounding to `format`. With fixed point w + Q(s) is exact, so that the two roundings are
    the only ones (where a weight is set beside the format's grid after the first update, its next
    sum is float32's); with floats it is taken in float64. Weight decay is a step of its own, with
    random numbers of its own. A slot (momentum, moments) m becomes ``Q(m)`` in `slot_format`
    whenever it changes. What a weight's constraint makes of it is rounded to the nearest number of
    the format.

    On the tensorflow-addons leg (Keras 2) s is taken as the change that the inner optimizer made,
    weight decay included: it is exact up to half a float32 ulp of w. Optimizers of Keras 2, of
    ``tf.keras.optimizers.legacy`` and of tensorflow-addons all work.

    Random numbers are a function of (seed, iteration, index of the variable) and of nothing else:
    all replicas of a tf.distribute strategy round alike, and their copies stay equal.

    Args:
        optimizer: the inner keras.optimizers.Optimizer; its own arguments (learning rate,
            schedules, clipping, weight decay, gradient accumulation) work as ever.
        format: format of the weights.
        rounding: a Rounding or its name.
        slot_format: format of the slots; None leaves them in float32.
        seed: integer, of which the low 32 bits count; None takes one from Python's `random`, which
            keras.utils.set_random_seed sets.

    Raises:
        ValueError: an argument of the wrong kind; an inner optimizer that averages weights
            (use_ema), since averages leave the grid.
    """
