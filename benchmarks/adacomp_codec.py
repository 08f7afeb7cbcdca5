"""Speed of AdaComp's codec as ratios, in one run, to a memory copy, to DGC and to tf.math.top_k.

    python benchmarks/adacomp_codec.py [--quick] [--results results]

Tensors of 2,359,296 floats (a 3x3x512x512 convolution) on one thread, then on two, then up to
100 M. Median of at least 7 timings each; the contenders take turns in an order that changes. As in
a training step, one call of a tf.function does several tensors (of PER_CALL floats together, at
most MOST_PER_CALL of them): what TensorFlow takes for the call itself, up to half a millisecond
here, is not the codec's. Writes adacomp_codec.json and adacomp_codec.png.

* The copy moves the bytes that encoding and decoding have to move: gradient, residue, new residue,
  packet, packet again, decoded gradient. Half of them are read, half written.
* DGC is GRACE's way (a threshold from a sample of 1 %, a mask, indices and values; Lin et al.,
  2018), in TensorFlow ops, with a residue, coded and decoded.
* top_k is tf.math.top_k of 1 % of the magnitudes, and nothing else.

The codec's and DGC's results go into variables, as in training, and glibc is told to keep freed
memory (KEEP_MEMORY): pages that are fresh from the system, or go back to it and come again, cost
more in some runs than in others. The copy's memory is warm too.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import _measure as measure
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import tf_lowprec as lp
from tf_lowprec.ops.adacomp import PacketHeader

SIZE = 2_359_296
PER_CALL, MOST_PER_CALL = 4 * SIZE, 64
CODECS = {
    "plain, bins of 50": (50, "plain"),
    "plain, bins of 500": (500, "plain"),
    "entropy, bins of 50": (50, "entropy"),
    "entropy, bins of 500": (500, "entropy"),
}
# How large the gradient is against the residue, so that 2 to 3 elements of a bin are sent.
SPREAD = {50: 0.5, 500: 0.25}
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**26),
}
COPY, DGC, TOP_K = "copy", "DGC", "top_k"


def gradient_and_residue(n, bin_size, seed):
    rng = np.random.default_rng(seed)
    gradient, residue = (rng.standard_normal(n, np.float32) for _ in range(2))
    return tf.constant(SPREAD[bin_size] * gradient), tf.constant(residue)


def codec(bin_size, encoding):
    def run(gradient, residue):
        packet, new_residue = lp.adacomp_encode(gradient, residue, bin_size, encoding)
        return lp.adacomp_decode(packet, gradient.shape[0]), new_residue

    return run


def kept(function, pairs):
    """A call of the function on each pair of gradient and residue, its two results in variables."""
    variables = [[tf.Variable(tf.zeros_like(x)) for x in pair] for pair in pairs]

    @tf.function
    def run():
        for pair, results in zip(pairs, variables):
            for variable, result in zip(results, function(*pair)):
                variable.assign(result)

    return run


def dgc(gradient, residue):
    x = gradient + residue
    n = tf.size(x)
    magnitude = tf.abs(x)
    sample = tf.gather(magnitude, tf.random.uniform([n // 100], 0, n, tf.int32))
    threshold = tf.math.top_k(sample, n // 10000 + 1).values[-1]
    mask = magnitude >= threshold
    indices = tf.cast(tf.where(mask), tf.int32)
    values = tf.gather_nd(x, indices)
    return tf.scatter_nd(indices, values, tf.shape(x)), tf.where(mask, 0.0, x)


def top_k(pairs):
    @tf.function
    def run():
        return [tf.math.top_k(tf.abs(gradient), gradient.shape[0] // 100) for gradient, _ in pairs]

    return run


def memory_copy(n, words, threads):
    source = np.ones(2 * n + words, np.float32)  # (4 n + 2 words) / 2
    target = np.zeros_like(source)
    if threads == 1:
        return lambda: np.copyto(target, source)
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    parts = [np.array_split(x, threads) for x in (target, source)]

    def run():
        concurrent.futures.wait([pool.submit(np.copyto, *part) for part in zip(*parts)])

    return run


def codecs(threads, n, peers, repetitions):
    """One record per codec: its time, its peers', what it sent."""
    records = {}
    for name, (bin_size, encoding) in CODECS.items():
        tensors = max(1, min(PER_CALL // n, MOST_PER_CALL))
        pairs = [gradient_and_residue(n, bin_size, seed) for seed in range(tensors)]
        headers = [
            PacketHeader.of(lp.adacomp_encode(*pair, bin_size, encoding)[0]) for pair in pairs
        ]
        words = sum(header.num_words for header in headers)
        contenders = {name: kept(codec(bin_size, encoding), pairs)}
        contenders[COPY] = memory_copy(tensors * n, words, threads)
        if peers:
            contenders |= {DGC: kept(dgc, pairs), TOP_K: top_k(pairs)}
        times = measure.median_seconds(contenders, repetitions, shuffle=True)
        records[name] = {
            "tensors_per_call": tensors,
            "seconds": times[name] / tensors,
            "copy_seconds": times[COPY] / tensors,
            "sent_per_bin": sum(h.sent for h in headers) / tensors / -(-n // bin_size),
            "compression": tensors * n / words,
            "speed_to_copy": times[COPY] / times[name],
        }
        if peers:
            records[name]["time_to_dgc"] = times[name] / times[DGC]
            records[name]["time_to_top_k"] = times[name] / times[TOP_K]
    return records


def in_process(threads, n, peers, repetitions):
    """`codecs` in a process of its own: TensorFlow fixes its threads once."""
    command = [sys.executable, __file__, "--worker", str(threads), str(n), str(repetitions)]
    done = subprocess.run(
        command + ["--peers"] * peers,
        stdout=subprocess.PIPE,
        check=True,
        env=os.environ | KEEP_MEMORY,
    )
    return json.loads(done.stdout.splitlines()[-1])


def worker(threads, n, repetitions, peers):
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    print(json.dumps(codecs(threads, n, peers, repetitions)))


def plot(by_size, path):
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    sizes = [int(n) for n in by_size]
    for i, name in enumerate(CODECS):
        times = [by_size[str(n)][name]["seconds"] for n in sizes]
        axes.loglog(sizes, [1e9 * t / n for t, n in zip(times, sizes)], f"C{i}.-", label=name)
    for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        which("{x:g}")
    axes.set_xlabel("elements")
    axes.set_ylabel("ns per element, encoded and decoded")
    axes.set_title("AdaComp's codec on one thread")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="up to 2,359,296 elements only")
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"))
    parser.add_argument("--worker", nargs=3, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--peers", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        threads, n, repetitions = arguments.worker
        worker(threads, n, repetitions, arguments.peers)
        return
    arguments.results.mkdir(parents=True, exist_ok=True)
    one = in_process(1, SIZE, True, 21)
    two = in_process(2, SIZE, False, 25)
    sizes = [10_000, 100_000, 1_000_000] + ([] if arguments.quick else [10_000_000, 100_000_000])
    by_size = {str(n): in_process(1, n, False, 7) for n in sizes}

    table = Table(title=f"{SIZE:,} elements, encoded and decoded, one thread")
    columns = ("ms", "compression", "sent/bin", "speed, copy = 1", "time, DGC = 1")
    for column in ("", *columns, "time, top_k = 1", "speed-up by 2 threads", "copy's"):
        table.add_column(column, justify="right" if column else "left")
    for name, r in one.items():
        for what in ("", "copy_"):
            r[f"{what}speed_up_by_2_threads"] = r[f"{what}seconds"] / two[name][f"{what}seconds"]
        table.add_row(
            name,
            f"{1e3 * r['seconds']:.2f}",
            f"{r['compression']:.0f}",
            f"{r['sent_per_bin']:.1f}",
            f"{r['speed_to_copy']:.2f}",
            f"{r['time_to_dgc']:.3f}",
            f"{r['time_to_top_k']:.3f}",
            f"{r['speed_up_by_2_threads']:.2f}",
            f"{r['copy_speed_up_by_2_threads']:.2f}",
        )
    console = Console()
    console.print(table)
    record = {
        "command": "python benchmarks/adacomp_codec.py",
        "machine": measure.machine(),
        "elements": SIZE,
        "one_thread": one,
        "one_thread_by_size": by_size,
    }
    path = arguments.results / "adacomp_codec.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    plot(by_size, path.with_suffix(".png"))
    console.print(f"Wrote {path} and {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()
