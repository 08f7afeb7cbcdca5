"""lp.distribute.MultiWorkerMirroredStrategy: training across machines, dense or compressed."""

import re

import tensorflow as tf

from tf_lowprec._keras import KERAS_3
from tf_lowprec.distribute import _tf_private
from tf_lowprec.distribute.collective import CollectiveAdaComp
from tf_lowprec.distribute.settings import AdaComp

# Keras 3 takes its own, broken path where a strategy is a MultiWorkerMirroredStrategy; Keras 2's
# BackupAndRestore refuses to work where it is none.
_Base = tf.distribute.Strategy if KERAS_3 else tf.distribute.MultiWorkerMirroredStrategy


class MultiWorkerMirroredStrategy(_Base):
    _collective_key_base = 0

    def __init__(
        self,
        compression=None,
        cluster_resolver=None,
        communication_options=None,
        timeout_seconds=600,
        averaged="moving_(mean|variance)",
    ):
        if compression is not None and not isinstance(compression, AdaComp):
            raise ValueError(
                f"compression = {compression!r} must be a tf_lowprec.distribute.AdaComp or None"
            )
        options = communication_options or tf.distribute.experimental.CommunicationOptions(
            timeout_seconds=timeout_seconds
        )
        pattern = re.compile(averaged)

        def averages(name, dtype, shape, trainable, aggregation):
            if trainable or not dtype.is_floating or len(shape) == 0:
                return False
            if aggregation == tf.VariableAggregation.MEAN:  # Keras 2's BatchNormalization says so
                return True
            return aggregation == tf.VariableAggregation.NONE and bool(pattern.search(name))

        def wrap(collective):
            return CollectiveAdaComp(
                compression, collective, self._first_replica, self._take_statistics
            )

        limits = {"heartbeat": 10_000, "register": 300_000, "shutdown": 30_000}
        tf.distribute.Strategy.__init__(
            self,
            _tf_private.CollectiveExtended(
                self, wrap, averages, limits, cluster_resolver, options
            ),
        )

    @property
    def _first_replica(self):
        return 0

    def _take_statistics(self):
        return self.extended.take_assigned()

    @property
    def all_reduce(self):
        return _tf_private.cross_device_ops_of(self)

    @property
    def state(self):
        return self.all_reduce.state

    def statistics(self):
        return self.all_reduce.statistics()

    def communication(self):
        return self.all_reduce.communication()
