"""Speed of lp.matmul with narrow accumulators as ratios, in one run, to tf.matmul in float32.

    python benchmarks/matmul.py [--quick] [--results results]

Median of at least 7 timings each (of 2048^3: of 3); the contenders take turns. The peer that
emulates a narrow accumulator with TensorFlow's own ops, a step for each k, is timed at 256^3. Sizes
from 64^3 on are timed with one thread too. Writes matmul.json and matmul.png.
"""

import concurrent.futures
import functools
import multiprocessing
import os
import statistics

import _measure as measure
import tensorflow as tf
from rich.console import Console
from rich.progress import track

import tf_lowprec as lp

SEED = (1, 2)
FLOAT32 = "tf.matmul float32"


def _gemm(mantissa_bits, chunk, rounding="nearest_even", operand=lp.FP8_E5M2):
    accumulator = lp.Accumulator(lp.FloatFormat(6, mantissa_bits), chunk, rounding)
    return lp.Gemm(operand, operand, accumulator)


# name -> (Gemm, the ratio that the project asks for)
CASES = {
    "E5M2, (1,6,5), chunk 64": (_gemm(5, 64), 0.40),
    "E5M2, (1,6,9)": (_gemm(9, None), 0.40),
    "E5M2, (1,6,9), chunk 64": (_gemm(9, 64), 0.40),
    "E4M3FN, (1,6,9), chunk 64": (_gemm(9, 64, operand=lp.FP8_E4M3FN), 0.40),
    "E5M2, (1,6,11), chunk 64": (_gemm(11, 64), 0.40),
    "E5M2, (1,6,12), chunk 64": (_gemm(12, 64), 0.22),
    "E5M2, (1,6,16), chunk 64": (_gemm(16, 64), 0.22),
    "float32, (1,6,9), chunk 64": (_gemm(9, 64, operand=None), 0.10),
    "float32, (1,6,16), chunk 64": (_gemm(16, 64, operand=None), 0.10),
    "E5M2, (1,6,9) toward zero": (_gemm(9, None, "toward_zero"), 0.40),
    "E5M2, (1,6,9) toward zero, chunk 64": (_gemm(9, 64, "toward_zero"), 0.40),
    "E5M2, (1,6,7) stochastic, chunk 64": (_gemm(7, 64, "stochastic"), 0.20),
    "E5M2, (1,6,9) stochastic": (_gemm(9, None, "stochastic"), 0.20),
    "E5M2, (1,6,9) stochastic, chunk 64": (_gemm(9, 64, "stochastic"), 0.20),
}
SCALING = "E5M2, (1,6,9), chunk 64"


def tf_ops(a, b):
    """The peer: float16 operands and accumulator, a TensorFlow step for each k."""
    a, b = tf.cast(a, tf.float16), tf.cast(b, tf.float16)

    def step(k, total):
        product = tf.cast(a[:, k, None], tf.float32) * tf.cast(b[k], tf.float32)
        return k + 1, tf.cast(tf.cast(total, tf.float32) + product, tf.float16)

    zeros = tf.zeros((tf.shape(a)[0], tf.shape(b)[1]), tf.float16)
    return tf.while_loop(lambda k, _: k < tf.shape(a)[1], step, (0, zeros))[1]


def seconds(functions, size, repetitions):
    """Of one product of each function, the median over turns. Small ones: many to a timing, each
    the next one's right operand, as in a network."""
    calls = max(1, 512**3 // size**3)
    lefts = [tf.random.normal((size, size), stddev=size**-0.5) for _ in range(calls)]
    right = tf.random.normal((size, size))

    def chain(f):
        # lefts are captured: as arguments, Python would take longer over them than a product takes.
        @tf.function
        def products(x):
            for left in lefts:
                x = f(left, x)
            return x

        return functools.partial(products, right)

    bound = {name: chain(f) for name, f in functions.items()}
    times = measure.median_seconds(bound, repetitions)
    return {name: time / calls for name, time in times.items()}


def scaling_of(threads, sizes, repetitions):
    """{size: a record of SCALING beside tf.matmul}. `threads` can be set once in a process."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    gemm, _ = CASES[SCALING]
    pair = {FLOAT32: tf.matmul, SCALING: lambda a, b: lp.matmul(a, b, gemm)}
    at = {size: seconds(pair, size, 3 if size > 1024 else repetitions) for size in sizes}
    largest = max(sizes)
    records = {}
    for size, times in at.items():
        share = {name: t / at[largest][name] * (largest / size) ** 3 for name, t in times.items()}
        records[size] = {
            "ns_per_mac": round(times[SCALING] / size**3 * 1e9, 5),
            "share": round(share[SCALING], 2),
            "tf_matmul_share": round(share[FLOAT32], 2),
            "ratio": round(times[FLOAT32] / times[SCALING], 3),
        }
    return records


def in_process(*arguments):
    """`scaling_of` in a process of its own."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(scaling_of, *arguments).result()


def main():
    arguments = measure.options(__doc__, quick="512^3 at most, fewer turns")
    console = Console()
    size, repetitions = (512, 3) if arguments.quick else (1024, 21)

    functions = {FLOAT32: tf.matmul}
    for name, (gemm, _) in CASES.items():
        functions[name] = lambda a, b, gemm=gemm: lp.matmul(a, b, gemm, seed=SEED)
    at = {}
    for names in track([[n] for n in CASES], console=console):
        # In pairs with the reference, so that a machine that slows down slows both.
        pair = {name: functions[name] for name in (FLOAT32, *names)}
        at[names[0]] = seconds(pair, size, repetitions)
    peer = seconds({FLOAT32: tf.matmul, "TF ops": tf_ops}, 256, 3)

    columns = ("operands, accumulator", "G MAC/s", "ratio to tf.matmul", "asked for")
    table = measure.new_table(f"{size} x {size} x {size}", *columns, left=columns[:1])
    rows = []
    for name, times in at.items():
        rate, ratio = size**3 / times[name] / 1e9, times[FLOAT32] / times[name]
        rows.append({"case": name, "g_mac_per_s": round(rate, 2), "ratio": round(ratio, 3)})
        table.add_row(name, f"{rate:.1f}", f"{ratio:.2f}", f"{CASES[name][1]:.2f}")
    reference = statistics.median(size**3 / times[FLOAT32] / 1e9 for times in at.values())
    table.add_row(FLOAT32, f"{reference:.1f}", "1.00", "")
    ratio = peer[FLOAT32] / peer["TF ops"]
    table.add_row("TF ops, float16, 256^3", f"{256**3 / peer['TF ops'] / 1e9:.2f}", f"{ratio:.4f}")
    console.print(table)

    sizes = [64, 128, 256, 512] if arguments.quick else [64, 128, 256, 512, 1024, 2048]
    scaling = {}
    for threads in sorted({1, os.cpu_count()}):
        scaling[threads] = in_process(threads, sizes, repetitions)
        table = measure.new_table(
            f"{SCALING}, {threads} thread{'s' * (threads > 1)}",
            *("size", "ns per multiply-accumulate", "share of the largest's"),
            *("tf.matmul's share of its own", "ratio to tf.matmul"),
        )
        for size, record in scaling[threads].items():
            table.add_row(
                f"{size}^3",
                f"{record['ns_per_mac']:.4f}",
                f"{record['share']:.2f}",
                f"{record['tf_matmul_share']:.2f}",
                f"{record['ratio']:.2f}",
            )
        console.print(table)

    values = {
        "size": size,
        "tf_matmul_g_mac_per_s": round(reference, 1),
        "cases": rows,
        "tf_ops_float16_256": {
            "g_mac_per_s": round(256**3 / peer["TF ops"] / 1e9, 3),
            "ratio": round(ratio, 4),
        },
        "scaling_by_threads": scaling,
    }
    figure, axes = measure.new_figure(9, 5)
    names = [row["case"] for row in rows][::-1]
    axes.barh(names, [row["ratio"] for row in rows][::-1])
    for i, name in enumerate(names):
        axes.plot([CASES[name][1]] * 2, [i - 0.4, i + 0.4], "k")
    axes.set_xlabel("speed as a ratio to tf.matmul in float32 (black: asked for)")
    axes.set_title(f"lp.matmul with narrow accumulators, {size}$^3$")
    axes.grid(axis="x", alpha=0.3)
    measure.write(arguments.results, "matmul", values, figure)


if __name__ == "__main__":
    main()
