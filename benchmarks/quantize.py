"""Speed of lp.quantize and lp.quantize_mx as ratios, in one run, to `x + 1` and to TF ops.

    python benchmarks/quantize.py [--quick] [--results results]

Median of at least 7 timings each; the contenders take turns. Writes quantize.json and quantize.png.
"""

import functools

import _measure as measure
import tensorflow as tf
from rich.console import Console
from rich.progress import track

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
    "MXFP8 E4M3 nearest": lambda x: lp.quantize_mx(x, lp.MXFP8_E4M3),
    "MXFP4 E2M1 stochastic": lambda x: lp.quantize_mx(
        x, lp.MXFP4_E2M1, rounding="stochastic", seed=SEED
    ),
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
    # Eager CPU ops have run when they return.
    bound = {name: functools.partial(function, x) for name, function in functions.items()}
    seconds = measure.median_seconds(bound, repetitions, calls)
    return {name: n / time for name, time in seconds.items()}


def main():
    arguments = measure.options(__doc__, quick="up to 1M elements only")
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
    table = measure.new_table(
        f"{reference:,} elements", "", "G elements/s", "ratio to x + 1", "ratio to TF ops"
    )
    for name, rate in at.items():
        table.add_row(
            name,
            f"{rate / 1e9:.2f}",
            f"{rate / at['x + 1']:.2f}",
            f"{rate / at['TF ops stochastic']:.1f}" if "stochastic" in name else "",
        )
    console.print(table)

    figure, axes = measure.new_figure(8, 5)
    for i, name in enumerate(functions):
        style = {"x + 1": "k--", "TF ops stochastic": "k:"}.get(name, f"C{i}.-")
        axes.loglog(sizes, [results[n][name] / 1e9 for n in sizes], style, label=name)
    axes.set_xlabel("elements")
    axes.set_ylabel("G elements per second")
    axes.set_title("lp.quantize and lp.quantize_mx against x + 1 and against TF ops")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    values = {
        "elements_per_second": {str(n): r for n, r in results.items()},
        "reference_size": reference,
        "ratio_to_plus_one": {k: round(v / at["x + 1"], 3) for k, v in at.items()},
    }
    measure.write(arguments.results, "quantize", values, figure)


if __name__ == "__main__":
    main()
