"""TensorFlow's and Keras's private names: all that this package uses of them is here.

tests/distribute/test_tf_private.py says which one is gone.
"""

import functools
import threading
import weakref

import tensorflow as tf
from tensorflow.python.distribute import (
    collective_all_reduce_strategy,
    distribute_utils,
    multi_worker_util,
    values,
)
from tensorflow.python.eager import context
from tensorflow.python.framework import ops
from tensorflow.python.ops import control_flow_util, resource_variable_ops

from tf_lowprec._keras import KERAS_3

_REDUCTION = "_all_reduce_sum_gradients"
_serves = False  # whether this process has TensorFlow's server for collectives
_original = None  # (class, its method) while the hook is installed
_BUILD = "_maybe_symbolic_build"
_originals: list = []  # [(class, name, its method)] of the other hooks


def plain_zeros(shape, dtype, name, device):
    """A variable on one device, that the current strategy does not turn into a mirrored one."""
    with tf.init_scope(), tf.device(device):
        zeros = tf.zeros(shape, dtype)
        return resource_variable_ops.ResourceVariable(zeros, trainable=False, name=name)


def per_replica(tensors):
    """One tensor per local replica, which may differ, as one value; one alone as it is."""
    return distribute_utils.regroup(tuple(tensors))


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
    global _original, _originals
    if _original is not None:
        setattr(_original[0], _REDUCTION, _original[1])
        _original = None
    for cls, name, method in _originals:
        setattr(cls, name, method)
    _originals = []


def names_of_variables(optimizer):
    """{variable_key: path} of the variables that a Keras 3 optimizer trains."""
    # A tf.Variable that is none of Keras's has no path: its name has to do.
    variables = [v for v in optimizer._trainable_variables if hasattr(v, "path")]
    return {optimizer._var_key(v): v.path for v in variables}


# Several workers.


class CollectiveExtended(collective_all_reduce_strategy.CollectiveAllReduceExtended):
    """What a strategy of several workers does, with our reduction of gradients.

    Against TensorFlow's own class: `wrap` makes the cross-device op out of TensorFlow's; a reduced
    value may be a structure, as Keras 3 has it; the coordination service has time limits; and what
    the replicas assign to variables that `averages` accepts is noted.

    Args:
        strategy: the tf.distribute.Strategy around it.
        wrap: a function of TensorFlow's CollectiveAllReduce.
        averages: a function of (name, dtype, shape, trainable, aggregation) of a new variable.
        limits: milliseconds by name: heartbeat, register, shutdown.
        cluster_resolver, communication_options: as TensorFlow's strategy takes them.
    """

    def __init__(self, strategy, wrap, averages, limits, cluster_resolver, communication_options):
        global _serves
        self._averages, self._limits = averages, limits
        self._assigned = weakref.WeakKeyDictionary()
        # One server per process: later strategies of the same cluster use it.
        self._std_server_started = _serves
        super().__init__(strategy, cluster_resolver, communication_options)
        _serves = _serves or self._std_server_started
        self._cross_device_ops = wrap(self._cross_device_ops)

    def _initialize_multi_worker(self, cluster_resolver):
        # TensorFlow configures the service only where nobody has; its own limits are an hour to
        # register, and none to shut down.
        if context.context().coordination_service is None:
            _configure_coordination(cluster_resolver, self._limits)
        super()._initialize_multi_worker(cluster_resolver)

    def _reduce_to(self, reduce_op, value, destinations, options):
        if not isinstance(value, (tuple, list, dict)):
            return super()._reduce_to(reduce_op, value, destinations, options)
        if _building.active:
            # A batch, by whose shapes Keras 3 builds the model; they may differ between workers.
            return tf.nest.map_structure(
                lambda v: v.values[0] if isinstance(v, values.DistributedValues) else v, value
            )
        flat = tf.nest.flatten(value)
        ends = flat if destinations is value else [destinations] * len(flat)
        reduced = [self._reduce_one(reduce_op, *pair, options) for pair in zip(flat, ends)]
        return tf.nest.pack_sequence_as(value, reduced)

    def _reduce_one(self, reduce_op, value, destination, options):
        return super()._reduce_to(reduce_op, value, destination, options)

    def _create_variable(self, next_creator, **kwargs):
        variable = super()._create_variable(next_creator, **kwargs)
        description = (
            variable.name,
            variable.dtype,
            variable.shape,
            variable.trainable,
            variable.aggregation,
        )
        if isinstance(variable, values.DistributedVariable) and self._averages(*description):
            update = variable._update_replica

            def noting(update_fn, value, **kwargs):
                self._assigned.setdefault(_graph(), {})[id(variable)] = variable
                return update(update_fn, value, **kwargs)

            variable._update_replica = noting
        return variable

    def take_assigned(self):
        """The noted variables that were assigned in this graph since the last call, in order."""
        found, graph = {}, _graph()
        while graph is not None:
            found = {**self._assigned.pop(graph, {}), **found}
            # From a branch of tf.cond to the function that it is in.
            graph = graph.outer_graph if getattr(graph, "is_control_flow_graph", False) else None
        return list(found.values())


def _graph():
    return ops.get_default_graph() if not tf.executing_eagerly() else _EAGER


class _Eager:
    """Stands for the graph where there is none."""


_EAGER = _Eager()


def _configure_coordination(cluster_resolver, limits):
    spec = multi_worker_util.normalize_cluster_spec(cluster_resolver.cluster_spec())
    if cluster_resolver.task_type not in ("chief", "worker"):
        return
    jobs = [
        collective_all_reduce_strategy.coordination_config_pb2.CoordinatedJob(
            name=job, num_tasks=spec.num_tasks(job)
        )
        for job in ("chief", "worker")
        if job in spec.jobs
    ]
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=multi_worker_util.coordination_leader(spec),
        cluster_register_timeout_in_ms=limits["register"],
        heartbeat_timeout_in_ms=limits["heartbeat"],
        shutdown_barrier_timeout_in_ms=limits["shutdown"],
        coordinated_jobs=jobs,
    )


def serves():
    """Whether this process has started TensorFlow's server: workers have met then."""
    return _serves


def report_error(code, message):
    """Tells all workers that this one failed; their next or current exchange raises it."""
    context.context().report_error_to_cluster(code, message)


def resolver_of(strategy):
    return strategy.extended._cluster_resolver


def devices_of(collective):
    """The local devices of a CollectiveAllReduce."""
    return collective._devices


def group_size(collective):
    """The number of replicas on all workers."""
    return collective._group_size


def group_of(collective):
    """The group's key; per local device, a function that returns its ordering token."""
    launchers = collective._launchers
    return launchers[0]._group_key, [launcher._get_ordering_token for launcher in launchers]


def all_reduce(collective, reduce_op, value, replica_id, options):
    """TensorFlow's own, from within a replica."""
    return collective._all_reduce(reduce_op, value, replica_id, options)


# Backups, and Keras's side of several workers.


def copies(variable):
    """The tf.Variables of the local replicas behind a variable."""
    variable = variable.value if KERAS_3 and hasattr(variable, "path") else variable
    return list(variable.values) if isinstance(variable, values.DistributedVariable) else [variable]


def build_optimizer(optimizer, variables):
    """Makes an optimizer's variables, as its first step would."""
    if hasattr(optimizer, "build"):
        if not getattr(optimizer, "built", False):
            optimizer.build(variables)
    elif hasattr(optimizer, "_create_all_weights"):  # Keras 2's legacy optimizers
        optimizer._create_all_weights(variables)


def optimizer_variables(optimizer):
    variables = optimizer.variables
    return list(variables() if callable(variables) else variables)


class _StartingAt:
    """What Keras 2 asks a backup for."""

    def __init__(self, epoch):
        self.epoch = epoch

    def maybe_load_initial_counters_from_ckpt(self, steps_per_epoch, initial_epoch, mode):
        return max(self.epoch, initial_epoch), 0


def start_at(model, epoch):
    """Makes the `fit` that is beginning start at this epoch; None gives up what was asked for."""
    if KERAS_3:
        model._initial_epoch = epoch
    else:
        model._training_state = None if epoch is None else _StartingAt(epoch)


def is_prediction(function):
    """Whether strategy.run is called with the step of Keras 3's Model.predict."""
    return KERAS_3 and _PREDICTION in getattr(function, "__qualname__", "")


_PREDICTION = "make_predict_function.<locals>."


class _Building(threading.local):
    active = False


_building = _Building()


def install_part_hooks():
    """Corrects Keras 3 where it takes one replica's part for the whole. Acts under our ops.

    LossScaleOptimizer asks the first local replica whether its gradients are finite, before they
    are reduced: another one's overflow would reach the weights, and of several workers one would
    skip a step in which the others wait for it. And `fit` reduces the first batch over all
    workers, only to look at its shapes.
    """
    global _originals
    if not KERAS_3 or _originals:
        return
    scaling, trainer = tf.keras.optimizers.LossScaleOptimizer, _building_class()
    finite, build = scaling.check_finite, getattr(trainer, _BUILD)

    @functools.wraps(finite)
    def check_finite_everywhere(self, grads):
        here = finite(self, grads)
        replica = tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            return here
        if not hasattr(cross_device_ops_of(replica.strategy), "all_true"):
            return here
        return replica.merge_call(_all_true, args=(here,))

    @functools.wraps(build)
    def build_by_own_batch(self, *args, **kwargs):
        _building.active = True
        try:
            return build(self, *args, **kwargs)
        finally:
            _building.active = False

    scaling.check_finite = check_finite_everywhere
    setattr(trainer, _BUILD, build_by_own_batch)
    _originals = [(scaling, "check_finite", finite), (trainer, _BUILD, build)]


def _all_true(strategy, flag):
    flags = strategy.experimental_local_results(flag)
    return mirrored(cross_device_ops_of(strategy).all_true(flags))


def _building_class():
    for cls in tf.keras.Model.__mro__:
        if _BUILD in vars(cls):
            return cls
    raise RuntimeError(
        f"Keras {tf.keras.__version__} has no Model.{_BUILD} any more: use the Keras that "
        "tf_lowprec was made for (requirements/default.txt), or TF_USE_LEGACY_KERAS=1"
    )
