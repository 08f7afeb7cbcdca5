"""Which Keras tf.keras is. Code that serves both asks here, and nowhere else."""

import tensorflow as tf

# Keras 3 from TensorFlow 2.16 on, unless TF_USE_LEGACY_KERAS asks for Keras 2 (tf_keras).
KERAS_3 = hasattr(tf.keras, "random")

_saving = tf.keras.utils if KERAS_3 else tf.keras.saving
serialize_keras_object = _saving.serialize_keras_object
deserialize_keras_object = _saving.deserialize_keras_object
