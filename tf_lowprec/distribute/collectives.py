"""All-gathers and all-reduces over the replicas of all workers, with instance keys that count."""

import tensorflow as tf

from tf_lowprec.distribute import _tf_private

# TensorFlow's own instance keys of the same group begin at 100.
_FIRST_KEY = 2**29


class Collectives(tf.Module):
    """TensorFlow's collective ops, each call with a new instance key.

    TensorFlow draws its keys in Python, once for each call of the outermost tf.function, and hands
    them in as placeholders: inside Keras 3's loop over `steps_per_execution` nobody feeds them.
    Here a variable counts. All replicas run the same program, so that they count alike.

    All methods are for graphs, take a list with one item per local replica, and return such a list.

    Args:
        collective: TensorFlow's CollectiveAllReduce: which devices, and who is in the group.
    """

    def __init__(self, collective):
        super().__init__(name="collectives")
        self.devices = _tf_private.devices_of(collective)
        self.replicas = _tf_private.group_size(collective)
        self._group_key, self._tokens = _tf_private.group_of(collective)
        self._calls = _tf_private.plain_zeros([], tf.int32, "collective_calls", "CPU:0")

    @property
    def local_replicas(self):
        return len(self.devices)

    def _arguments(self, options):
        with tf.device("CPU:0"):
            key = self._calls.assign_add(1) % _FIRST_KEY + _FIRST_KEY
        return {
            "group_size": self.replicas,
            "group_key": self._group_key,
            "instance_key": key,
            "communication_hint": options.implementation.value,
            "timeout_seconds": options.timeout_seconds or 0,
        }

    def all_gather(self, tensors, options):
        """All replicas' tensors, of equal shapes, one after the other along the first axis."""
        shared, results = self._arguments(options), []
        for tensor, device, token in zip(tensors, self.devices, self._tokens):
            with tf.device(device):
                gathered = tf.raw_ops.CollectiveGatherV2(
                    input=tensor, ordering_token=[token()], **shared
                )
                # The op's shape function knows no number of replicas.
                shape = [None, *tensor.shape[1:]]
                results.append(tf.ensure_shape(gathered, shape))
        return results

    def sum(self, tensors, options):
        """The sum of all replicas' tensors."""
        shared, results = self._arguments(options), []
        for tensor, device, token in zip(tensors, self.devices, self._tokens):
            with tf.device(device):
                results.append(
                    tf.raw_ops.CollectiveReduceV2(
                        input=tensor,
                        merge_op="Add",
                        final_op="Id",
                        ordering_token=[token()],
                        **shared,
                    )
                )
        return results

    def sum_together(self, tensors, options):
        """Likewise for lists of tensors of one dtype, as one vector: tensors[local replica][i]."""
        vectors = []
        for parts, device in zip(tensors, self.devices):
            with tf.device(device):
                vectors.append(tf.concat([tf.reshape(part, [-1]) for part in parts], 0))
        results = []
        for total, parts, device in zip(self.sum(vectors, options), tensors, self.devices):
            with tf.device(device):
                sizes = [tf.size(part) for part in parts]
                split = tf.split(total, sizes, num=len(parts))
                results.append([tf.reshape(t, tf.shape(p)) for t, p in zip(split, parts)])
                for t, p in zip(results[-1], parts):
                    t.set_shape(p.shape)
        return results

    def sum_slices(self, slices, options):
        """The sum of IndexedSlices, which may have different numbers of slices: all of them."""
        lengths = self.all_gather([tf.shape(s.indices)[:1] for s in slices], options)
        most = tf.reduce_max(lengths[0])

        def padded(tensor):
            rest = [[0, most - tf.shape(tensor)[0]]] + [[0, 0]] * (tensor.shape.rank - 1)
            return tf.pad(tensor, rest)

        values = self.all_gather([padded(s.values) for s in slices], options)
        indices = self.all_gather([padded(s.indices) for s in slices], options)
        results = []
        for length, v, i, own in zip(lengths, values, indices, slices):
            there = tf.reshape(tf.sequence_mask(length, most), [-1])
            results.append(
                tf.IndexedSlices(
                    tf.boolean_mask(v, there), tf.boolean_mask(i, there), own.dense_shape
                )
            )
        return results
