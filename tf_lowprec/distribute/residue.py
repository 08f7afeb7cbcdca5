"""What AdaComp keeps between steps: for each variable a residue per replica, and counters."""

import gc
import math
import weakref

import tensorflow as tf

from tf_lowprec.distribute import _tf_private
from tf_lowprec.distribute.statistics import Counters


class GradientState(tf.__internal__.tracking.Trackable):
    """The residues of one variable, on the devices of its replicas, and what was sent for it.

    A checkpoint holds the residues as one tensor [replicas, elements] and the steps done. It may
    be restored with another number of replicas: those that are too many are added to the others,
    replica j to replica ``j % replicas``, and new ones begin at 0, so that the residues' sum stays
    what it was. With the same number they are equal to the bit.

    Args:
        name: the variable's path.
        shape: the variable's.
        devices: of its replicas, in order.
        bin_size: None for a variable that is reduced densely, which has no residues.
    """

    def __init__(self, name, shape, devices, bin_size):
        self.name, self.shape, self.bin_size = name, tuple(shape), bin_size
        self.num_elements = math.prod(self.shape)
        self.counters = Counters()
        self.residues, self.steps = [], None
        if bin_size is not None:
            self.steps = _tf_private.plain_zeros([], tf.int64, "steps", "CPU:0")
            self.residues = [
                _tf_private.plain_zeros([self.num_elements], tf.float32, f"residue_{i}", device)
                for i, device in enumerate(devices)
            ]

    def _serialize_to_tensors(self):
        if not self.residues:
            return {}
        with tf.device("CPU:0"):
            residues = tf.stack([tf.identity(r) for r in self.residues])
        name = tf.constant(self.name)
        return {"residues": residues, "steps": tf.identity(self.steps), "name": name}

    def _restore_from_tensors(self, restored_tensors):
        if not self.residues:
            return tf.no_op()
        saved = restored_tensors["residues"]
        if saved.shape[1] != self.num_elements:
            raise ValueError(
                f"the checkpoint's residues for {self.name} have {saved.shape[1]} elements, but it "
                f"has {self.num_elements}: the model's variables are not those of the checkpoint"
            )
        name = restored_tensors["name"].numpy().decode()
        if name != self.name:
            # Keras numbers names anew in each process, so that this is no error.
            tf.get_logger().warning(
                "The residues that the checkpoint holds for %s go to %s, which appears at the same "
                "place. If these are not the same, make the op anew, or train in the same order",
                name,
                self.name,
            )
        replicas = len(self.residues)
        for i, residue in enumerate(self.residues):
            residue.assign(tf.reduce_sum(saved[i::replicas], axis=0))
        return self.steps.assign(restored_tensors["steps"])


class GradientStates(tf.__internal__.tracking.Trackable):
    """The GradientStates of the variables that are alive, in the order in which they appeared.

    A checkpoint knows them by their number in it: names collide, and differ between two processes.
    """

    def __init__(self):
        self._found = {}  # variable_key -> (reference to the variable, its GradientState)

    def __iter__(self):
        for key, (variable, _) in list(self._found.items()):
            if variable() is None:
                del self._found[key]
        return iter([state for _, state in self._found.values()])

    def get(self, variable):
        """A variable's GradientState, or None."""
        _, state = self._found.get(_tf_private.variable_key(variable), (None, None))
        return state

    def add(self, variable, state):
        name = str(len(list(self)))
        self._found[_tf_private.variable_key(variable)] = weakref.ref(variable), state
        with tf.init_scope():
            # A checkpoint that was restored before gives its residues now.
            self._handle_deferred_dependencies(name=name, trackable=state)

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        gc.collect()  # a model that nobody has any more may still be waiting for it
        return {str(i): state for i, state in enumerate(self)}

    def _lookup_dependency(self, name, cached_dependencies=None):
        return (cached_dependencies or self._trackable_children()).get(name)
