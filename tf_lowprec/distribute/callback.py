"""lp.distribute.CompressionLogger: the measured compression in Keras's logs and TensorBoard."""

import collections

import tensorflow as tf

from tf_lowprec.distribute import _tf_private
from tf_lowprec.distribute.all_reduce import AdaCompAllReduce
from tf_lowprec.summary import write_scalar


class CompressionLogger(tf.keras.callbacks.Callback):
    """After each epoch, what its gradients were compressed to, measured from the packets.

    The epoch's logs get ``compression_ratio`` (float32 bytes over bytes sent, all gradients
    together) and ``gradient_bytes`` (sent per replica and step). With `log_dir` TensorBoard gets
    both, and for each variable ``compression/<variable>/`` and ``ratio``, ``bytes`` (per replica
    and step) and ``sent_per_bin``. Later variables of the same path are ``<variable>_1`` and so on.

    Args:
        log_dir: a folder for TensorBoard; None writes none.
        all_reduce: the AdaCompAllReduce to look at. None: that of the model's strategy.

    Raises:
        ValueError: when training begins, if the model's strategy has no AdaCompAllReduce.
    """

    def __init__(self, log_dir=None, all_reduce=None):
        super().__init__()
        if all_reduce is not None and not isinstance(all_reduce, AdaCompAllReduce):
            raise ValueError(f"all_reduce = {all_reduce!r} must be an AdaCompAllReduce or None")
        self.log_dir, self.all_reduce = log_dir, all_reduce
        self._watched, self._writer, self._before = None, None, None

    def on_train_begin(self, logs=None):
        strategy = self.model.distribute_strategy
        self._watched = self.all_reduce
        if self._watched is None:
            found = _tf_private.cross_device_ops_of(strategy)
            if not isinstance(found, AdaCompAllReduce):
                raise ValueError(
                    "CompressionLogger: the model's strategy has no AdaCompAllReduce: make it by "
                    "tf.distribute.MirroredStrategy(cross_device_ops=AdaCompAllReduce())"
                )
            self._watched = found
            if strategy.num_replicas_in_sync == 1:
                tf.get_logger().warning(
                    "CompressionLogger: the model's strategy has one replica, so that no gradient "
                    "is reduced, nor compressed"
                )
        if self.log_dir is not None and self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self.log_dir))
        self._before = self._watched.statistics()

    def on_epoch_end(self, epoch, logs=None):
        now = self._watched.statistics()
        epoch_statistics, self._before = now.since(self._before), now
        scalars = {
            "compression_ratio": epoch_statistics.ratio,
            "gradient_bytes": epoch_statistics.bytes_per_gradient,
        }
        if logs is not None:
            logs.update(scalars)
        if self._writer is None:
            return
        with self._writer.as_default():
            for name, value in scalars.items():
                write_scalar(f"compression/{name}", value, epoch)
            seen = collections.Counter()
            for gradient in epoch_statistics:
                # Variables of two models may have one path.
                nth, seen[gradient.name] = seen[gradient.name], seen[gradient.name] + 1
                if not gradient.gradients:
                    continue
                prefix = f"compression/{gradient.name}{f'_{nth}' if nth else ''}/"
                write_scalar(prefix + "ratio", gradient.ratio, epoch)
                write_scalar(prefix + "bytes", gradient.bytes_per_gradient, epoch)
                if gradient.bin_size is not None and gradient.compressed:
                    write_scalar(prefix + "sent_per_bin", gradient.sent_per_bin, epoch)
        self._writer.flush()

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()
            self._writer = None
