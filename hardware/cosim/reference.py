"""What the RTL's results are compared with: lp's fixed-point GEMM, fed the RTL's random bits."""

import numpy as np

import tf_lowprec as lp

# "floor" is stochastic rounding with r = 0.
_ROUNDINGS = {mode: mode for mode in ("toward_zero", "nearest_even", "nearest_up", "stochastic")}
_ROUNDINGS["floor"] = "stochastic"


def matmul_bits(a, b, cut, mode, result, word_length):
    """lp.matmul of integer matrices, as the integers that the accelerator gives.

    The integers stand for values in <WL, 0>, the result for ones in <WL + cut, -cut>. lp's formats
    have no negative FL, so that the operands are taken in <WL - f, f> with f such that
    FL = 2 f - cut is 0 or 1.

    Args:
        a, b: integer matrices.
        cut, mode: as for Accelerator.matmul.
        result: its Result, whose random_bits are used.
        word_length: WL.

    Returns:
        int32 [m, n].
    """
    left, right = operand_fractions(cut)
    out = left + right - cut
    formats = [lp.FixedPointFormat(word_length - f, f) for f in (left, right, out)]
    gemm = lp.Gemm(
        formats[0], formats[1], lp.Accumulator.wide(), formats[2], rounding=_ROUNDINGS[mode]
    )
    r = result.random_bits if mode == "stochastic" else np.zeros_like(result.random_bits)
    random = {"random_bits": r, "seed": (0, 0)} if gemm.rounding.value == "stochastic" else {}
    x, y = (np.ldexp(v.astype(np.float32), -f) for v, f in ((a, left), (b, right)))
    product = lp.matmul(x, y, gemm, **random)
    return np.array(lp.to_bits(product, formats[2])).astype(np.int32)


def operand_fractions(cut):
    """(FLa, FLb) with FLa + FLb >= cut, as equal as can be."""
    return (cut + 1) // 2, cut - (cut + 1) // 2
