"""Accumulator widths by search, against the closed form's plan: LeNet-300-100 on MNIST.

    python benchmarks/accumulator_search.py [--budget 12] [--repeats 3] [--seeds 5]

784-300-100-10, SGD with momentum 0.9 at 0.02, batch 128, one epoch; E5M2 operands, loss scaled by
1000, sequential sums to nearest (or what the options say), the last layer in (1,6,9). The search
judges by the accuracy on 10,000 of the training images; the table shows the test images, after
trainings from other initial weights in other orders. Finished parts are kept in
results/accumulator_search/. Writes accumulator_search.json and .png.
"""

import argparse
import json
import pathlib
import statistics

import numpy as np
import tensorflow as tf
from _measure import machine
from rich.console import Console
from rich.table import Table

import tf_lowprec as lp
from tf_lowprec.analysis import search as searching
from tf_lowprec.analysis.search import SearchResult, _Trainer


def build(seed):
    tf.keras.utils.set_random_seed(seed)
    model = tf.keras.Sequential(
        [
            tf.keras.Input((784,)),
            tf.keras.layers.Dense(300, "relu", kernel_initializer="he_normal", name="dense"),
            tf.keras.layers.Dense(100, "relu", kernel_initializer="he_normal", name="dense_1"),
            tf.keras.layers.Dense(10, name="dense_2"),
        ]
    )
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.SGD(0.02, momentum=0.9), loss, metrics=["accuracy"])
    return model


def load():
    (x, y), (x_test, y_test) = lp.datasets.mnist()
    x, x_test = (v.reshape(-1, 784).astype(np.float32) / np.float32(255) for v in (x, x_test))
    y, y_test = y.astype(np.int32), y_test.astype(np.int32)
    return (x[:50000], y[:50000]), (x[50000:], y[50000:]), (x_test, y_test)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3, help="trainings of a plan in the search")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of a plan afterwards")
    parser.add_argument("--tolerance", type=float, default=0.001, help="of accuracy")
    parser.add_argument("--rounding", default="nearest_even")
    parser.add_argument("--chunk", type=int, default=0, help="terms; 0: one sum")
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"))
    arguments = parser.parse_args()
    folder = arguments.results / "accumulator_search"
    folder.mkdir(parents=True, exist_ok=True)
    train, validation, test = load()

    kind = f"{arguments.rounding}_{arguments.chunk}_{arguments.tolerance:g}"
    path = folder / f"search_{kind}.json"
    if not path.exists():
        found = searching(
            build(0),
            train,
            arguments.budget,
            validation_data=validation,
            rounding=arguments.rounding,
            chunk=arguments.chunk or None,
            repeats=arguments.repeats,
            tolerance=arguments.tolerance,
            progress=lambda t: print(t.label, t.bits, t.metric, f"{t.loss:.4f}", flush=True),
        )
        found.to_json(path)
    found = SearchResult.from_json(path.read_text())
    found.plot(arguments.results / "accumulator_search.png")
    print(found.best.plan, flush=True)

    runs = {"float32": None, "closed form": found.reference.plan, "search": found.best.plan}
    errors = {}
    for seed in range(100, 100 + arguments.seeds):
        for name, plan in runs.items():
            part = folder / f"{kind}_{name.replace(' ', '_')}_{seed}.json"
            if not part.exists():
                trainer = _Trainer(build(seed), train, test, 128, None, "accuracy", 1000.0, [seed])
                part.write_text(json.dumps(100 - 100 * trainer.train(name, plan).metric))
            errors.setdefault(name, []).append(json.loads(part.read_text()))
            print(seed, name, errors[name][-1], flush=True)
    table = Table(title="Test error after one epoch, %")
    for column in ("plan", "accumulator bits", "mean", "to closed form", "each"):
        table.add_column(column, justify="right")
    bits = {"float32": "", "closed form": found.reference.bits, "search": found.best.bits}
    for name, values in errors.items():
        # Paired: the same initial weights, the same batches.
        apart = [v - reference for v, reference in zip(values, errors["closed form"], strict=True)]
        difference = f"{statistics.mean(apart):+.2f}"
        if len(apart) > 1 and any(apart):
            difference += f" +- {statistics.stdev(apart) / len(apart) ** 0.5:.2f}"
        each = " ".join(f"{v:.2f}" for v in values)
        table.add_row(name, str(bits[name]), f"{statistics.mean(values):.2f}", difference, each)
    Console(width=100).print(table)
    record = {
        "command": "python benchmarks/accumulator_search.py "
        f"--budget {arguments.budget} --repeats {arguments.repeats} --seeds {arguments.seeds} "
        f"--tolerance {arguments.tolerance:g} "
        f"--rounding {arguments.rounding} --chunk {arguments.chunk}",
        "machine": machine(),
        "test_error_percent": errors,
        "bits": bits,
        "search": json.loads(found.to_json()),
    }
    (arguments.results / "accumulator_search.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
