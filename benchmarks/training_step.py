"""A low-precision training step against the stock Keras float32 step, in one run.

    python benchmarks/training_step.py [mnist_dnn | resnet20] [--results results]

mnist_dnn: 784-1000-1000-10, batch 100, weights <2,14>, outputs <6,10>, everything stochastic.
resnet20: CIFAR-10's, batch 128, E5M2 operands, (1,6,9) accumulators in chunks of 64 in all passes.
Median of 7 timings of some steps each, taking turns; then, for mnist_dnn, what a step is made of,
each part timed by itself on the step's shapes; then where a step's time goes: of 5 profiles the one
of median length. Writes training_step_<network>.json.
"""

import argparse
import dataclasses
import pathlib

import _measure as measure
import _profile
import numpy as np
import tensorflow as tf
from rich.console import Console

import tf_lowprec as lp
from tf_lowprec.ops.wide_matmul import wide_matmul

TURNS, PROFILES = 7, 5
MNIST_BATCH = 100
WIDTHS = (784, 1000, 1000, 10)
WEIGHTS, OUTPUTS = lp.FixedPointFormat(2, 14), lp.FixedPointFormat(6, 10)
SEED = (1, 2)
STOCK = "stock Keras, float32"


@dataclasses.dataclass(frozen=True)
class Network:
    """Models to be compared: {name: a function that makes a compiled one}."""

    title: str
    models: dict
    image: tuple
    batch: int
    steps: int  # in one timing
    profiled_steps: int
    parts: object = dict  # () -> {name: function of no argument}

    def fit(self, name, steps):
        """A function that does some steps of a new model."""
        rng = np.random.default_rng(0)
        images = rng.random((self.batch * steps, *self.image), np.float32)
        labels = rng.integers(0, 10, self.batch * steps)
        data = measure.dataset(images, labels, self.batch)
        model = self.models[name]()
        return lambda: model.fit(data, verbose=0)


def compiled(model, optimizer):
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    return model


def stock_dnn():
    layers = [tf.keras.Input((28, 28)), tf.keras.layers.Flatten()]
    layers += [tf.keras.layers.Dense(n, activation="relu") for n in WIDTHS[1:-1]]
    model = tf.keras.Sequential([*layers, tf.keras.layers.Dense(WIDTHS[-1])])
    return compiled(model, tf.keras.optimizers.SGD(0.1))


def fixed_point_dnn():
    policy = lp.Policy.fixed_point(WEIGHTS, activations=OUTPUTS)
    sgd = lp.optimizers.LowPrecision(tf.keras.optimizers.SGD(0.1), WEIGHTS, seed=1)
    return compiled(lp.models.mnist_dnn(policy, seed=1), sgd)


def momentum():
    return tf.keras.optimizers.SGD(0.1, momentum=0.9)


def stock_resnet():
    return compiled(lp.models.resnet20(seed=1), momentum())  # Policy.float32(): Keras's own layers


def fp8_resnet():
    model = lp.models.resnet20(lp.Policy.fp8(9, chunk=64), seed=1)
    return compiled(model, lp.optimizers.loss_scaling(momentum(), 1000.0))


def parts():
    """What a fixed-point step consists of, as functions of no argument."""
    shapes = list(zip(WIDTHS[:-1], WIDTHS[1:]))
    x = [tf.random.normal((MNIST_BATCH, a)) for a, _ in shapes]
    w = [tf.random.normal((a, b), stddev=0.01) for a, b in shapes]
    dy = [tf.random.normal((MNIST_BATCH, b), stddev=0.01) for _, b in shapes]
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


NETWORKS = {
    "mnist_dnn": Network(
        "MNIST DNN 784-1000-1000-10, batch 100",
        {STOCK: stock_dnn, "<2,14>, outputs <6,10>, stochastic": fixed_point_dnn},
        (28, 28),
        MNIST_BATCH,
        100,
        50,
        parts,
    ),
    "resnet20": Network(
        "ResNet-20, batch 128",
        {STOCK: stock_resnet, "E5M2, (1,6,9), chunk 64": fp8_resnet},
        (32, 32, 3),
        128,
        6,
        6,
    ),
}


def median_ms(functions, calls):
    """Milliseconds per call of each function, the median over turns."""
    times = measure.median_seconds(functions, TURNS, calls, warm_up=1)
    return {name: 1000 * seconds for name, seconds in times.items()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", nargs="?", default="mnist_dnn", choices=sorted(NETWORKS))
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"))
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    network = NETWORKS[arguments.network]
    fits = {name: network.fit(name, network.steps) for name in network.models}
    steps = {name: ms / network.steps for name, ms in median_ms(fits, 1).items()}
    pieces = median_ms(network.parts(), 10)
    profiles = _profile.profile(
        {name: lambda name=name: network.fit(name, network.profiled_steps) for name in fits},
        network.profiled_steps,
        PROFILES,
    )
    table = measure.new_table(network.title, "", "ms", "ratio to the stock step")
    for name, ms in {**steps, **pieces}.items():
        table.add_row(name, f"{ms:.2f}", f"{ms / steps[STOCK]:.2f}")
    console = Console()
    console.print(table)
    console.print(_profile.table(profiles))
    values = {
        "command": f"python benchmarks/training_step.py {arguments.network}",
        "milliseconds_per_step": steps,
        "milliseconds_of_parts": pieces,
        "profile": {name: _profile.rows(parts) for name, parts in profiles.items()},
    }
    measure.write(arguments.results, f"training_step_{arguments.network}", values)


if __name__ == "__main__":
    main()
