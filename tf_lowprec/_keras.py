"""Which Keras tf.keras is. Code that serves both asks here, and nowhere else."""

import tensorflow as tf

# Keras 3 from TensorFlow 2.16 on, unless TF_USE_LEGACY_KERAS asks for Keras 2 (tf_keras).
KERAS_3 = hasattr(tf.keras, "random")

_saving = tf.keras.utils if KERAS_3 else tf.keras.saving
serialize_keras_object = _saving.serialize_keras_object
deserialize_keras_object = _saving.deserialize_keras_object


def replace_sublayer(owner, name, layer):
    """Makes `layer` the attribute `name` of a Keras layer, and forgets the layer that it was."""
    if KERAS_3:
        owner._tracker.untrack(getattr(owner, name))  # assignment alone would keep both
    else:
        delattr(owner, name)
    setattr(owner, name, layer)


def sublayers(layer):
    """The layers directly inside a layer or model."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def compute_in_float32(layer):
    """Gives a Keras layer the dtype policy float32, whatever it was made with."""
    if KERAS_3:
        layer.dtype_policy = "float32"
    else:
        layer._set_dtype_policy("float32")


def native(variable):
    """The tf.Variable inside a Keras 3 variable; a Keras 2 variable is one."""
    return variable.value if KERAS_3 else variable
