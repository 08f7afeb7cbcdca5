"""TensorFlow's private names that the analysis needs."""

# A function's graph with its calls inlined and its variables as constants: no public name does it.
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

__all__ = ["convert_variables_to_constants_v2"]
