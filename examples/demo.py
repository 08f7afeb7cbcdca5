"""MNIST in 16-bit fixed point: rounding to nearest stalls, stochastic rounding follows float32.

Trains the network 784-1000-1000-10 of Gupta et al., "Deep Learning with Limited Numerical
Precision" (2015), four times, with weights, biases, activations, back-propagated errors and
updates in fixed point. Prints a table; writes demo.json and demo.png into the results folder.

    python examples/demo.py --epochs 3 --results results
"""

import argparse
import json
import os
import pathlib
import platform
import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

import tf_lowprec as lp

BATCH = 100
LEARNING_RATE = 0.1

# (name, weights' format, layer outputs' format, rounding); "nearest" is the paper's: ties go up.
RUNS = [
    ("float32", None, None, None),
    ("<8,8> nearest", (8, 8), (8, 8), "nearest_up"),
    ("<8,8> stochastic", (8, 8), (8, 8), "stochastic"),
    ("<2,14> stochastic", (2, 14), (6, 10), "stochastic"),
]


def build(weights, activations, rounding, initial_std, seed):
    """The compiled model of one run."""
    optimizer = tf.keras.optimizers.SGD(LEARNING_RATE)
    policy = lp.Policy.float32()
    if weights is not None:
        weights = lp.FixedPointFormat(*weights)
        policy = lp.Policy.fixed_point(
            weights, rounding=rounding, activations=lp.FixedPointFormat(*activations)
        )
        optimizer = lp.optimizers.LowPrecision(optimizer, weights, rounding=rounding, seed=seed)
    model = lp.models.mnist_dnn(policy, initial_std=initial_std, seed=seed)
    model.compile(
        optimizer,
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


class ShowProgress(tf.keras.callbacks.Callback):
    """Moves the progress bar, and notes each epoch's test error."""

    def __init__(self, progress, task, test_data, on_epoch):
        super().__init__()
        self.progress, self.task = progress, task
        self.test_data, self.on_epoch = test_data, on_epoch

    def on_train_batch_end(self, batch, logs=None):
        self.progress.advance(self.task)

    def on_epoch_end(self, epoch, logs=None):
        images, labels = self.test_data
        # Inference runs the quantized forward pass, rounded to nearest.
        _, accuracy = self.model.evaluate(images, labels, batch_size=500, verbose=0)
        self.on_epoch(round(100 * (1 - accuracy), 2))


def processor():
    """The CPU's name."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def table(runs):
    """The test errors, one row per run."""
    view = Table(title="MNIST 784-1000-1000-10, test error in %")
    view.add_column("run", no_wrap=True)
    view.add_column("weights")
    view.add_column("outputs")
    epochs = max((len(r["test_error_percent"]) for r in runs), default=0)
    for epoch in range(epochs):
        view.add_column(f"epoch {epoch + 1}" if epochs <= 5 else str(epoch + 1), justify="right")
    view.add_column("s", justify="right")
    for run in runs:
        errors = [f"{e:.2f}" for e in run["test_error_percent"]]
        view.add_row(
            run["name"],
            run["weights_format"],
            run["activations_format"],
            *errors,
            *[""] * (len(view.columns) - 4 - len(errors)),
            f"{run['seconds']:.0f}",
        )
    return view


def plot(runs, path):
    """Test error against epoch, on a logarithmic axis: nearest and stochastic are far apart."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    styles = ["k-o", "C3-s", "C0-^", "C2-D"]
    longest = 1
    for run, style in zip(runs, styles):
        errors = run["test_error_percent"]
        if not errors:
            continue
        longest = max(longest, len(errors))
        axes.plot(range(1, len(errors) + 1), errors, style, linewidth=2, markersize=7, alpha=0.85)
        axes.annotate(
            f"{run['name']}: {errors[-1]:.2f} %",
            (len(errors), errors[-1]),
            xytext=(10, 0),
            textcoords="offset points",
            color="k" if style[0] == "k" else style[:2],
            va="center",
        )
    _spread_labels(axes)
    axes.set_yscale("log")
    axes.set_ylim(1, 100)
    axes.set_yticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.set_xticks(range(1, longest + 1) if longest <= 10 else None)
    axes.set_xlim(0.8 if longest > 1 else 0.5, longest + 0.62 * max(longest - 1, 1))
    axes.set_xlabel("epoch")
    axes.set_ylabel("test error, %")
    axes.set_title("16-bit fixed point on MNIST: stochastic rounding trains, nearest stalls")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _spread_labels(axes, gap=16):
    """Moves labels that would overlap apart, in points."""
    labels = sorted(axes.texts, key=lambda text: text.xy[1])
    last = None
    for label in labels:
        # A decade of the axis is about 150 points high.
        height = 150 * np.log10(max(label.xy[1], 1))
        wanted = height if last is None else max(height, last + gap)
        label.xyann = (10, wanted - height)
        last = wanted


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each of the four runs")
    parser.add_argument("--results", type=pathlib.Path, default="results", help="output folder")
    parser.add_argument("--seed", type=int, default=1, help="initial weights, order, rounding")
    parser.add_argument(
        "--initial-std", type=float, default=0.01, help="standard deviation of initial weights"
    )
    arguments = parser.parse_args()
    if arguments.epochs < 1:
        parser.error(f"--epochs {arguments.epochs}: must be at least 1")
    arguments.results.mkdir(parents=True, exist_ok=True)

    console = Console()
    (x_train, y_train), (x_test, y_test) = lp.datasets.mnist()
    x_train, x_test = x_train / np.float32(255), x_test / np.float32(255)
    steps = len(x_train) // BATCH

    results = {
        "command": f"make demo EPOCHS={arguments.epochs}",
        "machine": f"{processor()}, {os.cpu_count()} cores, TensorFlow {tf.__version__}",
        "batch": BATCH,
        "learning_rate": LEARNING_RATE,
        "initial_std": arguments.initial_std,
        "runs": [],
    }

    def save():
        path = arguments.results / "demo.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(results, indent=1) + "\n")
        partial.replace(path)

    columns = [
        TextColumn("{task.description:18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    ]
    interrupted = False
    try:
        with Progress(*columns, console=console) as progress:
            for name, weights, activations, rounding in RUNS:
                tf.keras.utils.set_random_seed(arguments.seed)
                run = {
                    "name": name,
                    "weights_format": "float32" if weights is None else name.split()[0],
                    "activations_format": "float32"
                    if activations is None
                    else str(lp.FixedPointFormat(*activations)),
                    "rounding": rounding,
                    "seed": arguments.seed,
                    "test_error_percent": [],
                    "seconds": 0.0,
                }
                results["runs"].append(run)
                task = progress.add_task(name, total=steps * arguments.epochs, note="")
                start = time.perf_counter()

                def on_epoch(error, run=run, task=task, start=start, progress=progress):
                    run["test_error_percent"].append(error)
                    run["seconds"] = round(time.perf_counter() - start, 1)
                    progress.update(task, note=f"test error {error:.2f} %")
                    save()

                model = build(weights, activations, rounding, arguments.initial_std, run["seed"])
                model.fit(
                    x_train,
                    y_train,
                    batch_size=BATCH,
                    epochs=arguments.epochs,
                    verbose=0,
                    callbacks=[ShowProgress(progress, task, (x_test, y_test), on_epoch)],
                )
    except KeyboardInterrupt:
        interrupted = True
        console.print("Interrupted: what is done follows, and is saved.")

    save()
    console.print(table(results["runs"]))
    plot(results["runs"], arguments.results / "demo.png")
    console.print(f"Wrote {arguments.results}/demo.json and {arguments.results}/demo.png")
    return 130 if interrupted else 0


if __name__ == "__main__":
    raise SystemExit(main())
