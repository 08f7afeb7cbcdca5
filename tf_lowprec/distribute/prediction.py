"""Predictions of all workers, in the order of the data, on each of them."""

import tensorflow as tf

from tf_lowprec.distribute import _tf_private

# What TensorFlow's all-gather takes; others go as one of these.
_GATHERED = {tf.float16, tf.float32, tf.float64, tf.int32, tf.int64}
_CARRIER = {tf.bfloat16: tf.float32, tf.uint32: tf.int64, tf.uint64: tf.int64}


def gather_predictions(strategy, outputs):
    """The outputs of one step of `predict`, of all replicas, as Keras would concatenate them.

    Data are dealt to workers batch by batch: the first replicas of all workers come first, in
    order, then the second ones. All workers get the same.

    Args:
        strategy: a MultiWorkerMirroredStrategy.
        outputs: a structure of tensors, or of PerReplica values where a worker has several
            replicas.
    """
    local = strategy.num_replicas_in_sync // strategy.num_workers

    def gather(value):
        parts = strategy.experimental_local_results(value)
        if not all(isinstance(part, tf.Tensor) for part in parts):
            raise ValueError(
                f"predict cannot gather {type(parts[0]).__name__} from several workers: give dense "
                "tensors"
            )
        dtype = parts[0].dtype
        if dtype == tf.string:
            raise ValueError("predict cannot gather strings from several workers: give numbers")
        carrier = dtype if dtype in _GATHERED else _CARRIER.get(dtype, tf.int32)
        parts = [tf.cast(part, carrier) for part in parts]
        scalar = parts[0].shape.rank == 0
        parts = [part[tf.newaxis] for part in parts] if scalar else parts
        rows = strategy.gather(_tf_private.per_replica(parts), axis=0)
        sizes = [tf.shape(part)[:1] for part in parts]
        sizes = strategy.gather(_tf_private.per_replica(sizes), axis=0)
        split = tf.split(rows, sizes, num=strategy.num_replicas_in_sync)
        ordered = [part for i in range(local) for part in split[i::local]]
        return tf.cast(tf.concat(ordered, 0), dtype)

    return tf.nest.map_structure(gather, outputs)
