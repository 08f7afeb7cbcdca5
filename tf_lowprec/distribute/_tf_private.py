"""TensorFlow's and Keras's private names: all that this package uses of them is here.

tests/distribute/test_tf_private.py says which one is gone.
"""

import functools

import tensorflow as tf
from tensorflow.python.distribute import distribute_utils, values
from tensorflow.python.framework import ops
from tensorflow.python.ops import control_flow_util, resource_variable_ops

from tf_lowprec._keras import KERAS_3

_REDUCTION = "_all_reduce_sum_gradients"
_original = None  # (class, its method) while the hook is installed


def plain_zeros(shape, dtype, name, device):
    """A variable on one device, that the current strategy does not turn into a mirrored one."""
    with tf.init_scope(), tf.device(device):
        zeros = tf.zeros(shape, dtype)
        return resource_variable_ops.ResourceVariable(zeros, trainable=False, name=name)


def mirrored(tensors):
    """One tensor per replica as the value that a reduction returns."""
    return distribute_utils.regroup(tuple(tensors), wrap_class=values.Mirrored)


def variable_key(variable):
    """What tells a strategy's variables apart: the same for a variable and its copies."""
    return variable._unique_id


def cross_device_ops_of(strategy):
    """A MirroredStrategy's cross-device op; None for other strategies."""
    return getattr(strategy.extended, "_cross_device_ops", None)


def compiles_for_xla():
    """Whether the graph that is being traced is for tf.function(jit_compile=True)."""
    return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(
        ops.get_default_graph()
    )


def _reducing_class():
    """The class that defines Keras 3's reduction of gradients."""
    for cls in tf.keras.optimizers.Optimizer.__mro__:
        if _REDUCTION in vars(cls):
            return cls
    raise RuntimeError(
        f"Keras {tf.keras.__version__} has no Optimizer.{_REDUCTION} any more: AdaCompAllReduce "
        "cannot tell gradients by their variables. Use the Keras that tf_lowprec was made for "
        "(requirements/default.txt), or TF_USE_LEGACY_KERAS=1"
    )


def install_gradient_hook(reduces):
    """Makes Keras 3 optimizers reduce gradients *to their variables*, where `reduces` asks for it.

    Keras 3 reduces each gradient to itself, so that a cross-device op cannot know the variable; and
    reductions that are no gradients look the same. With the hook the destination is the variable,
    as it is in Keras 2.

    Args:
        reduces: a function of (strategy, optimizer); true if the hook is to act. Elsewhere Keras's
            own method runs.
    """
    global _original
    if not KERAS_3 or _original is not None:
        return
    cls = _reducing_class()
    original = getattr(cls, _REDUCTION)

    @functools.wraps(original)
    def reduce_to_variables(self, grads_and_vars):
        context = tf.distribute.get_replica_context()
        if context is None or not reduces(context.strategy, self):
            return original(self, grads_and_vars)
        pairs = list(grads_and_vars)
        present = [i for i, (gradient, _) in enumerate(pairs) if gradient is not None]
        if len(present) < 1:
            return original(self, pairs)  # which raises

        def reduce(strategy, pairs):
            return strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, pairs)

        reduced = context.merge_call(reduce, args=([pairs[i] for i in present],))
        for i, gradient in zip(present, reduced):
            pairs[i] = (gradient, pairs[i][1])
        return pairs

    setattr(cls, _REDUCTION, reduce_to_variables)
    _original = cls, original


def remove_gradient_hook():
    """Gives Keras its own method back."""
    global _original
    if _original is not None:
        setattr(_original[0], _REDUCTION, _original[1])
        _original = None


def names_of_variables(optimizer):
    """{variable_key: path} of the variables that a Keras 3 optimizer trains."""
    return {optimizer._var_key(v): v.path for v in optimizer._trainable_variables}
