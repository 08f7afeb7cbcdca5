"""What the benchmarks share: options, timing in turns, and the files they write."""

import argparse
import json
import os
import pathlib
import platform
import random
import statistics
import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import tensorflow as tf
from rich.table import Table


def options(description, quick=None):
    """The command line's --results, a folder that then exists, and --quick if it is described."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if quick is not None:
        parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"))
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    return arguments


def machine():
    return f"{platform.machine()}, {os.cpu_count()} cores, TensorFlow {tf.__version__}"


def median_seconds(functions, repetitions, calls=1, warm_up=2, shuffle=False):
    """{name: seconds of one call of the function}, the median over turns.

    The contenders take turns, so that a machine that slows down slows all.

    Args:
        functions: {name: a function of no argument}.
        repetitions: turns that count.
        calls: that make up one timing, for what is short.
        warm_up: turns before those.
        shuffle: whether the order changes from turn to turn, so that none always follows the same.
    """
    times = {name: [] for name in functions}
    order, rng = list(functions.items()), random.Random(0)
    for turn in range(warm_up + repetitions):
        if shuffle:
            rng.shuffle(order)
        for name, function in order:
            start = time.perf_counter()
            for _ in range(calls):
                function()
            if turn >= warm_up:
                times[name].append((time.perf_counter() - start) / calls)
    return {name: statistics.median(t) for name, t in times.items()}


def dataset(x, y, batch):
    """A tf.data.Dataset for timing `fit` by: without tuning.

    With it, and so with arrays, `fit` returns when tf.data's tuner next looks up: up to five
    seconds after the last step.
    """
    tuning = tf.data.Options()
    tuning.autotune.enabled = False
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch).with_options(tuning)


def new_table(title, *columns, left=("",)):
    """A table whose columns stand to the right, but for those in `left`."""
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right")
    return table


def new_figure(width, height):
    """(figure, axes)."""
    return plt.subplots(figsize=(width, height), layout="constrained")


def write(folder, name, values, figure=None):
    """Writes NAME.json, the benchmark's command and machine before its values, and NAME.png."""
    path = folder / f"{name}.json"
    record = {"command": f"python benchmarks/{name}.py", "machine": machine(), **values}
    path.write_text(json.dumps(record, indent=1) + "\n")
    if figure is None:
        print(f"Wrote {path}")
        return
    figure.savefig(path.with_suffix(".png"), dpi=120)
    plt.close(figure)
    print(f"Wrote {path} and {path.with_suffix('.png')}")
