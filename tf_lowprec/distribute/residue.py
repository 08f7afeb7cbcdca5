"""What AdaComp keeps between steps for one variable: a residue per replica, its counters."""

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
        num_elements: of the variable.
        devices: of its replicas, in order.
        bin_size: None for a variable that is reduced densely, which has no residues.
    """

    def __init__(self, name, num_elements, devices, bin_size):
        self.name, self.num_elements, self.bin_size = name, num_elements, bin_size
        self.counters = Counters()
        self.residues, self.steps = [], None
        if bin_size is not None:
            self.steps = _tf_private.plain_zeros([], tf.int64, "steps", "CPU:0")
            self.residues = [
                _tf_private.plain_zeros([num_elements], tf.float32, f"residue_{i}", device)
                for i, device in enumerate(devices)
            ]

    def _serialize_to_tensors(self):
        if not self.residues:
            return {}
        with tf.device("CPU:0"):
            residues = tf.stack([tf.identity(r) for r in self.residues])
        return {"residues": residues, "steps": tf.identity(self.steps)}

    def _restore_from_tensors(self, restored_tensors):
        if not self.residues:
            return tf.no_op()
        saved = restored_tensors["residues"]
        if saved.shape[1] != self.num_elements:
            raise ValueError(
                f"the checkpoint's residues for {self.name} have {saved.shape[1]} elements, but it "
                f"has {self.num_elements}: the model's variables are not those of the checkpoint"
            )
        replicas = len(self.residues)
        for i, residue in enumerate(self.residues):
            residue.assign(tf.reduce_sum(saved[i::replicas], axis=0))
        return self.steps.assign(restored_tensors["steps"])
