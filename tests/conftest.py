"""Two logical CPUs, so that two-replica tests run anywhere, and the ways to call a function."""

import functools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration(), tf.config.LogicalDeviceConfiguration()],
)


@functools.cache
def _strategy():
    # One for all tests: collectives of several strategies in one process get mixed up.
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture
def two_replicas():
    """A MirroredStrategy over two logical CPUs."""
    return _strategy()


def _in_replicas(function):
    strategy = _strategy()

    def call(*args):
        results = strategy.run(tf.function(function), args)
        return tf.nest.map_structure(lambda r: strategy.experimental_local_results(r)[0], results)

    return call


@pytest.fixture(params=["eager", "graph", "replicas"])
def run(request):
    """Calls a function eagerly, in tf.function, or on two replicas (returns the first's result)."""
    return {"eager": lambda f: f, "graph": tf.function, "replicas": _in_replicas}[request.param]
