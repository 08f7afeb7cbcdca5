#!/usr/bin/env python3
"""Compares what probe.cu measured with the model of aligned accumulators, bit for bit.

usage: report.py RESULTS [--save tests/data/tensor_core.npz] [--json docs/hardware/tensor_core.json]

The model is docs/hardware_formats.md's, on 64-bit integers, C included; lp.matmul, which starts
from 0, is compared in tests/ops/test_tensor_core.py with the dot products that --save picks.
"""

import argparse
import json
import pathlib

import make_tests
import ml_dtypes
import numpy as np

LOWEST = {
    ml_dtypes.float8_e4m3fn: -6,
    ml_dtypes.float8_e5m2: -14,
    np.float16: -14,
    ml_dtypes.bfloat16: -126,
}


def decode(x, lowest):
    """Signed significands, their quanta and the exponents that align, of finite float32."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    field = ((bits >> 23) & 255).astype(np.int64)
    magnitude = (bits & 0x7FFFFF).astype(np.int64) | np.where(field > 0, 1 << 23, 0)
    significand = np.where(bits >> 31, -magnitude, magnitude)
    return significand, np.maximum(field, 1) - 150, np.maximum(field - 127, lowest)


def cut(x, shift):
    """x 2^shift toward zero."""
    magnitude = np.abs(x)
    up, down = magnitude << np.clip(shift, 0, 62), magnitude >> np.clip(-shift, 0, 63)
    return np.sign(x) * np.where(shift >= 0, up, down)


def one_group(a, b, c, lowest, fraction_bits, into):
    """D [tiles, 64, 8] of A [tiles, 64, k], B [tiles, 8, k] and C, all finite."""
    (sa, qa, ea), (sb, qb, eb) = (decode(v, low) for v, low in zip((a, b), lowest))
    sc, qc, ec = decode(c, -126)
    product = sa[:, :, None] * sb[:, None]
    none = -10_000
    exponent = np.where(product == 0, none, ea[:, :, None] + eb[:, None])
    largest = np.maximum(exponent.max(-1), np.where(sc == 0, none, ec))
    quantum = largest - fraction_bits
    total = cut(product, qa[:, :, None] + qb[:, None] - quantum[..., None]).sum(-1)
    total += cut(sc, qc - quantum)
    quantum = np.where(total == 0, 0, quantum)
    if into == "float16":  # an exact float64, rounded to nearest even by NumPy
        with np.errstate(over="ignore"):
            value = np.ldexp(total.astype(np.float64), quantum).astype(np.float16)
            return value.astype(np.float32) + np.float32(0)  # no -0
    mantissa_bits = 13 if fraction_bits == 13 else 23
    _, top = np.frexp(np.abs(total).astype(np.float64))
    # frexp rounds sums above 2^53; there are none.
    last = np.maximum(top - 1 + quantum, -126) - mantissa_bits
    drop = np.clip(last - quantum, 0, 63)
    kept = np.abs(total) >> drop
    value = np.sign(total) * np.ldexp(kept.astype(np.float64), quantum + drop)
    with np.errstate(over="ignore"):
        value = np.where(np.abs(value) >= 2.0**128, np.copysign(np.inf, value), value)
        return value.astype(np.float32) + np.float32(0)  # no -0


def model(batch):
    """The tiles' D by the model; what is not finite on the way is left to `specials`."""
    name, a_type, b_type = make_tests.KINDS[batch.kind]
    lowest = (LOWEST[a_type], LOWEST[b_type])
    is_fp8 = np.dtype(a_type).itemsize == 1
    into = "float16" if "float16" in name else "float32"
    d = batch.c
    if into == "float16":
        with np.errstate(over="ignore"):
            d = d.astype(np.float16).astype(np.float32)
    for step in range(batch.steps):
        a, b = (v[:, step].astype(np.float32) for v in (batch.a, batch.b))
        a, b = (np.where(np.isfinite(v), v, 0) for v in (a, b))
        c = np.where(np.isfinite(d), d, 0)
        if name == "mma.sync" and is_fp8:
            # Two float16 instructions, over every other pair of k, and a float32 addition.
            pairs = np.arange(32) // 2 % 2
            part = np.zeros_like(c)
            for half in (0, 1):
                x, y = a[..., pairs == half], b[..., pairs == half]
                part = one_group(x, y, part, (-14, -14), 25, "float32")
            d = c + part
        else:
            d = one_group(a, b, c, lowest, 13 if is_fp8 else 25, into)
    return d


def finite(batch, d):
    """Which results have finite operands, C and outcome."""
    good = np.isfinite(d)
    a = np.isfinite(batch.a.astype(np.float32)).all((1, 3))
    b = np.isfinite(batch.b.astype(np.float32)).all((1, 3))
    with np.errstate(over="ignore"):
        return good & a[:, :, None] & b[:, None] & np.isfinite(batch.c)


def load(path):
    """[(batch, D)]."""
    results, at, found = np.fromfile(path, np.float32), 0, []
    for batch in make_tests.batches():
        size = batch.tiles * make_tests.ROWS * make_tests.COLUMNS
        shape = (batch.tiles, make_tests.ROWS, make_tests.COLUMNS)
        found.append((batch, results[at : at + size].reshape(shape)))
        at += size
    if at != results.size:
        raise SystemExit(f"{path} has {results.size} results, the tests {at}")
    return found


def pick(measured, rng):
    """A few dot products with C = 0 of each kind, as arrays to save."""
    saved = {}
    for batch, d in measured:
        name, a_type, _ = make_tests.KINDS[batch.kind]
        if name == "mma.sync" and np.dtype(a_type).itemsize == 1:
            continue
        tile, row, column = np.nonzero(
            (batch.c == 0) & np.any(batch.a.astype(np.float32) != 0, (1, 3))[:, :, None]
        )
        if batch.name == "crafted":
            own = row == column
            tile, row, column = tile[own], row[own], column[own]
            some = rng.permutation(len(tile))[:150]
        else:
            some = rng.permutation(len(tile))[:40]
        tile, row, column = tile[some], row[some], column[some]
        if not len(tile):
            continue
        key = f"{batch.kind}_{batch.steps}_{batch.name.split(',')[0]}"
        raw = f"u{np.dtype(a_type).itemsize}"
        saved[key + "_a"] = batch.a[tile, :, row].reshape(len(tile), -1).view(raw)
        saved[key + "_b"] = batch.b[tile, :, column].reshape(len(tile), -1).view(raw)
        saved[key + "_d"] = d[tile, row, column].view(np.uint32)
    return saved


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("--save", type=pathlib.Path)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    measured, rows = load(arguments.results), {}
    for batch, d in measured:
        expected, considered = model(batch), finite(batch, d)
        equal = expected.view(np.uint32) == d.view(np.uint32)
        kind = make_tests.KINDS[batch.kind]
        name = f"{kind[0]} {np.dtype(kind[1]).name} x {np.dtype(kind[2]).name}"
        row = rows.setdefault(batch.kind, {"name": name, "results": 0, "finite": 0, "equal": 0})
        row["results"] += int(d.size)
        row["finite"] += int(considered.sum())
        row["equal"] += int((equal & considered).sum())
    for row in rows.values():
        print(f"{row['name']:55} {row['finite']:9,} finite results, {row['equal']:9,} equal")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": list(rows.values())}, indent=1) + "\n")
    if arguments.save:
        arguments.save.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(arguments.save, **pick(measured, np.random.default_rng(0)))


if __name__ == "__main__":
    main()
