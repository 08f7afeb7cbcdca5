"""How busy the array is: products through the simulated 28 x 28 accelerator, cycles counted.

    PYTHONPATH=. .venv/bin/python hardware/utilization.py

Utilisation is M N K / (784 cycles), from the command until the last beat of C is taken, filling and
draining included. Every product is also compared, bit for bit, with lp.matmul fed the same random
words. Writes hardware/utilization.json.
"""

import argparse
import json
import pathlib
import time

import numpy as np

from hardware.cosim.accelerator import Accelerator, Parameters
from hardware.cosim.reference import matmul_bits

CLOCK_MHZ = 166  # the paper's
CASES = (
    # (m, k, n), pauses of (A, B, C), why
    ((504, 504, 504), (0, 0, 0), "the issue's"),
    ((504, 504, 504), (0.3, 0, 0.3), "A and the consumer pause in 30 % of cycles"),
    ((504, 504, 504), (0, 0.1, 0), "B pauses in 10 % of cycles"),
    ((28, 28, 28), (0, 0, 0), "one tile: filling and draining alone"),
    ((504, 28, 504), (0, 0, 0), "K = ROWS, the shortest that a column drains in time"),
    ((504, 14, 504), (0, 0, 0), "K < ROWS: draining limits"),
    ((500, 500, 500), (0, 0, 0), "no multiple of the array"),
    ((252, 2016, 252), (0, 0, 0), "K in four runs: A is loaded for every tile"),
    ((100, 784, 1000), (0, 0, 0), "MNIST DNN, layer 1, FWD"),
    ((784, 100, 1000), (0, 0, 0), "MNIST DNN, layer 1, GRAD"),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=pathlib.Path, default="hardware/utilization.json")
    parser.add_argument("--panels", type=int, default=1, help="A_PANELS (default: 1)")
    options = parser.parse_args()
    p = Parameters(A_PANELS=options.panels)
    rng = np.random.default_rng(1)
    rows, limits = [], (-(2 ** (p.WL - 1)), 2 ** (p.WL - 1))
    print(f"{'M x K x N':>18} {'cycles':>9} {'used':>7} {'Gop/s':>6} {'A':>8} {'B':>8}")
    with Accelerator(p) as accelerator:
        for (m, k, n), pauses, why in CASES:
            a, b = rng.integers(*limits, (m, k)), rng.integers(*limits, (k, n))
            start = time.perf_counter()
            result = accelerator.matmul(a, b, 20, seed=1, pauses=pauses)
            speed = result.cycles / (time.perf_counter() - start)
            equal = np.array_equal(result.c, matmul_bits(a, b, 20, "stochastic", result, p.WL))
            used = m * n * k / (p.ROWS * p.COLS * result.cycles)
            rate = 2 * p.ROWS * p.COLS * CLOCK_MHZ / 1e3 * used
            rows.append(
                {
                    "m": m, "k": k, "n": n, "pauses": pauses, "case": why, "cycles": result.cycles,
                    "utilization": round(used, 4), "gops_at_166_mhz": round(rate, 1),
                    "beats_a": result.taken[0], "beats_b": result.taken[1], "bit_equal": equal,
                    "simulated_cycles_per_second": round(speed),
                }
            )  # fmt: skip
            report = {"rows_cols": [p.ROWS, p.COLS], "a_panels": p.A_PANELS, "rows": rows}
            options.json.write_text(json.dumps(report, indent=1) + "\n")
            print(
                f"{m:>6}x{k}x{n:<6} {result.cycles:>9} {used:7.1%} {rate:6.1f} "
                f"{result.taken[0]:>8} {result.taken[1]:>8}  {why}"
                f"{'' if equal else '  DIFFERS'}",
                flush=True,
            )
    if not all(row["bit_equal"] for row in rows):
        raise SystemExit("a product differs from lp.matmul")


if __name__ == "__main__":
    main()
