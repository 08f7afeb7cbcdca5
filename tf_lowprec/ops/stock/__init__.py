"""The library's ops for inference, out of TensorFlow's own: what lp.export(portable=True) traces.

Bit-equal to the library for nearest rounding and truncation, under grappler and in TF Lite. Values
are rounded on their bits as integers or by scaling and tf.round: grappler folds ``(x + c) - c``.
"""
