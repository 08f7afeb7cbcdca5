"""Refuses XLA, which has no kernels of our ops, before its compiler does so less clearly."""

import tensorflow as tf

try:
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext as _is_in_xla
except ImportError:  # then XLA's own message has to do

    def _is_in_xla(graph):
        return False


def check_not_xla():
    """Raises ValueError while a function with jit_compile=True is traced."""
    if not tf.executing_eagerly() and _is_in_xla(tf.compat.v1.get_default_graph()):
        raise ValueError(
            "jit_compile = True must be False: XLA has no kernels of tf_lowprec's ops; use "
            "Model.compile(..., jit_compile=False), or tf.function without jit_compile"
        )
