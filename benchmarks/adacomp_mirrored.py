"""The bytes of AdaComp's packets under MirroredStrategy: the MNIST DNN on two replicas.

    python benchmarks/adacomp_mirrored.py [--steps 200] [--encoding plain]

784-1000-1000-10, SGD with momentum 0.9, batch 128 on two logical CPUs, by Keras's fit. Prints what
`all_reduce.statistics()` read from the packets.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from rich.console import Console

import tf_lowprec as lp

BATCH = 128


def train(all_reduce, steps):
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    (x, y), _ = lp.datasets.mnist()
    count = np.arange(steps * BATCH) % len(x)
    tf.keras.utils.set_random_seed(1)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=all_reduce)
    with strategy.scope():
        model = lp.models.mnist_dnn(seed=1)
        model.compile(
            tf.keras.optimizers.SGD(0.05, momentum=0.9),
            tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
    images = x[count].astype(np.float32) / 255
    model.fit(images, y[count].astype(np.int32), batch_size=BATCH, shuffle=False)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--encoding", default="plain", choices=("plain", "entropy"))
    arguments = parser.parse_args()
    all_reduce = lp.distribute.AdaCompAllReduce(encoding=arguments.encoding)
    train(all_reduce, arguments.steps)
    Console().print(all_reduce.statistics().table())


if __name__ == "__main__":
    main()
