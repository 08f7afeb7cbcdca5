"""Two replicas whose gradients AdaComp reduces."""

import pytest
import tensorflow as tf

import tf_lowprec as lp


@pytest.fixture
def adacomp():
    """A function of AdaCompAllReduce's arguments: (the op, a strategy of two replicas with it)."""

    def make(*args, **kwargs):
        all_reduce = lp.distribute.AdaCompAllReduce(*args, **kwargs)
        devices = ["CPU:0", "CPU:1"]
        return all_reduce, tf.distribute.MirroredStrategy(devices, cross_device_ops=all_reduce)

    return make
