"""Speed of lp.conv2d with narrow accumulators as ratios, in one run, to TensorFlow's convolutions.

    python benchmarks/conv2d.py [--quick] [--results results]

3x3 convolutions of CIFAR ResNets (batch 32) and of ResNet-18 (batch 8), E5M2 operands, (1,6,9)
accumulators with chunk 64, in all three passes. Median of at least 7 timings each; the contenders
take turns. Writes conv2d.json and conv2d.png.
"""

import functools

import _measure as measure
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import track

import tf_lowprec as lp

GEMM = lp.Gemm(lp.FP8_E5M2, lp.FP8_E5M2, lp.Accumulator(lp.FloatFormat(6, 9), 64))
ASKED = {"FWD": 0.45, "BWD": 0.60, "GRAD": 0.60}
# (batch, side, channels)
SHAPES = [
    (32, 32, 16),
    (32, 16, 32),
    (32, 8, 64),
    (8, 56, 64),
    (8, 28, 128),
    (8, 14, 256),
    (8, 7, 512),
]


def _passes(convolve):
    """FWD, BWD and GRAD of a convolution, each by itself, as functions of (x, filters, dy)."""

    @tf.function
    def forward(x, filters, dy):
        return convolve(x, filters)

    @tf.function
    def backward(x, filters, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = convolve(x, filters)
        return tape.gradient(y, x, dy)

    @tf.function
    def gradient(x, filters, dy):
        with tf.GradientTape() as tape:
            tape.watch(filters)
            y = convolve(x, filters)
        return tape.gradient(y, filters, dy)

    return {"FWD": forward, "BWD": backward, "GRAD": gradient}


# The value of y is not needed in BWD and GRAD, so that the graph leaves it out.
OURS = _passes(lambda x, filters: lp.conv2d(x, filters, GEMM))
STOCK = _passes(lambda x, filters: tf.nn.conv2d(x, filters, 1, "SAME"))


def main():
    arguments = measure.options(__doc__, quick="CIFAR's shapes only, fewer turns")
    console = Console()
    rows = []
    for batch, side, channels in track(SHAPES[:3] if arguments.quick else SHAPES, console=console):
        x = tf.random.normal((batch, side, side, channels))
        filters = tf.random.normal((3, 3, channels, channels))
        dy = tf.random.normal(x.shape)
        macs = batch * side**2 * 9 * channels**2
        for name in OURS:
            pair = {"ours": OURS[name], "stock": STOCK[name]}
            bound = {who: functools.partial(f, x, filters, dy) for who, f in pair.items()}
            times = measure.median_seconds(bound, 3 if arguments.quick else 31)
            rows.append(
                {
                    "shape": f"{batch}x{side}x{side}x{channels}",
                    "pass": name,
                    "g_mac_per_s": round(macs / times["ours"] / 1e9, 2),
                    "tensorflow_g_mac_per_s": round(macs / times["stock"] / 1e9, 2),
                    "ratio": round(times["stock"] / times["ours"], 3),
                }
            )
    columns = ("shape", "pass", "G MAC/s", "TensorFlow's", "ratio", "asked for")
    title = "3x3 convolutions, E5M2, (1,6,9), chunk 64"
    table = measure.new_table(title, *columns, left=columns[:2])
    for row in rows:
        table.add_row(
            row["shape"],
            row["pass"],
            f"{row['g_mac_per_s']:.1f}",
            f"{row['tensorflow_g_mac_per_s']:.1f}",
            f"{row['ratio']:.2f}",
            f"{ASKED[row['pass']]:.2f}",
        )
    console.print(table)
    figure, axes = measure.new_figure(9, 5)
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    for i, name in enumerate(OURS):
        ratios = [row["ratio"] for row in rows if row["pass"] == name]
        axes.bar(np.arange(len(shapes)) + 0.25 * (i - 1), ratios, 0.25, label=name)
    for asked in sorted(set(ASKED.values())):
        passes = ", ".join(name for name in OURS if ASKED[name] == asked)
        axes.axhline(asked, color="k", linewidth=0.7, linestyle=":")
        # Right of the last bars, where nothing is.
        axes.text(len(shapes) - 0.6, asked, f" {passes}", va="bottom", fontsize=8)
    axes.set_xlim(-0.5, len(shapes) + 0.2)
    axes.set_xticks(range(len(shapes)), shapes, fontsize=8)
    axes.set_ylabel("speed as a ratio to TensorFlow's float32 op")
    axes.set_title("3x3 convolutions with narrow accumulators (dotted: asked for)")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    measure.write(arguments.results, "conv2d", {"cases": rows}, figure)


if __name__ == "__main__":
    main()
