"""Stock Keras layers plus a precision policy."""

from tf_lowprec.layers.conv2d import Conv2D
from tf_lowprec.layers.dense import Dense

__all__ = ["Conv2D", "Dense"]
