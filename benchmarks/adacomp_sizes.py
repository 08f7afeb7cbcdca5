"""Sizes of AdaComp's plain packets as multiples of the paper's count, at random positions.

    python benchmarks/adacomp_sizes.py

The paper counts 8 (bins of up to 64) or 16 bits per element sent, and 32 per layer. The greatest of
12 draws for each density and size.
"""

import argparse

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import tf_lowprec as lp
from tf_lowprec.ops.adacomp import PacketHeader

DENSITIES = [(500, d) for d in (1.1, 1.3, 1.6, 2.0, 2.7, 4.3)] + [
    (50, d) for d in (1.1, 1.6, 2.3, 2.7, 3.8)
]
SIZES, DRAWS = (100_000, 120_000, 200_000), 12


def overhead(per_bin, bin_size, n, seed):
    # Every bin's maximum is 1, or nothing: sent is what is 1.
    gradient = np.random.default_rng(seed).random(n) < per_bin / bin_size
    gradient = gradient.astype(np.float32)
    packet, _ = lp.adacomp_encode(gradient, 0 * gradient, bin_size)
    bits = 8 if bin_size <= 64 else 16
    return 32 * packet.shape[0] / (bits * PacketHeader.of(packet).sent + 32)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    console = Console()
    table = Table("sent", *(f"{n:,}" for n in SIZES))
    for bin_size, per_bin in track(DENSITIES, console=console):
        most = [max(overhead(per_bin, bin_size, n, s) for s in range(DRAWS)) for n in SIZES]
        table.add_row(f"{per_bin} of {bin_size}", *(f"{m:.3f}" for m in most))
    console.print(table)


if __name__ == "__main__":
    main()
