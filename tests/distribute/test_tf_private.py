"""TensorFlow's and Keras's private names are still there, and the hook goes as it came."""

import importlib

import pytest
import tensorflow as tf
from compat import needs_keras_3

import tf_lowprec as lp
from tf_lowprec.distribute import _tf_private

NAMES = [
    "tensorflow.python.distribute.collective_all_reduce_strategy:coordination_config_pb2",
    *(
        "tensorflow.python.distribute.collective_all_reduce_strategy:CollectiveAllReduceExtended."
        + name
        for name in ("_initialize_multi_worker", "_reduce_to", "_create_variable")
    ),
    "tensorflow.python.distribute.distribute_utils:regroup",
    "tensorflow.python.distribute.multi_worker_util:coordination_leader",
    "tensorflow.python.distribute.multi_worker_util:normalize_cluster_spec",
    "tensorflow.python.distribute.values:DistributedVariable._update_replica",
    "tensorflow.python.distribute.values:Mirrored",
    "tensorflow.python.eager.context:context",
    "tensorflow.python.framework.ops:get_default_graph",
    "tensorflow.python.ops.control_flow_util:GraphOrParentsInXlaContext",
    "tensorflow.python.ops.resource_variable_ops:ResourceVariable",
    "tensorflow:__internal__.tracking.Trackable._serialize_to_tensors",
    "tensorflow:__internal__.tracking.Trackable._restore_from_tensors",
    "tensorflow:__internal__.distribute.interim.maybe_merge_call",
]


@pytest.mark.parametrize("name", NAMES)
def test_private_name_is_there(name):
    module, path = name.split(":")
    thing = importlib.import_module(module)
    for part in path.split("."):
        assert hasattr(thing, part), f"TensorFlow {tf.__version__} has no {name} any more"
        thing = getattr(thing, part)


def test_strategies_and_variables_have_what_we_read(two_replicas):
    own = lp.distribute.AdaCompAllReduce()
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=own)
    message = (
        f"TensorFlow {tf.__version__}: a strategy's extended has no _cross_device_ops any more"
    )
    assert _tf_private.cross_device_ops_of(strategy) is own, message
    assert _tf_private.cross_device_ops_of(two_replicas) is not own
    assert _tf_private.cross_device_ops_of(tf.distribute.get_strategy()) is None
    with strategy.scope():
        variable = tf.Variable([1.0])
    assert hasattr(variable, "_unique_id"), f"TensorFlow {tf.__version__}: no Variable._unique_id"


@needs_keras_3
def test_optimizers_have_what_low_precision_reads():
    optimizer = tf.keras.optimizers.SGD()
    for name in (
        "_apply_weight_decay",
        "_distribution_strategy",
        "_trainable_variables_indices",
        "_use_weight_decay",
        "_var_key",
    ):
        message = f"Keras {tf.keras.__version__}: an optimizer has no {name} any more"
        assert hasattr(optimizer, name), message


def test_several_workers_have_what_we_read():
    """Of TensorFlow's strategy, its context, its launchers and its variables."""
    context = _tf_private.context.context()
    strategy = lp.distribute.MultiWorkerMirroredStrategy(lp.distribute.AdaComp())
    collective = strategy._all_reduce._dense
    with strategy.scope():
        variable = tf.Variable([1.0], trainable=False, name="moving_mean")
    for thing, names in {
        "eager context": (
            context,
            ["coordination_service", "configure_coordination_service", "report_error_to_cluster"],
        ),
        "strategy.extended": (strategy.extended, ["_cluster_resolver", "_std_server_started"]),
        "CollectiveAllReduce": (
            collective,
            ["_all_reduce", "_devices", "_group_size", "_launchers"],
        ),
        "CollectiveReplicaLauncher": (
            collective._launchers[0],
            ["_group_key", "_get_ordering_token"],
        ),
        "variable of a strategy": (variable, ["_update_replica", "aggregation", "values"]),
    }.items():
        owner, needed = names
        for name in needed:
            assert hasattr(owner, name), f"TensorFlow {tf.__version__}: {thing} has no {name}"
    assert _tf_private.resolver_of(strategy) is strategy.cluster_resolver


def test_assigned_statistics_are_noted():
    strategy = lp.distribute.MultiWorkerMirroredStrategy(lp.distribute.AdaComp())
    with strategy.scope():
        make = tf.Variable
        moving = make([1.0], trainable=False, name="moving_mean")
        others = [
            make([1.0], trainable=False, name="state"),
            make([1.0], trainable=True, name="moving_mean"),
            make(1.0, trainable=False, name="moving_mean"),
            make([1], trainable=False, name="moving_mean"),
        ]

    @tf.function
    def assign():
        strategy.run(lambda: [v.assign(v + v.dtype.as_numpy_dtype(1)) for v in (moving, *others)])
        return [v is moving for v in strategy.extended.take_assigned()]

    assert assign() == [True]
    assert strategy.extended.take_assigned() == []


@needs_keras_3
def test_part_hooks_go_as_they_came(without_hook):
    scaling, trainer = tf.keras.optimizers.LossScaleOptimizer, _tf_private._building_class()
    originals = scaling.check_finite, trainer._maybe_symbolic_build
    _tf_private.install_part_hooks()
    _tf_private.install_part_hooks()
    assert scaling.check_finite is not originals[0]
    assert trainer._maybe_symbolic_build is not originals[1]
    _tf_private.remove_gradient_hook()
    assert (scaling.check_finite, trainer._maybe_symbolic_build) == originals


@needs_keras_3
def test_prediction_step_is_known_by_its_name(two_replicas):
    """Which is how strategy.run tells it from other steps."""
    asked = []
    with two_replicas.scope():
        model = tf.keras.Sequential([tf.keras.Input((2,)), tf.keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    run = two_replicas.run
    two_replicas.run = lambda f, *a, **k: (
        asked.append(_tf_private.is_prediction(f)) or run(f, *a, **k)
    )
    try:
        model.predict(tf.ones((4, 2)), verbose=0)
        predicting = list(asked)
        model.fit(tf.ones((4, 2)), tf.ones((4, 1)), verbose=0)
        model.evaluate(tf.ones((4, 2)), tf.ones((4, 1)), verbose=0)
    finally:
        del two_replicas.run
    assert predicting and all(predicting)
    assert len(asked) > len(predicting) and not any(asked[len(predicting) :])


@pytest.fixture
def without_hook():
    _tf_private.remove_gradient_hook()
    yield
    _tf_private.install_gradient_hook(_acts())
    _tf_private.install_part_hooks()


def _acts():
    from tf_lowprec.distribute import all_reduce

    return all_reduce._acts


def reduction():
    return tf.keras.optimizers.SGD._all_reduce_sum_gradients


@needs_keras_3
def test_hook_is_installed_once_and_removed(without_hook):
    original = reduction()
    lp.distribute.AdaCompAllReduce()
    hooked = reduction()
    assert hooked is not original
    lp.distribute.AdaCompAllReduce()
    assert reduction() is hooked
    _tf_private.remove_gradient_hook()
    assert reduction() is original
    _tf_private.remove_gradient_hook()
    assert reduction() is original


@needs_keras_3
def test_hook_acts_only_under_our_op(without_hook):
    asked = []
    _tf_private.install_gradient_hook(lambda strategy, optimizer: asked.append(strategy) or False)
    variable = tf.keras.Variable([1.0])
    tf.keras.optimizers.SGD(1.0).apply_gradients([(tf.constant([0.25]), variable)])
    assert variable.numpy() == [0.75]
    assert asked == [tf.distribute.get_strategy()]
    _tf_private.remove_gradient_hook()


@needs_keras_3
def test_a_keras_without_the_method_is_named(without_hook, monkeypatch):
    monkeypatch.setattr(_tf_private, "_REDUCTION", "_gone")
    with pytest.raises(RuntimeError, match=r"Keras .* has no Optimizer\._gone"):
        lp.distribute.AdaCompAllReduce()


def test_other_strategies_are_left_alone(two_replicas):
    own = lp.distribute.AdaCompAllReduce()
    with two_replicas.scope():
        model = tf.keras.Sequential([tf.keras.Input((8,)), tf.keras.layers.Dense(64)])
        model.compile(tf.keras.optimizers.SGD(0.1), "mse")
    model.fit(tf.ones((8, 8)), tf.ones((8, 64)), batch_size=4, verbose=0)
    assert len(own.statistics()) == 0
