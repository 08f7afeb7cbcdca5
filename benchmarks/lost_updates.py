"""How many weight updates rounding to nearest loses, in the first epoch of the MNIST networks.

    python benchmarks/lost_updates.py mnist_dnn mnist_cnn

The trainings are those of fixed_point.py. An update is what SGD adds to a weight: -lr gradient, or
the momentum. It is lost in a format if it is not 0 and rounds to 0. Every update of the epoch is
counted, by layer (its kernel): in the float32 training, where nothing is rounded, for every number
of fractional bits (FL); in the trainings rounded to nearest, and in two that round the updates the
other way than the layers, for their own. Writes <network>_lost_updates.json.
"""

import argparse
import dataclasses
import functools
import json
import pathlib

import numpy as np
import tensorflow as tf
from _measure import machine
from fixed_point import NETWORKS, SEED, build
from rich.console import Console
from rich.table import Table

import tf_lowprec as lp

FRACTIONAL_BITS = (8, 9, 10, 14)
# Where nearest fails and stochastic trains.
MIXED = {"mnist_dnn": "<6,10> nearest", "mnist_cnn": "<7,9> nearest"}


class CountingSGD(tf.keras.optimizers.SGD):
    """SGD that counts its steps.

    counts[i], of variable i: elements, those not 0, the sum of magnitudes; then, for each FL, lost
    elements and the sum of their magnitudes.
    """

    def __init__(self, *args, counts, **kwargs):
        super().__init__(*args, **kwargs)
        self.counts = counts

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, learning_rate)
        index = self._get_variable_index(variable)
        step = self.momentums[index] if self.momentum else -learning_rate * gradient
        step = tf.convert_to_tensor(step)
        magnitude = tf.cast(tf.abs(step), tf.float64)
        row = [tf.size(step), tf.math.count_nonzero(step), tf.reduce_sum(magnitude)]
        for bits in FRACTIONAL_BITS:
            rounded = lp.quantize(step, lp.FixedPointFormat(2, bits), "nearest_up")
            lost = (step != 0) & (rounded == 0)
            row.append(tf.math.count_nonzero(lost))
            row.append(tf.reduce_sum(tf.where(lost, magnitude, 0)))
        row = tf.stack([tf.cast(x, tf.float64) for x in row])
        self.counts.scatter_add(tf.IndexedSlices(row[None], [index]))


def count(network, run, train, test):
    """One epoch of a run: its test error, and the counts of each layer's kernel."""
    tf.keras.utils.set_random_seed(SEED)
    counts = tf.Variable(tf.zeros([8, 3 + 2 * len(FRACTIONAL_BITS)], tf.float64))
    model = build(network, run, sgd=functools.partial(CountingSGD, counts=counts))
    order = np.random.default_rng((SEED, 0)).permutation(len(train[0]))
    model.fit(train[0][order], train[1][order], batch_size=100, shuffle=False, verbose=0)
    _, accuracy = model.evaluate(*test, batch_size=500, verbose=0)
    bits = FRACTIONAL_BITS if run.weights is None else (run.weights[1],)
    layers = []
    for variable, row in zip(model.trainable_variables, counts.numpy()):
        if len(variable.shape) < 2:  # a bias
            continue
        elements, nonzero, total, *lost = row
        lost = dict(zip(FRACTIONAL_BITS, zip(lost[::2], lost[1::2])))
        layers.append(
            {
                "shape": "x".join(str(n) for n in variable.shape),
                "zero_percent": 100 * (1 - nonzero / elements),
                "lost_percent": {b: 100 * lost[b][0] / nonzero if nonzero else None for b in bits},
                "lost_magnitude_percent": {
                    b: 100 * lost[b][1] / total if total else None for b in bits
                },
            }
        )
    return {
        "name": run.name,
        "test_error_percent": round(100 * (1 - accuracy), 2),
        "layers": layers,
    }


def runs_of(name):
    """float32, the runs rounded to nearest, and two that mix the roundings."""
    runs = [r for r in NETWORKS[name].runs if r.rounding in (None, "nearest_up")]
    (nearest,) = [r for r in runs if r.name == MIXED[name]]
    for rounding, update in (("nearest", "stochastic"), ("stochastic", "nearest")):
        mode = {"nearest": "nearest_up", "stochastic": "stochastic"}
        runs.append(
            dataclasses.replace(
                nearest,
                name=nearest.name.replace("nearest", f"{rounding}, updates {update}"),
                rounding=mode[rounding],
                update_rounding=mode[update],
            )
        )
    return runs


def percent(value):
    return "" if value is None else f"{value:.1f}"


def report(name, runs, console):
    title = f"{name}, first epoch: updates that round to 0, % of those not 0 (% of their sum)"
    table = Table(title=title)
    for column in ("run", "error", "kernel", "are 0, %", *(f"FL {b}" for b in FRACTIONAL_BITS)):
        table.add_column(column, justify="left" if column in ("run", "kernel") else "right")
    for run in runs:
        for i, layer in enumerate(run["layers"]):
            lost, magnitude = layer["lost_percent"], layer["lost_magnitude_percent"]
            table.add_row(
                "" if i else run["name"],
                "" if i else f"{run['test_error_percent']:.2f}",
                layer["shape"],
                f"{layer['zero_percent']:.1f}",
                *(
                    f"{percent(lost[b])} ({percent(magnitude[b])})" if b in lost else ""
                    for b in FRACTIONAL_BITS
                ),
            )
    console.print(table)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("mnist_dnn", "mnist_cnn")
    parser.add_argument("networks", nargs="+", choices=names, help="what to train")
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results/fixed_point"))
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    console = Console()
    for name in arguments.networks:
        network = NETWORKS[name]
        train, test = network.data()
        runs = runs_of(name)
        found = [count(network, run, train, test) for run in runs]
        report(name, found, console)
        result = {
            "command": f"python benchmarks/lost_updates.py {name}",
            "machine": machine(),
            "seed": SEED,
            "runs": found,
        }
        path = arguments.results / f"{name}_lost_updates.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"Wrote {path}")


if __name__ == "__main__":
    main()
