#!/usr/bin/env python3
"""Writes the tiles that probe.cu runs: crafted dot products and random ones.

usage: make_tests.py TESTS

A crafted case is one dot product (pairs of operands at chosen k, and C); eight of them share a
tile, case i in row i and column i. `batches()` gives the same tiles to report.py.
"""

import itertools
import struct
import sys

import ml_dtypes
import numpy as np

# Of probe.cu's kinds: name, type of A, type of B.
KINDS = {
    0: ("wgmma", ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fn),
    1: ("wgmma", ml_dtypes.float8_e5m2, ml_dtypes.float8_e5m2),
    2: ("wgmma", ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
    3: ("wgmma", ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fn),
    4: ("wgmma", ml_dtypes.bfloat16, ml_dtypes.bfloat16),
    5: ("wgmma", np.float16, np.float16),
    6: ("wgmma into float16", ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fn),
    7: ("wgmma into float16", np.float16, np.float16),
    8: ("mma.sync", ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fn),
    9: ("mma.sync", ml_dtypes.float8_e5m2, ml_dtypes.float8_e5m2),
    10: ("mma.sync", ml_dtypes.bfloat16, ml_dtypes.bfloat16),
    11: ("mma.sync", np.float16, np.float16),
}
ROWS, COLUMNS, ROW_BYTES = 64, 8, 32


def terms(kind):
    """Terms of one instruction."""
    return ROW_BYTES // np.dtype(KINDS[kind][1]).itemsize


class Batch:
    """Tiles of one kind: A [tiles, steps, 64, k], B [tiles, steps, 8, k], C [tiles, 64, 8]."""

    def __init__(self, name, kind, a, b, c):
        self.name, self.kind = name, kind
        self.a = np.ascontiguousarray(a, KINDS[kind][1])
        self.b = np.ascontiguousarray(b, KINDS[kind][2])
        self.c = np.ascontiguousarray(c, np.float32)
        self.steps, self.tiles = self.a.shape[1], self.a.shape[0]

    def tobytes(self):
        parts = [struct.pack("<3i", self.kind, self.steps, self.tiles)]
        for a, b, c in zip(self.a, self.b, self.c):
            parts += [a.tobytes(), b.tobytes(), c.tobytes()]
        return b"".join(parts)


# ---- crafted cases: ([(k, a, b), ...], c)


def limits(kind):
    """Of A's and B's format together: exponents of the powers of two that are normal in both."""
    low, high = -6, 8
    if ml_dtypes.float8_e4m3fn not in KINDS[kind][1:]:
        low, high = -14, 15
    return low, high


def power(kind, exponent):
    """a, b with a b = 2^exponent, both normal powers of two."""
    low, high = limits(kind)
    a = min(max(exponent // 2, low), high)
    b = exponent - a
    if not low <= b <= high:
        raise ValueError(f"2^{exponent} is no product")
    return 2.0**a, 2.0**b


def in_range(kind, exponent):
    low, high = limits(kind)
    return 2 * low <= exponent <= 2 * high


def cases(kind):
    n = terms(kind)
    low, high = limits(kind)
    top = 2 * high
    big = power(kind, top)

    # How many bits below the largest are kept: 2^top + 2^(top-j), each sign.
    for j, s, t in itertools.product(range(0, top - 2 * low + 1), (1, -1), (1, -1)):
        yield (
            [(0, s * big[0], big[1]), (1, t * power(kind, top - j)[0], power(kind, top - j)[1])],
            0,
        )
    # Four terms of significand 1.5: is each truncated, or their sum?
    for j, t in itertools.product(range(8, 30), (1, -1)):
        if in_range(kind, top - j):
            a, b = power(kind, top - j)
            yield [(0, *big)] + [(k, t * 1.5 * a, b) for k in range(1, 5)], 0
            yield [(0, big[0], -big[1])] + [(k, t * 1.5 * a, b) for k in range(1, 5)], 0
            yield [(k, t * 1.5 * a, b) for k in range(1, 5)], big[0] * big[1]
            yield [(k, t * 1.5 * a, b) for k in range(1, 5)], -big[0] * big[1]
    # Which k are aligned together: big, -big, small at every pair of places.
    small = power(kind, max(top - 28, 2 * low))
    for i, j in itertools.permutations(range(n), 2):
        if i == 0 or j == 0 or (i % 4 == 0 and j % 3 == 0):
            k = next(k for k in range(n) if k not in (i, j))
            yield [(i, *big), (j, -big[0], big[1]), (k, *small)], 0
            yield [(i, *big), (k, *small)], -big[0] * big[1]
    for k in range(1, n):
        yield [(0, *big), (k, -big[0], big[1])] + [(q, *small) for q in range(1, n) if q != k], 0
    # C alone, of every mantissa length, sign and magnitude.
    for bits, exponent, s in itertools.product(
        range(24), (0, 40, -40, 100, -100, -126, 127), (1, -1)
    ):
        yield [], s * float(np.float32((1 + (1 - 2.0**-bits)) * 2.0**exponent))
    for bits in range(1, 24):
        yield [], 2.0**-126 * (2.0**-bits)
        yield [], -(2.0**-126) * (1 - 2.0**-bits)
    # C against one product 1, each exponent; C's mantissa all ones, or a pattern.
    for e, c, s in itertools.product(range(-34, 35), (2 - 2.0**-23, 1.0, 1.3333333), (1, -1)):
        yield [(3, 1.0, 1.0)], s * float(np.float32(c)) * 2.0**e
    # Products 1.5 * 1.5, 1.75 * 1.75 ... : is the largest exponent that of the normalized product?
    for f, j, s in itertools.product((1.0, 1.25, 1.5, 1.75), range(0, 28), (1, -1)):
        if in_range(kind, top - 2 - j):
            a, b = power(kind, top - 2 - j)
            x, y = power(kind, top - 2)
            yield [(0, f * x, f * y), (5, s * f * a, f * b), (6, s * 1.5 * a, b)], 0
            yield [(0, f * x, f * y), (5, s * f * a, f * b)], 2.0 ** (top - 2 - j) * 1.75
    # Zero times large beside small products: does a zero count with its exponent?
    largest = 2.0**high
    for j in range(2 * low, top + 1):
        a, b = power(kind, j)
        yield [(0, 0.0, largest), (1, 1.5 * a, 1.25 * b), (2, 1.25 * a, 1.25 * b)], 0
        yield [(0, largest, 0.0), (1, 1.5 * a, 1.25 * b), (2, 1.25 * a, 1.25 * b)], 2.0 ** (j - 12)
        yield [(0, 0.0, largest), (1, a, b), (2, 1.25 * a, 1.25 * b)], 2.0 ** (j - 13) * 1.999
        yield [(1, a, b), (2, 1.25 * a, 1.25 * b)], 2.0 ** (j - 13) * 1.999
    # Subnormal operands: is the exponent that of the field, or of the leading bit?
    tiny_a = float(ml_dtypes.finfo(KINDS[kind][1]).smallest_subnormal)
    if np.dtype(KINDS[kind][1]).itemsize == 1:
        for m, e, j in itertools.product((1, 2, 3), range(low, high + 1), range(0, 24)):
            product = m * tiny_a * 2.0**e
            other = np.log2(product / m) - j
            if j % 2 == 0 and in_range(kind, int(other)):
                a, b = power(kind, int(other))
                yield [(0, m * tiny_a, 2.0**e), (1, 1.25 * a, 1.25 * b), (2, a, b)], 0
    # Cancellation, then what is left; zeros' signs; carries of many equal terms.
    for j in range(0, 30):
        yield [(0, *big), (1, big[0], -big[1])], 2.0 ** (top - j) * 1.9999
        yield [(0, *big), (1, big[0], -big[1])], -(2.0 ** (top - j)) * 1.3333
    for s, t, c in itertools.product((0.0, -0.0), (0.0, 1.0, -1.0), (0.0, -0.0)):
        yield [(0, s, t)], c
        yield [(k, s, -1.0) for k in range(n)], c
        yield [(0, 1.0, 1.0), (1, -1.0, 1.0)], c
    for count, s in itertools.product(range(1, n + 1), (1, -1)):
        yield [(k, s * 1.75, 1.75) for k in range(count)], 0
        yield [(k, s * 1.75, 1.75) for k in range(count)], s * (2 - 2.0**-23) * 2.0**3
        yield [(k, s * 1.75, 1.75) for k in range(count)], -s * (2 - 2.0**-23) * 2.0**3
    # Special values, overflow, underflow.
    inf, nan = float("inf"), float("nan")
    operands = [0.0, 1.0, -1.0, nan]
    if KINDS[kind][1] != ml_dtypes.float8_e4m3fn:
        operands += [inf, -inf]
    others = [0.0, 1.0, -1.0, nan] + (
        [inf, -inf] if KINDS[kind][2] != ml_dtypes.float8_e4m3fn else []
    )
    for a, b, c in itertools.product(operands, others, (0.0, 1.0, inf, -inf, nan)):
        yield [(0, a, b)], c
        yield [(0, a, b), (7, 1.0, -1.0)], c
    for a, b in itertools.product(operands, others):
        yield [(0, a, b), (1, a, -b if b == b else b)], 0
    huge = float(np.finfo(np.float32).max)
    for c, s in itertools.product((huge, 2.0**127, huge / 2), (1, -1)):
        yield [(k, s * big[0], big[1]) for k in range(n)], s * c
        yield [(k, -s * big[0], big[1]) for k in range(n)], s * c
    if KINDS[kind][1] == ml_dtypes.bfloat16:
        for e, s in itertools.product(range(-75, -60), (1, -1)):
            yield [(0, s * 1.75 * 2.0**e, 1.75 * 2.0**e), (1, 2.0**e, 2.0**e)], 0
            yield [(0, s * 1.75 * 2.0**e, 1.75 * 2.0**e)], 2.0**-140
        for e, s in itertools.product(range(60, 66), (1, -1)):
            yield [(k, s * 1.75 * 2.0**e, 1.75 * 2.0**e) for k in range(8)], 0
            yield [(0, 2.0**e, 2.0**e), (1, -(2.0**e), 2.0**e), (2, 1.0, 1.0)], 0


def crafted(kind):
    all_cases = list(cases(kind))
    tiles = -(-len(all_cases) // 8)
    a = np.zeros([tiles, 1, ROWS, terms(kind)], np.float32)
    b = np.zeros([tiles, 1, COLUMNS, terms(kind)], np.float32)
    c = np.zeros([tiles, ROWS, COLUMNS], np.float32)
    for i, (pairs, addend) in enumerate(all_cases):
        tile, place = divmod(i, 8)
        for k, x, y in pairs:
            a[tile, 0, place, k], b[tile, 0, place, k] = x, y
        c[tile, place, place] = addend
    with np.errstate(over="ignore"):
        return Batch("crafted", kind, a, b, c)


# ---- random tiles


def codes(rng, dtype, shape):
    """Every finite code alike."""
    size = np.dtype(dtype).itemsize
    raw = rng.integers(0, 1 << (8 * size), shape, np.uint32).astype(f"u{size}").view(dtype)
    return np.where(np.isfinite(raw.astype(np.float32)), raw.astype(np.float32), 1.0)


def log_floats(rng, shape, low, high):
    """float32 of random sign and mantissa, exponents uniform in [low, high]."""
    mantissa = 1 + rng.integers(0, 1 << 23, shape) / float(1 << 23)
    sign = rng.choice([-1.0, 1.0], shape)
    return (sign * mantissa * 2.0 ** rng.integers(low, high + 1, shape)).astype(np.float32)


def random(rng, kind, tiles, steps, how):
    _, a_type, b_type = KINDS[kind]
    a_shape = [tiles, steps, ROWS, terms(kind)]
    b_shape = [tiles, steps, COLUMNS, terms(kind)]
    c_shape = [tiles, ROWS, COLUMNS]
    is_wide = a_type in (np.float16, ml_dtypes.bfloat16)
    if how == "codes":
        a, b = codes(rng, a_type, a_shape), codes(rng, b_type, b_shape)
        if is_wide:  # within float32's range
            a, b = log_floats(rng, a_shape, -12, 12), log_floats(rng, b_shape, -12, 12)
        top = 2.0 ** (17 if a_type == ml_dtypes.float8_e4m3fn else 24)
        c = np.where(
            rng.random(c_shape) < 0.5,
            log_floats(rng, c_shape, -30, int(np.log2(top)) + 3),
            log_floats(rng, c_shape, 0, int(np.log2(top)) + 12),
        )
    elif how == "normal":  # activations and weights, C as an earlier partial sum
        a, b = rng.standard_normal(a_shape), rng.standard_normal(b_shape)
        c = rng.standard_normal(c_shape) * np.sqrt(1024)
    elif how == "normal, C = 0":
        a, b, c = rng.standard_normal(a_shape), rng.standard_normal(b_shape), np.zeros(c_shape)
    elif how == "lognormal":
        a = rng.standard_normal(a_shape) * np.exp(2 * rng.standard_normal(a_shape))
        b = rng.standard_normal(b_shape) * np.exp(2 * rng.standard_normal(b_shape))
        a, b = np.clip(a, -448, 448), np.clip(b, -448, 448)
        c = log_floats(rng, c_shape, -10, 14)
    elif how == "sparse, subnormal":
        scale = float(ml_dtypes.finfo(a_type).smallest_normal) if not is_wide else 2.0**-10
        a = rng.standard_normal(a_shape) * scale * (rng.random(a_shape) < 0.5)
        scale = float(ml_dtypes.finfo(b_type).smallest_normal) if not is_wide else 2.0**-10
        b = codes(rng, b_type, b_shape) if not is_wide else rng.standard_normal(b_shape) * scale
        b *= rng.random(b_shape) < 0.5
        c = log_floats(rng, c_shape, -40, 8) * (rng.random(c_shape) < 0.7)
    elif how == "positive":
        a, b = np.abs(rng.standard_normal(a_shape)), np.abs(rng.standard_normal(b_shape))
        c = np.abs(rng.standard_normal(c_shape))
    else:
        raise ValueError(how)
    with np.errstate(over="ignore"):
        return Batch(f"{how}, {steps} steps", kind, a, b, c)


def batches():
    rng = np.random.default_rng(20241227)
    for kind in KINDS:
        yield crafted(kind)
        is_main = kind in (0, 1)
        count = 96 if is_main else 16
        for how in (
            "codes",
            "normal",
            "normal, C = 0",
            "lognormal",
            "sparse, subnormal",
            "positive",
        ):
            yield random(rng, kind, count, 1, how)
        for steps in (2, 4, 8):
            yield random(rng, kind, count // 4, steps, "normal, C = 0")
            yield random(rng, kind, count // 8, steps, "codes")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    every = list(batches())
    with open(sys.argv[1], "wb") as file:
        file.write(b"TCPROBE1" + struct.pack("<i", len(every)))
        for batch in every:
            file.write(batch.tobytes())
    print(f"{len(every)} batches, {sum(b.tiles for b in every)} tiles")


if __name__ == "__main__":
    main()
