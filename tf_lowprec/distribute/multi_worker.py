"""lp.distribute.MultiWorkerMirroredStrategy: training across machines, dense or compressed."""

import contextlib
import math
import numbers
import re
import sys
from typing import Any

import numpy as np
import tensorflow as tf

from tf_lowprec._keras import KERAS_3
from tf_lowprec.distribute import _tf_private
from tf_lowprec.distribute.cluster import cluster_of, resolver_or_default
from tf_lowprec.distribute.collective import CollectiveAdaComp
from tf_lowprec.distribute.prediction import gather_predictions
from tf_lowprec.distribute.rendezvous import meet, watch
from tf_lowprec.distribute.settings import AdaComp

# Keras 3 takes a path that fails where a strategy is TensorFlow's MultiWorkerMirroredStrategy;
# Keras 2's BackupAndRestore refuses to work where it is none.
_Base: Any = tf.distribute.Strategy if KERAS_3 else tf.distribute.MultiWorkerMirroredStrategy


class MultiWorkerMirroredStrategy(_Base):
    """Synchronous training on several machines, whose gradients may go as AdaComp packets.

        strategy = lp.distribute.MultiWorkerMirroredStrategy(compression=lp.distribute.AdaComp())
        with strategy.scope():
            model = ...
            model.compile(...)
        model.fit(...)

    Run the same program on every worker, with TF_CONFIG or a cluster resolver, as with
    ``tf.distribute.MultiWorkerMirroredStrategy``; make the strategy before all else. It trains with
    Keras 3's ``fit``, which TensorFlow's own cannot, with Keras 2's, and with custom loops that use
    a Keras optimizer. Without TF_CONFIG it is one worker.

    Each step has one exchange: an all-gather of the replicas' packets, which takes small gradients
    and BatchNormalization's moving statistics along; without compression, an all-reduce. All
    workers' weights, optimizers and moving statistics have the same bits. `evaluate` and `predict`
    give all workers the results of all of the data.

    On Keras 3 ``isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)`` is false: Keras
    would reduce each logged scalar over an axis that it does not have. On Keras 2 it is true.

    Args:
        compression: an AdaComp, equal on all workers. None: gradients go dense.
        cluster_resolver: a tf.distribute.cluster_resolver.ClusterResolver. None: TF_CONFIG.
        communication_options: a tf.distribute.experimental.CommunicationOptions, whose timeout
            then stands for `timeout_seconds`.
        timeout_seconds: how long one exchange may last, waiting for other workers included.
        start_timeout_seconds: how long workers wait for each other at the start.
        heartbeat_timeout_seconds: after how long a worker that has stopped is given up. Heartbeats
            wait behind data: one exchange must not last longer.
        averaged: a regular expression: variables of such names that are not trainable, and that
            replicas assign by themselves, are averaged over the replicas at each step.

    Raises:
        ValueError: a wrong argument; a cluster that cannot be; a worker that has another list of
            workers, other versions or settings: all workers raise the same.
        RuntimeError: a port that is taken, or workers that do not come.
    """

    _next_key_base = 0

    def __init__(
        self,
        compression=None,
        cluster_resolver=None,
        communication_options=None,
        timeout_seconds=600,
        start_timeout_seconds=300,
        heartbeat_timeout_seconds=30,
        averaged="moving_(mean|variance)",
    ):
        if compression is not None and not isinstance(compression, AdaComp):
            raise ValueError(
                f"compression = {compression!r} must be a tf_lowprec.distribute.AdaComp or None"
            )
        for name, value in (
            ("timeout_seconds", timeout_seconds),
            ("start_timeout_seconds", start_timeout_seconds),
            ("heartbeat_timeout_seconds", heartbeat_timeout_seconds),
        ):
            if not isinstance(value, numbers.Real) or not 0 < value < math.inf:
                raise ValueError(f"{name} = {value!r} must be a number above 0")
        try:
            pattern = re.compile(averaged)
        except (TypeError, re.error) as error:
            raise ValueError(f"averaged = {averaged!r} is no regular expression: {error}") from None
        options = communication_options or tf.distribute.experimental.CommunicationOptions(
            timeout_seconds=float(timeout_seconds)
        )
        resolver = resolver_or_default(cluster_resolver)
        self.cluster = cluster_of(resolver)
        connections = {}
        if self.num_workers > 1 and not _tf_private.serves():
            facts = _facts(compression, averaged)
            connections = meet(self.cluster, facts, start_timeout_seconds)

        def averages(name, dtype, shape, trainable, aggregation):
            if trainable or not dtype.is_floating or shape.rank == 0:
                return False
            if aggregation == tf.VariableAggregation.MEAN:  # as Keras 2's moving statistics have
                return True
            return aggregation == tf.VariableAggregation.NONE and bool(pattern.search(name))

        def wrap(collective):
            first = self.worker_index * len(_tf_private.devices_of(collective))
            return CollectiveAdaComp(compression, collective, options, first, self._take_statistics)

        limits = {
            "heartbeat": int(1000 * heartbeat_timeout_seconds),
            "register": int(1000 * start_timeout_seconds),
            # At the end workers wait for each other: the first one serves the others.
            "shutdown": int(1000 * timeout_seconds),
        }
        # Each strategy of a process has keys of its own: TensorFlow's begin at 1 in each.
        cls = MultiWorkerMirroredStrategy
        self._collective_key_base, cls._next_key_base = cls._next_key_base, cls._next_key_base + 100
        tf.distribute.Strategy.__init__(
            self, _tf_private.CollectiveExtended(self, wrap, averages, limits, resolver, options)
        )
        if connections:
            _tell_others_of_exceptions(self.cluster)
            watch(self.cluster, connections, lambda name: _report(f"{name} died"))

    @property
    def cluster_resolver(self):
        return _tf_private.resolver_of(self)

    @property
    def worker_index(self):
        """Which worker this is, from 0, which is the chief."""
        return 0 if self.cluster is None else self.cluster.index

    @property
    def num_workers(self):
        return 1 if self.cluster is None else len(self.cluster.addresses)

    @property
    def state(self):
        """Trackable: ``tf.train.Checkpoint(adacomp=strategy.state)`` saves this worker's residues.

        Each worker needs a file of its own; `BackupAndRestore` sees to that.
        """
        return self._all_reduce.state

    def statistics(self):
        """What this worker's replicas sent since the last reset, as Statistics."""
        return self._all_reduce.statistics()

    def reset_statistics(self):
        """Sets what `statistics` counts back to 0."""
        self._all_reduce.reset_statistics()

    def reset_residues(self):
        """Sets this worker's residues to 0, as for weights that they do not belong to."""
        self._all_reduce.reset_residues()

    def communication(self):
        """What was exchanged for gradients since the start, as seen by this worker: a dict.

        ``exchanges``: all-gathers of packets; ``second``: those in which a second one was needed,
        because packets had become longer; ``all_reduces``: dense ones; ``bytes``: this worker's
        own, as they go into an exchange (each reaches all others); ``seconds``: spent in them,
        waiting for the slowest worker included.
        """
        return self._all_reduce.communication()

    def gather_from_workers(self, row):
        """A NumPy array [1, …] of each worker as [workers, …], on all of them."""
        if self.num_workers == 1:
            return np.asarray(row)
        local = self.num_replicas_in_sync // self.num_workers
        value = self.experimental_distribute_values_from_function(lambda _: tf.constant(row))
        return self.gather(value, axis=0).numpy()[::local]

    def run(self, fn, args=(), kwargs=None, options=None):
        result = super().run(fn, args=args, kwargs=kwargs, options=options)
        if self.num_workers > 1 and _tf_private.is_prediction(fn):
            # Keras 3 gathers predictions only where a strategy is TensorFlow's own.
            return gather_predictions(self, result)
        return result

    @property
    def _all_reduce(self):
        return _tf_private.cross_device_ops_of(self)

    def _take_statistics(self):
        return self.extended.take_assigned()


def _facts(compression, averaged):
    """What has to be equal on all workers."""
    import tf_lowprec

    return {
        "tf_lowprec": tf_lowprec.__version__,
        "TensorFlow": tf.__version__,
        "Keras": getattr(tf.keras, "__version__", "2"),  # 2.15's goes with TensorFlow's
        "compression": None if compression is None else compression.get_config(),
        "averaged": averaged,
    }


def _tell_others_of_exceptions(cluster):
    """An exception that ends this worker's program is told to all others, which raise it too."""
    previous = sys.excepthook

    def tell(kind, value, traceback):
        previous(kind, value, traceback)
        if issubclass(kind, Exception):
            _report(f"{cluster.name} failed: {kind.__name__}: {essence(str(value))}")

    sys.excepthook = tell


def _report(message):
    with contextlib.suppress(tf.errors.OpError):  # where all know already
        _tf_private.report_error(tf.errors.UNAVAILABLE, message)


def essence(message):
    """The line of an error's message that says what happened.

    TensorFlow puts a traceback of the graph before it, and the names of nodes behind it.
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    nodes = [i for i, line in enumerate(lines) if line.startswith("[[{{node")]
    lines = lines[: nodes[0]] if nodes and nodes[0] else lines
    failed = [line for line in lines if line.startswith("assertion failed")]
    if not lines:
        return ""
    return (failed or [lines[-1] if nodes else lines[0]])[0]
