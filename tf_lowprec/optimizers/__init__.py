"""Weight updates in low precision."""

from tf_lowprec.optimizers.low_precision import LowPrecision

__all__ = ["LowPrecision"]
