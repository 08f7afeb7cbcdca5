"""lp.optimizers.loss_scaling: static and dynamic, on either Keras."""

import math
import numbers

import tensorflow as tf

from tf_lowprec._keras import KERAS_3
from tf_lowprec.optimizers.update import as_optimizer


def loss_scaling(optimizer, scale=1000.0):
    """An optimizer whose loss is multiplied by `scale`, and whose gradients are divided by it.

    So that small errors are not lost in narrow formats; Sakr et al. (2019) scale by 1000. `fit`
    does the rest. In a loop of your own, on Keras 3 differentiate ``optimizer.scale_loss(loss)``
    and apply the gradients as they are; on Keras 2 use get_scaled_loss and get_unscaled_gradients.

    Under Keras 3's policy ``mixed_float16`` compile puts its dynamic scale in place of a number:
    ``compile(auto_scale_loss=False)`` keeps the number.

    Args:
        optimizer: a Keras optimizer, LowPrecision included.
        scale: a positive number, or "dynamic": Keras's LossScaleOptimizer, which halves the scale
            and skips the step when a gradient is not finite, and doubles it after 2000 steps that
            are.

    Returns:
        On Keras 3 with a number: `optimizer` itself, with its loss_scale_factor set. Otherwise
        Keras's LossScaleOptimizer around it.

    Raises:
        ValueError: no optimizer; a scale of another kind; an optimizer that scales its loss
            already.
    """
    optimizer = as_optimizer(optimizer)
    wrapper = tf.keras.mixed_precision.LossScaleOptimizer
    if isinstance(optimizer, wrapper) or getattr(optimizer, "loss_scale_factor", None):
        raise ValueError("optimizer scales its loss already: give the optimizer inside it")
    if scale == "dynamic":
        return wrapper(optimizer)
    is_number = isinstance(scale, numbers.Real) and not isinstance(scale, bool)
    if not is_number or not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale = {scale!r} must be a positive number or 'dynamic'")
    if KERAS_3:
        optimizer.loss_scale_factor = float(scale)
        return optimizer
    return wrapper(optimizer, dynamic=False, initial_scale=float(scale))
