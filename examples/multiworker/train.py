"""One of the workers that train MNIST together, sending AdaComp packets in place of gradients.

In two terminals, with 0 and 1 for the index (or `make demo-multiworker`, which does both):

    export TF_CONFIG='{"cluster": {"worker": ["localhost:12345", "localhost:12346"]},
                       "task": {"type": "worker", "index": 0}}'
    python examples/multiworker/train.py

On two machines put their addresses in place of localhost. Stop it, start it again: with --backup it
goes on from the last epoch that all workers finished.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

import tf_lowprec as lp

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--images", type=int, default=20000)
parser.add_argument("--dense", action="store_true", help="send all gradients as they are")
parser.add_argument("--backup", help="a folder for backups")
arguments = parser.parse_args()

# Before all other TensorFlow calls: it starts the server that the other workers talk to.
strategy = lp.distribute.MultiWorkerMirroredStrategy(
    compression=None if arguments.dense else lp.distribute.AdaComp()
)

(x, y), (x_test, y_test) = lp.datasets.mnist()
x, y = x[: arguments.images] / 255.0, y[: arguments.images]

tf.keras.utils.set_random_seed(1)
with strategy.scope():
    model = tf.keras.Sequential(
        [
            tf.keras.Input((28, 28)),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(1000, activation="relu"),
            tf.keras.layers.Dense(1000, activation="relu"),
            tf.keras.layers.Dense(10),
        ]
    )
    model.compile(
        tf.keras.optimizers.SGD(0.05, momentum=0.9),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

callbacks = [lp.distribute.BackupAndRestore(arguments.backup)] if arguments.backup else []
model.fit(
    x,
    y,
    batch_size=128,  # of all workers together
    epochs=arguments.epochs,
    shuffle=False,  # the same order in each epoch: a restart trains on the same batches
    validation_data=(x_test / 255.0, y_test),
    callbacks=callbacks,
    verbose=2,
)

if strategy.worker_index == 0:
    print(strategy.statistics().table())
    exchanged = strategy.communication()
    steps = exchanged["exchanges"] + exchanged["all_reduces"]
    size, dense = exchanged["bytes"] / max(steps, 1), 4 * model.count_params()
    print(f"In each of {steps} steps this worker gave {size:,.0f} bytes to the exchange,")
    print(f"where float32 gradients have {dense:,}: {dense / size:.0f} times as many.")
