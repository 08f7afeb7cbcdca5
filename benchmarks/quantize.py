"""Speed of lp.quantize as ratios, in one run, to `x + 1` and to the same formula in TF ops.

    python benchmarks/quantize.py [--quick] [--results results]

Median of at least 7 timings each; the contenders take turns. Writes quantize.json and quantize.png.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import tensorflow as tf
from rich.console import Console
from rich.progress import track
from rich.table import Table

import tf_lowprec as lp

Q16 = lp.FixedPointFormat(2, 14)
SEED = (1, 2)

CASES = {
    "<2,14> nearest": lambda x: lp.quantize(x, Q16, "nearest_up"),
    "<2,14> stochastic": lambda x: lp.quantize(x, Q16, "stochastic", SEED),
    "E5M2 nearest": lambda x: lp.quantize(x, lp.FP8_E5M2),
    "E5M2 stochastic": lambda x: lp.quantize(x, lp.FP8_E5M2, "stochastic", SEED),
    "BF16 nearest": lambda x: lp.quantize(x, lp.BF16),
    "BF16 stochastic": lambda x: lp.quantize(x, lp.BF16, "stochastic", SEED),
    "E4M3FN toward zero": lambda x: lp.quantize(x, lp.FP8_E4M3FN, "toward_zero"),
}


@tf.function
def tf_stochastic(x):
    """<2,14> stochastic in TF ops: floor(x 2^FL + r), clipped."""
    y = tf.floor(x * 2.0**14 + tf.random.stateless_uniform(tf.shape(x), SEED))
    return tf.clip_by_value(y, -(2.0**15), 2.0**15 - 1) * 2.0**-14


@tf.function
def plus_one(x):
    return x + 1


def rates(functions, x, repetitions):
    """Elements per second of each function on x, the median over turns."""
    n = int(tf.size(x))
    calls = max(1, (1 << 16) // n)  # small tensors: several calls to a timing
    seconds = {name: [] for name in functions}
    for turn in range(repetitions + 2):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(calls):
                y = function(x)
            y.device  # eager CPU ops have run when they return  # noqa: B018
            if turn >= 2:
                seconds[name].append((time.perf_counter() - start) / calls)
    return {name: n / statistics.median(times) for name, times in seconds.items()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="up to 1M elements only")
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"))
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    functions = {"x + 1": plus_one, "TF ops stochastic": tf_stochastic}
    functions |= {name: tf.function(case) for name, case in CASES.items()}
    sizes = [1 << 10, 1 << 14, 1 << 17, 1 << 20]
    if not arguments.quick:
        sizes += [1 << 24, 100_000_000]
    console = Console()
    results = {}
    for n in track(sizes, console=console):
        x = tf.random.normal((n,))
        repetitions = 7 if n >= 1 << 24 else 15
        results[n] = rates(functions, x, repetitions)

    reference = max(n for n in sizes if n <= 1 << 24)
    at = results[reference]
    table = Table(title=f"{reference:,} elements")
    for column in ("", "G elements/s", "ratio to x + 1", "ratio to TF ops"):
        table.add_column(column, justify="left" if not column else "right")
    for name, rate in at.items():
        table.add_row(
            name,
            f"{rate / 1e9:.2f}",
            f"{rate / at['x + 1']:.2f}",
            f"{rate / at['TF ops stochastic']:.1f}" if "stochastic" in name else "",
        )
    console.print(table)

    record = {
        "command": "python benchmarks/quantize.py",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, TensorFlow {tf.__version__}",
        "elements_per_second": {str(n): r for n, r in results.items()},
        "reference_size": reference,
        "ratio_to_plus_one": {k: round(v / at["x + 1"], 3) for k, v in at.items()},
    }
    path = arguments.results / "quantize.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for i, name in enumerate(functions):
        style = {"x + 1": "k--", "TF ops stochastic": "k:"}.get(name, f"C{i}.-")
        axes.loglog(sizes, [results[n][name] / 1e9 for n in sizes], style, label=name)
    axes.set_xlabel("elements")
    axes.set_ylabel("G elements per second")
    axes.set_title("lp.quantize against x + 1 and against TF ops")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(arguments.results / "quantize.png", dpi=120)
    plt.close(figure)
    console.print(f"Wrote {path} and {arguments.results}/quantize.png")


if __name__ == "__main__":
    main()
