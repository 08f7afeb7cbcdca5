"""Weight updates in low precision, and loss scaling."""

from tf_lowprec.optimizers.loss_scaling import loss_scaling
from tf_lowprec.optimizers.low_precision import LowPrecision

__all__ = ["LowPrecision", "loss_scaling"]
