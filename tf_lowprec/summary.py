"""TensorBoard scalars, also where TensorBoard is not installed."""

import tensorflow as tf


def write_scalar(name, value, step):
    """tf.summary.scalar, which TensorFlow 2.21 has only where TensorBoard is installed."""
    metadata = tf.compat.v1.SummaryMetadata(data_class=1)  # DATA_CLASS_SCALAR
    metadata.plugin_data.plugin_name = "scalars"
    tf.summary.write(name, tf.constant(value, tf.float32), step, metadata)
