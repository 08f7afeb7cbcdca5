"""Operands and accumulators that the tests of narrow accumulators share."""

import numpy as np
import oracle

import tf_lowprec as lp

OPERANDS = [
    lp.FP8_E5M2,
    lp.FP8_E4M3FN,
    lp.FP4_E2M1FN,
    lp.FP16,
    lp.BF16,
    lp.FixedPointFormat(2, 14),
    lp.FixedPointFormat(4, 4),
    None,
]
KINDS = ["ordinary", "ties", "extremes", "speckled", "finite", "patterns"]
SPECIAL = np.array(
    [0.0, -0.0, 1e-45, -1e-45, 1e-40, -1e-38, 3.4e38, np.inf, -np.inf, np.nan], np.float32
)


def operand(rng, shape, kind, format, mantissa_bits, exponent):
    """Random float32 values.

    ordinary: normal numbers times 2^exponent.
    ties: numbers of few bits, some of them half a last place of a sum of `mantissa_bits`, or just
        above or far below it.
    extremes: what is special about `format`, and powers of two about 2^exponent.
    speckled: ordinary ones, with zeros, subnormals, infinities and NaN strewn in.
    finite: any finite float32. patterns: any float32.
    """
    scale = 2.0**exponent
    with np.errstate(over="ignore", under="ignore"):
        if kind in ("ordinary", "speckled"):
            x = (rng.normal(size=shape) * scale).astype(np.float32)
            if kind == "speckled":
                x = np.where(rng.random(shape) < 1 / 12, rng.choice(SPECIAL, shape), x)
            return x
        if kind == "ties":
            drops = [0, 0, 0, 1, 2, mantissa_bits + 1, mantissa_bits + 1, mantissa_bits + 2, 24, 40]
            integers = rng.choice([-3, -2, -1, 1, 1, 2, 3, 5], shape)
            return (integers * scale * 2.0 ** -rng.choice(drops, shape)).astype(np.float32)
        if kind == "extremes":
            of = format or lp.FP32
            values = [0.0, oracle.smallest(of), oracle.largest(of), oracle.largest(of) / 2]
            values += [scale, 1.5 * scale, scale * 2.0 ** -(mantissa_bits + 1)]
            return (rng.choice(values, shape) * rng.choice([-1, 1], shape)).astype(np.float32)
    x = rng.integers(0, 2**32, shape, np.uint32).view(np.float32)
    return x if kind == "patterns" else np.where(np.isfinite(x), x, np.float32(0))


def exponents(format, where, rng):
    """Powers of two of two operands, for products in the middle of an accumulator's range, at its
    lower end or at its upper."""
    bias = 2 ** (format.exponent_bits - 1) - 1
    total = {
        "middle": rng.integers(-1, 2),
        "low": 1 - bias - rng.integers(-1, format.mantissa_bits + 2),
        "high": bias + rng.integers(-2, 2),
    }[where]
    left = int(np.clip(total // 2 + rng.integers(-3, 4), -140, 120))
    return left, int(total) - left


def narrow(mantissa_bits, chunk, rounding="nearest_even"):
    return lp.Accumulator(lp.FloatFormat(6, mantissa_bits), chunk, rounding)


# A format, chunk and rounding of its own for each pass, so that none is taken for another.
DIFFERENT = lp.Policy(
    lp.Gemm(lp.FP8_E4M3FN, lp.FP8_E5M2, narrow(5, 7), lp.FP16),
    lp.Gemm(lp.FP8_E5M2, lp.FP6_E3M2FN, narrow(4, 5, "toward_zero"), lp.BF16),
    lp.Gemm(lp.FP4_E2M1FN, lp.FP8_E4M3FN, narrow(3, None, "nearest_up"), lp.FloatFormat(5, 5)),
)
STOCHASTIC = lp.Policy(
    lp.Gemm(lp.FP8_E4M3FN, lp.FP8_E5M2, narrow(5, 7, "stochastic"), lp.FP16, "stochastic"),
    lp.Gemm(lp.FP8_E5M2, lp.FP6_E3M2FN, narrow(4, 5, "stochastic"), lp.BF16, "stochastic"),
    lp.Gemm(lp.FP4_E2M1FN, lp.FP8_E4M3FN, narrow(3, None, "stochastic"), lp.BF16, "stochastic"),
)
