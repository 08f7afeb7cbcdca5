"""What lp.Watch costs at its default sampling, as a ratio of training times in one run.

usage: python benchmarks/watch.py [--epochs 4]

Trains Gupta et al.'s fully connected network on made data of MNIST's size, with and without the
callback, in turn, after a warm-up; prints the median times of an epoch and their ratio.
"""

import argparse
import statistics
import time

import _measure as measure
import numpy as np
import tensorflow as tf

import tf_lowprec as lp


def train(model, data, epochs, callbacks):
    start = time.perf_counter()
    model.fit(data, epochs=epochs, verbose=0, callbacks=callbacks)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12800, 784)).astype(np.float32), rng.integers(0, 10, 12800)
    data = measure.dataset(x, y, 128)
    policy = lp.Policy.fp8(9, chunk=64)
    model = tf.keras.Sequential(
        [
            tf.keras.Input((784,)),
            lp.layers.Dense(1000, "relu", precision=policy),
            lp.layers.Dense(1000, "relu", precision=policy),
            lp.layers.Dense(10, precision=policy),
        ]
    )
    model.compile("sgd", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    sample = x[:32], y[:32]
    train(model, data, 1, [lp.Watch(sample, every=50)])
    plain, watched, observations = [], [], 0
    for _ in range(options.rounds):
        plain.append(train(model, data, options.epochs, []))
        watch = lp.Watch(sample)
        watched.append(train(model, data, options.epochs, [watch]))
        observations += len(watch.history)
    without, with_watch = (statistics.median(times) / options.epochs for times in (plain, watched))
    print(f"epoch of 100 steps: {without:.2f} s, watched {with_watch:.2f} s")
    print(
        f"ratio {with_watch / without:.3f}, {observations / options.rounds:.1f} observations each"
    )


if __name__ == "__main__":
    main()
