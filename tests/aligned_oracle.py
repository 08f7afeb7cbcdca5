"""Slow, obvious twin of aligned accumulators and MX block formats, in exact fractions.

Written from docs/hardware_formats.md alone. No TensorFlow.
"""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import oracle


def exponent(x, lowest):
    """Exponent of the leading bit of a float that is not 0, but at least `lowest`."""
    return max(math.frexp(x)[1] - 1, lowest)


def cut(x, quantum):
    """x toward zero to a multiple of 2^quantum."""
    unit = Fraction(2) ** quantum
    whole = abs(x) // unit
    return (whole if x > 0 else -whole) * unit


def round_sum(x, format, rounding):
    """x to a format's grid; beyond it, infinity."""
    if x == 0:
        return 0.0
    lowest = 1 - oracle.bias(format)
    magnitude = abs(x)
    top = magnitude.numerator.bit_length() - magnitude.denominator.bit_length() - 1
    while Fraction(2) ** (top + 1) <= magnitude:
        top += 1
    unit = Fraction(2) ** (max(top, lowest) - format.mantissa_bits)
    whole, rest = divmod(magnitude, unit)
    if rounding == "nearest_even":
        whole += 2 * rest > unit or (2 * rest == unit and whole % 2 == 1)
    result = whole * unit
    if result == 0:
        return 0.0
    if result >= Fraction(2) ** (oracle.bias(format) + 1):
        return math.copysign(math.inf, x)
    return math.copysign(float(result), x)


def group(s, a, b, accumulator, lowest):
    """The sum after one group: s and the products of the floats in a and b."""
    products = [x * y for x, y in zip(a, b)]  # exact in float64, or not finite
    special = [t for t in (s, *products) if not math.isfinite(t)]
    if special:
        return float(np.sum(np.float64(special)))
    terms = [(Fraction(s), exponent(s, -126))] if s else []
    for x, y in zip(a, b):
        if x and y:
            nominal = exponent(x, lowest[0]) + exponent(y, lowest[1])
            terms.append((Fraction(x) * Fraction(y), nominal))
    if not terms:
        return 0.0
    quantum = max(e for _, e in terms) - accumulator.fraction_bits
    total = sum(cut(value, quantum) for value, _ in terms)
    return round_sum(total, accumulator.format, accumulator.rounding.value)


def dot(a, b, accumulator, formats):
    """sum_k a[k] b[k] of Python floats on the grids of two formats."""
    lowest = [1 - oracle.bias(f) for f in formats]
    s, total = 0.0, np.float32(0)
    for begin in range(0, len(a), accumulator.group):
        end = begin + accumulator.group
        s = group(s, a[begin:end], b[begin:end], accumulator, lowest)
        if accumulator.promote and end % accumulator.promote == 0:
            total, s = total + np.float32(s), 0.0
    return total + np.float32(s) if accumulator.promote else np.float32(s)


def product(a, b, accumulator, formats):
    """a . b of arrays [M, K] and [K, N], values on the grids of `formats`, as float32."""
    with np.errstate(all="ignore"):
        sums = [[dot(x, y, accumulator, formats) for y in b.T.tolist()] for x in a.tolist()]
    return np.array(sums, np.float32).reshape(len(a), b.shape[1])


# MX block formats.


def mx(x, format, axis, rounding="nearest_even", r=None):
    """(values, scale codes) of an array in blocks along an axis; r: random bits of its shape."""
    element = dataclasses.replace(format.element, saturate=True)
    top = exponent(oracle.largest(element), -1000)
    moved = np.moveaxis(x, axis, -1)
    bits = np.zeros(moved.shape, int) if r is None else np.moveaxis(r, axis, -1)
    length = moved.shape[-1]
    rows, codes = [], []
    for row, bits_of_row in zip(moved.reshape(-1, length), bits.reshape(-1, length)):
        rows.append([])
        for begin in range(0, length, format.block):
            block = row[begin : begin + format.block].astype(np.float64).tolist()
            if not all(map(math.isfinite, block)):
                rows[-1] += [math.nan] * len(block)
                codes.append(255)
                continue
            largest = max(map(abs, block))
            scale = max(exponent(largest, -1000) - top, -127) if largest else -127
            for v, bit in zip(block, bits_of_row[begin : begin + format.block].tolist()):
                y = oracle.round_value(math.ldexp(v, -scale), element, rounding, bit)
                rows[-1].append(math.ldexp(y, scale))
            codes.append(scale + 127)
    values = np.array(rows, np.float32).reshape(moved.shape)
    scales = np.array(codes, np.uint8).reshape(*moved.shape[:-1], -(-length // format.block))
    return np.moveaxis(values, -1, axis), np.moveaxis(scales, -1, axis)
