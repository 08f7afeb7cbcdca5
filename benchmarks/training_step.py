"""A fixed-point training step of the MNIST DNN against the stock Keras float32 step, in one run.

    python benchmarks/training_step.py [--results results]

Median of 7 timings of 100 steps each, taking turns; then what a step is made of, each part timed by
itself on the step's shapes. Writes training_step.json.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import time

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import tf_lowprec as lp
from tf_lowprec.ops.wide_matmul import wide_matmul

BATCH, STEPS, TURNS = 100, 100, 7
WIDTHS = (784, 1000, 1000, 10)
WEIGHTS, OUTPUTS = lp.FixedPointFormat(2, 14), lp.FixedPointFormat(6, 10)
SEED = (1, 2)


def stock_model():
    layers = [tf.keras.Input((28, 28)), tf.keras.layers.Flatten()]
    layers += [tf.keras.layers.Dense(n, activation="relu") for n in WIDTHS[1:-1]]
    return tf.keras.Sequential([*layers, tf.keras.layers.Dense(WIDTHS[-1])])


def compiled(model, optimizer):
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    return model


def median_ms(functions, calls):
    """Milliseconds per call of each function, the median over turns."""
    times = {name: [] for name in functions}
    for turn in range(TURNS + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(calls):
                function()
            if turn:
                times[name].append(1000 * (time.perf_counter() - start) / calls)
    return {name: statistics.median(t) for name, t in times.items()}


def parts():
    """What a fixed-point step consists of, as functions of no argument."""
    shapes = list(zip(WIDTHS[:-1], WIDTHS[1:]))
    x = [tf.random.normal((BATCH, a)) for a, _ in shapes]
    w = [tf.random.normal((a, b), stddev=0.01) for a, b in shapes]
    dy = [tf.random.normal((BATCH, b), stddev=0.01) for _, b in shapes]
    x = [lp.quantize(t, OUTPUTS) for t in x]
    w, dy = ([lp.quantize(t, WEIGHTS) for t in ts] for ts in (w, dy))

    def products(multiply):
        @tf.function
        def run():
            results = []
            for i in range(len(shapes)):
                results.append(multiply(x[i], w[i], OUTPUTS, WEIGHTS, False, False))
                results.append(multiply(x[i], dy[i], OUTPUTS, WEIGHTS, True, False))
                if i:  # the first layer has no BWD
                    results.append(multiply(dy[i], w[i], WEIGHTS, WEIGHTS, False, True))
            return [tf.reduce_max(r) for r in results]

        return run

    def in_float64(a, b, a_format, b_format, *transposes):
        return tf.matmul(tf.cast(a, tf.float64), tf.cast(b, tf.float64), *transposes)

    def in_float32(a, b, a_format, b_format, *transposes):
        return tf.matmul(a, b, *transposes)

    @tf.function
    def update():
        rounded = []
        for t in w:
            step = lp.quantize(t, WEIGHTS, "stochastic", SEED)
            rounded.append(lp.quantize(t + step, WEIGHTS, "stochastic", SEED))
        return [tf.reduce_max(r) for r in rounded]

    return {
        "8 products, float32": products(in_float32),
        "8 products, exact as integers": products(wide_matmul),
        "8 products, exact in float64": products(in_float64),
        "weight update, two roundings": update,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"))
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    images = rng.random((BATCH * STEPS, 28, 28), np.float32)
    labels = rng.integers(0, 10, BATCH * STEPS)
    sgd = tf.keras.optimizers.SGD
    policy = lp.Policy.fixed_point(WEIGHTS, activations=OUTPUTS)
    models = {
        "stock Keras, float32": compiled(stock_model(), sgd(0.1)),
        "<2,14>, outputs <6,10>, stochastic": compiled(
            lp.models.mnist_dnn(policy, seed=1),
            lp.optimizers.LowPrecision(sgd(0.1), WEIGHTS, seed=1),
        ),
    }

    def epoch(model):
        return lambda: model.fit(images, labels, batch_size=BATCH, shuffle=False, verbose=0)

    steps = median_ms({name: epoch(model) for name, model in models.items()}, 1)
    steps = {name: ms / STEPS for name, ms in steps.items()}
    pieces = median_ms(parts(), 10)
    stock = steps["stock Keras, float32"]
    table = Table(title="MNIST DNN 784-1000-1000-10, batch 100")
    for column in ("", "ms", "ratio to the stock step"):
        table.add_column(column, justify="left" if not column else "right")
    for name, ms in {**steps, **pieces}.items():
        table.add_row(name, f"{ms:.2f}", f"{ms / stock:.2f}")
    Console().print(table)
    record = {
        "command": "python benchmarks/training_step.py",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, TensorFlow {tf.__version__}",
        "milliseconds_per_step": steps,
        "milliseconds_of_parts": pieces,
    }
    path = arguments.results / "training_step.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"Wrote {path}")


if __name__ == "__main__":
    main()
