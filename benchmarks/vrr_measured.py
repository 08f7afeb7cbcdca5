"""Retained variance and noise of narrow sums: measured with the real op, and as formulas say.

    python benchmarks/vrr_measured.py [--scale 1] [--longest 20]

Normal terms of 5 mantissa bits, as products of E5M2 operands have; accumulators with m = 4..12;
n = 2^8, 2^10 .. 2^20; nearest even, stochastic and toward zero; one sum, chunks of 64 and of
sqrt(n); 256 (of 2^20 terms) to 4096 sums each. Compares with the VRR (Sakr et al., 2019) and with
our own rules (docs/vrr.md). A finished length is kept in results/vrr_measured/ and not measured
again. About ten minutes of one core. Writes vrr_measured.json, vrr_measured.png and
noise_measured.png.
"""

import argparse
import json
import os
import pathlib
import platform

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import tf_lowprec as lp
from tf_lowprec import analysis
from tf_lowprec.analysis.measured import measure

PRODUCT_BITS = 5
MANTISSA_BITS = range(4, 13)
ROUNDINGS = ("nearest_even", "stochastic", "toward_zero")
CHUNKS = (None, 64, "best")
NAMES = {None: "one sum", 64: "chunk 64", "best": "chunk √n"}
SEED = 1


def chunk_of(chunk, n):
    return analysis.best_chunk(n) if chunk == "best" else chunk


def run(n, rounding, samples):
    """The cells of one length and rounding: all m and chunks, on the same terms."""
    keys = [(m, chunk) for m in MANTISSA_BITS for chunk in CHUNKS]
    accumulators = [
        lp.Accumulator(lp.FloatFormat(8, m), chunk_of(chunk, n), rounding) for m, chunk in keys
    ]
    cells = []
    for (m, chunk), result in zip(keys, measure(accumulators, PRODUCT_BITS, n, samples, SEED)):
        cells.append({"m": m, "n": n, "rounding": rounding, "chunk": chunk, **result.get_config()})
    return cells


def with_predictions(cell):
    """A measured cell beside what the formulas say of it."""
    m, n, rounding = cell["m"], cell["n"], cell["rounding"]
    chunk = chunk_of(cell["chunk"], n)
    formula = (
        analysis.vrr(m, PRODUCT_BITS, n)
        if chunk is None
        else analysis.vrr_chunked(m, PRODUCT_BITS, n, chunk)
    )
    noise = {"rounding": rounding}
    predicted = {
        "formula": formula,
        "noise_rule": analysis.rounding_noise(m, n, chunk, **noise),
        "noise_refined": analysis.rounding_noise(m, n, chunk, m_p=PRODUCT_BITS, **noise),
    }
    if rounding == "toward_zero":
        predicted["vrr_rule"] = analysis.truncation_vrr(m, n, chunk)
        predicted["vrr_refined"] = analysis.truncation_vrr(m, n, chunk, m_p=PRODUCT_BITS)
    return {**cell, **predicted}


def shortened(cell):
    """A cell with five digits of each number."""

    def digits(value):
        if isinstance(value, (list, tuple)):
            return [digits(v) for v in value]
        return float(f"{value:.5g}") if isinstance(value, float) else value

    return {key: digits(value) for key, value in cell.items()}


def select(cells, **wanted):
    return [c for c in cells if all(c[k] == v for k, v in wanted.items())]


def retention_table(cells, lengths):
    table = Table(title="retained variance of one sum: measured (formula)")
    table.add_column("rounding")
    table.add_column("m", justify="right")
    for n in lengths:
        table.add_column(f"2^{n.bit_length() - 1}", justify="right")
    for rounding in ROUNDINGS:
        for m in MANTISSA_BITS:
            row = []
            for n in lengths:
                (cell,) = select(cells, rounding=rounding, m=m, n=n, chunk=None)
                row.append(f"{cell['vrr']:.3f} ({cell['formula']:.3f})")
            table.add_row(rounding, str(m), *row)
    return table


def agreement_table(cells):
    """How far measured noise is from both rules, by the size of what the rule predicts."""
    table = Table(title="noise, measured over predicted: smallest, median, largest")
    for column in ("rounding", "predicted noise", "sums", "closed form", "with the terms' grid"):
        table.add_column(column, justify="left" if column == "rounding" else "right")
    bands = [(0, 1e-4), (1e-4, 1e-3), (1e-3, 1e-2), (1e-2, 3e-2), (3e-2, 0.1), (0.1, 1e9)]
    for rounding in ROUNDINGS:
        for low, high in bands:
            band = [c for c in select(cells, rounding=rounding) if low <= c["noise_refined"] < high]
            # Where the error is a handful of roundings in all sums, there is no ratio to speak of.
            band = [c for c in band if c["noise"] > 0]
            if not band:
                continue
            texts = []
            for key in ("noise_rule", "noise_refined"):
                ratios = np.array([c["noise"] / c[key] for c in band])
                texts.append(f"{ratios.min():.2f} {np.median(ratios):.2f} {ratios.max():.2f}")
            limits = f"{low:.0e} – {high:.0e}" if high < 1 else f"above {low:g}"
            table.add_row(rounding, limits, str(len(band)), *texts)
    return table


def agreement(cells):
    """Sums within 10 % of both rules, where they should hold.

    That is below the onset of swamping, a predicted ratio of 0.03, and where the first sums are at
    least 4^(m - m_p + 1) long, so that most additions have bits to round.
    """
    found = []
    for rounding in ROUNDINGS:
        for key in ("noise_rule", "noise_refined"):
            sums = [
                c
                for c in select(cells, rounding=rounding)
                if c["noise_refined"] <= 0.03
                and (chunk_of(c["chunk"], c["n"]) or c["n"]) >= 4.0 ** (c["m"] - PRODUCT_BITS + 1)
            ]
            ratios = [c["noise"] / c[key] for c in sums]
            # Sums whose interval has a part within 10 %: what the ensemble can tell.
            near = [
                c["noise_interval"][0] <= 1.1 * c[key] and c["noise_interval"][1] >= 0.9 * c[key]
                for c in sums
            ]
            if ratios:
                found.append(
                    {
                        "rounding": rounding,
                        "rule": key,
                        "sums": len(ratios),
                        "within_10_percent": sum(abs(r - 1) <= 0.1 for r in ratios),
                        "interval_within_10_percent": sum(near),
                        "smallest": min(ratios),
                        "largest": max(ratios),
                    }
                )
    return found


def plot_retention(cells, lengths, path):
    figure, axes = plt.subplots(
        3, 3, figsize=(12, 10), sharex=True, sharey=True, layout="constrained"
    )
    for row, chunk in zip(axes, CHUNKS):
        for axis, rounding in zip(row, ROUNDINGS):
            for m in (4, 5, 6, 8, 10, 12):
                line = [select(cells, rounding=rounding, m=m, n=n, chunk=chunk)[0] for n in lengths]
                color = f"C{m - 4}"
                error = [
                    [c["vrr"] - c["vrr_interval"][0] for c in line],
                    [c["vrr_interval"][1] - c["vrr"] for c in line],
                ]
                axis.errorbar(
                    lengths, [c["vrr"] for c in line], error, color=color, marker="o",
                    markersize=3, label=f"m = {m}", capsize=2,
                )  # fmt: skip
                axis.plot(lengths, [c["formula"] for c in line], "--", color=color, linewidth=0.9)
                if rounding == "toward_zero":
                    refined = [c["vrr_refined"] for c in line]
                    axis.plot(lengths, refined, ":", color="k", linewidth=1.1)
            axis.set_title(f"{rounding.replace('_', ' ')}, {NAMES[chunk]}", fontsize="medium")
            axis.set_xscale("log", base=2)
            axis.set_ylim(0, 1.6)
            axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("terms, n")
    for axis in axes[:, 0]:
        axis.set_ylabel("retained variance")
    axes[0, 0].legend(fontsize="small", ncols=2)
    figure.suptitle(
        "Retained variance: measured (points), VRR (dashed), our truncation rule (dotted)"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_noise(cells, lengths, path):
    figure, axes = plt.subplots(
        2, 3, figsize=(12, 7), sharex=True, sharey=True, layout="constrained"
    )
    rules = {"noise_rule": "closed form", "noise_refined": "with the terms' grid"}
    for row, (key, name) in zip(axes, rules.items()):
        for axis, rounding in zip(row, ROUNDINGS):
            for chunk, marker in zip(CHUNKS, "os^"):
                dots = [c for c in select(cells, rounding=rounding, chunk=chunk) if c["noise"] > 0]
                axis.scatter(
                    [c["noise_refined"] for c in dots],
                    [c["noise"] / c[key] for c in dots],
                    12,
                    [c["m"] for c in dots],
                    marker=marker,
                    label=NAMES[chunk],
                )
            axis.axhspan(0.9, 1.1, color="0.9", zorder=0)
            axis.set_xscale("log")
            axis.set_ylim(0, 2)
            axis.set_title(f"{rounding.replace('_', ' ')}: {name}", fontsize="medium")
            axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("predicted noise-to-signal ratio (with the grid)")
    for axis in axes[:, 0]:
        axis.set_ylabel("measured / predicted")
    axes[0, 0].legend(fontsize="small")
    figure.suptitle("Rounding noise, measured over predicted; the band is 10 %; colour: m = 4 … 12")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of sums")
    parser.add_argument("--longest", type=int, default=20, help="log2 of the longest sum, 8..24")
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"))
    arguments = parser.parse_args()
    folder = arguments.results / "vrr_measured"
    folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    console = console if console.is_terminal else Console(width=140)
    lengths = [2**k for k in range(8, arguments.longest + 1, 2)]
    jobs = [(n, rounding) for n in lengths for rounding in ROUNDINGS]
    cells = []
    try:
        with Progress(console=console) as progress:
            task = progress.add_task("measuring", total=sum(n for n, _ in jobs))
            for n, rounding in jobs:
                samples = int(arguments.scale * max(256, min(4096, 2**28 // n)))
                path = folder / f"{n}_{rounding}_{samples}.json"
                if not path.exists():
                    partial = path.with_suffix(".partial")
                    partial.write_text(json.dumps(run(n, rounding, samples)))
                    partial.replace(path)
                cells += [with_predictions(c) for c in json.loads(path.read_text())]
                progress.advance(task, n)
    except KeyboardInterrupt:
        console.print("Interrupted: what is done is saved; the same command goes on.")
    lengths = [n for n in lengths if len(select(cells, n=n)) == 3 * 3 * len(MANTISSA_BITS)]
    if not lengths:
        return
    cells = [c for c in cells if c["n"] in lengths]
    console.print(retention_table(cells, lengths))
    console.print(agreement_table(cells))
    for a in agreement(cells):
        console.print(
            f"{a['rounding']}, {a['rule']}: {a['within_10_percent']} of {a['sums']} within 10 %, "
            f"{a['interval_within_10_percent']} with their 95 % intervals "
            f"({a['smallest']:.2f} to {a['largest']:.2f})"
        )
    record = {
        "command": "python benchmarks/vrr_measured.py",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, TensorFlow {tf.__version__}",
        "product_mantissa_bits": PRODUCT_BITS,
        "seed": SEED,
        "agreement": agreement(cells),
        "cells": [shortened(c) for c in cells],
    }
    path = arguments.results / "vrr_measured.json"
    path.write_text(json.dumps(record) + "\n")
    plot_retention(cells, lengths, arguments.results / "vrr_measured.png")
    plot_noise(cells, lengths, arguments.results / "noise_measured.png")
    console.print(f"Wrote {path}, vrr_measured.png and noise_measured.png")


if __name__ == "__main__":
    main()
