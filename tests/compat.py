"""What the tests need to know of the two Kerases."""

import pytest
import tensorflow as tf

from tf_lowprec._keras import KERAS_3

needs_keras_3 = pytest.mark.skipif(not KERAS_3, reason="about Keras 3")


def variable(value):
    """A variable as Keras makes them."""
    return (tf.keras.Variable if KERAS_3 else tf.Variable)(value)


def native(variable):
    """The tf.Variable inside a Keras 3 variable; a Keras 2 variable is one."""
    return variable.value if KERAS_3 else variable


def path(variable):
    """A name that tells the layer too."""
    return variable.path if KERAS_3 else variable.name


def slots(optimizer):
    """The optimizer's variables of the weights' shapes."""
    variables = optimizer.variables if KERAS_3 else optimizer.variables()
    return [v for v in variables if len(v.shape) > 0]
