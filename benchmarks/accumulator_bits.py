"""Test error of the MNIST DNN against the mantissa bits of its accumulators.

    python benchmarks/accumulator_bits.py [--epochs 2] [--bits 3 4 5 6 7 8 9 10 11 12]

784-1000-1000-10, SGD with momentum 0.9, batch 128, loss scaled by 1000; E5M2 operands, and (1,6,m)
accumulators in FWD, BWD and GRAD of all layers but the last, which has m = 9, a 16-bit accumulator
(Sakr et al., 2019). Chunked by 64 or not, rounded to nearest or toward zero. A finished training is
kept in results/accumulator_bits/ and not done again. Writes accumulator_bits.json and .png.
"""

import argparse
import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from _measure import machine
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import tf_lowprec as lp

SEED = 1
BATCH = 128
LEARNING_RATE = 0.02
MOMENTUM = 0.9
LOSS_SCALE = 1000.0
KINDS = [(c, r) for r in ("nearest_even", "toward_zero") for c in (None, 64)]
NAMES = {"nearest_even": "nearest", "toward_zero": "toward zero", None: "one sum", 64: "chunk 64"}


def load():
    (x, y), (x_test, y_test) = lp.datasets.mnist()
    scale = np.float32(255)
    return (x / scale, y.astype(np.int32)), (x_test / scale, y_test.astype(np.int32))


def build(bits, chunk, rounding):
    """The network; bits = None is float32."""

    def layer(units, mantissa_bits, seed, **arguments):
        policy = lp.Policy.float32()
        if mantissa_bits is not None:
            policy = lp.Policy.fp8(mantissa_bits, chunk=chunk, accumulator_rounding=rounding)
        initializer = tf.keras.initializers.HeNormal(seed)
        return lp.layers.Dense(
            units, precision=policy, kernel_initializer=initializer, seed=seed, **arguments
        )

    return tf.keras.Sequential(
        [
            tf.keras.Input((28, 28)),
            tf.keras.layers.Flatten(),
            layer(1000, bits, 1, activation="relu"),
            layer(1000, bits, 2, activation="relu"),
            layer(10, None if bits is None else max(bits, 9), 3),
        ]
    )


def train(bits, chunk, rounding, data, epochs, advance):
    """Test error in % after each epoch."""
    (x, y), (x_test, y_test) = data
    tf.keras.utils.set_random_seed(SEED)
    model = build(bits, chunk, rounding)
    optimizer = tf.keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM)
    loss_of = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def step(images, labels):
        with tf.GradientTape() as tape:
            loss = LOSS_SCALE * loss_of(labels, model(images, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        gradients = [g / LOSS_SCALE for g in gradients]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))

    errors = []
    for epoch in range(epochs):
        order = np.random.default_rng((SEED, epoch)).permutation(len(x))
        for first in range(0, len(x) - BATCH + 1, BATCH):
            batch = order[first : first + BATCH]
            step(x[batch], y[batch])
            advance()
        predicted = np.concatenate(
            [model(x_test[i : i + 1000], training=False) for i in range(0, len(x_test), 1000)]
        ).argmax(-1)
        errors.append(round(float(100 * np.mean(predicted != y_test)), 2))
    return errors


def report(results, arguments, console):
    bits = sorted({r["bits"] for r in results if r["bits"] is not None})
    table = Table(title=f"MNIST DNN: test error in % after {arguments.epochs} epochs")
    table.add_column("mantissa bits", justify="right")
    for chunk, rounding in KINDS:
        table.add_column(f"{NAMES[rounding]}, {NAMES[chunk]}", justify="right")
    errors = {(r["bits"], r["chunk"], r["rounding"]): r["test_error_percent"] for r in results}
    for m in bits:
        row = [errors.get((m, *kind)) for kind in KINDS]
        table.add_row(str(m), *("" if e is None else f"{e[-1]:.2f}" for e in row))
    float32 = errors.get((None, None, "nearest_even"))
    if float32:
        table.add_row("float32", f"{float32[-1]:.2f}")
    console.print(table)
    record = {
        "command": "python benchmarks/accumulator_bits.py",
        "machine": machine(),
        "epochs": arguments.epochs,
        "seed": SEED,
        "runs": results,
    }
    path = arguments.results / "accumulator_bits.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for i, (chunk, rounding) in enumerate(KINDS):
        points = [
            (m, errors[m, chunk, rounding][-1]) for m in bits if (m, chunk, rounding) in errors
        ]
        style = "--" if rounding == "toward_zero" else "-"
        label = f"{NAMES[rounding]}, {NAMES[chunk]}"
        axes.plot(*zip(*points), style, color=f"C{i % 2}", marker="o", label=label)
    if float32:
        axes.axhline(float32[-1], color="k", linewidth=1, label=f"float32: {float32[-1]:.2f} %")
    axes.set_yscale("log")
    ticks = [2, 3, 5, 10, 20, 50, 90]
    axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.set_xticks(bits)
    axes.set_xlabel("mantissa bits of the accumulators, (1,6,m)")
    axes.set_ylabel(f"test error after {arguments.epochs} epochs, %")
    axes.set_title("MNIST DNN with E5M2 operands and narrow accumulators")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(arguments.results / "accumulator_bits.png", dpi=120)
    plt.close(figure)
    console.print(f"Wrote {path} and {path.with_suffix('.png')}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--bits", type=int, nargs="+", default=list(range(3, 13)))
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"))
    arguments = parser.parse_args()
    folder = arguments.results / "accumulator_bits"
    folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    runs = [(None, None, "nearest_even")] + [(m, *kind) for m in arguments.bits for kind in KINDS]
    data = load()
    steps = arguments.epochs * (len(data[0][0]) // BATCH)
    results = []
    try:
        with Progress(console=console) as progress:
            task = progress.add_task("training", total=steps * len(runs))

            def advance():
                progress.advance(task)

            for bits, chunk, rounding in runs:
                path = folder / f"{bits}_{chunk}_{rounding}_{arguments.epochs}.json"
                if path.exists():
                    errors = json.loads(path.read_text())
                    progress.advance(task, steps)
                else:
                    errors = train(
                        bits,
                        chunk,
                        rounding,
                        data,
                        arguments.epochs,
                        lambda: progress.advance(task),
                    )
                    path.write_text(json.dumps(errors))
                results.append(
                    {
                        "bits": bits,
                        "chunk": chunk,
                        "rounding": rounding,
                        "test_error_percent": errors,
                    }
                )
    except KeyboardInterrupt:
        console.print("Interrupted: what is done is saved; the same command goes on.")
    report(results, arguments, console)


if __name__ == "__main__":
    main()
