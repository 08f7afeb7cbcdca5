"""Rounding noise of narrow sums in closed form: our own rule, beside the paper's VRR.

VRR counts lost variance. Where partial sums are rounded to nearest their variance is nearly kept,
and what grows first is zero-mean rounding noise; where they are truncated, each addition pulls the
sum toward zero, and it forgets its first terms. Both follow from the size of a unit in the last
place (ulp) of a random number.
"""

import math
import numbers

from tf_lowprec.analysis.error_model import propagate
from tf_lowprec.analysis.vrr import (
    MAX_MANTISSA_BITS,
    check_chunk,
    check_mantissa,
    check_nzr,
    check_product,
    check_terms,
)
from tf_lowprec.formats import Rounding

# E[ulp^2] / E[s^2] and E[ulp |s|] / E[s^2], times 4^m and 2^m: the means of x^-2 and of 1 / x for a
# log-uniform significand x in [1, 2).
_ULP_SQUARED = 3 / (8 * math.log(2))
_ULP_RATIO = 1 / (2 * math.log(2))
# Variance of one rounding in ulp^2: uniform in +-1/2; f (1 - f) for uniform f.
_VARIANCE = {
    Rounding.NEAREST_EVEN: 1 / 12,
    Rounding.NEAREST_UP: 1 / 12,
    Rounding.STOCHASTIC: 1 / 6,
}


def rounding_noise(m_acc, n, chunk=None, nzr=1.0, *, rounding="nearest_even", m_p=None):
    """Noise-to-signal ratio of a narrow sum: variance of its error over its ideal variance.

    A partial sum of i terms has variance i sigma^2; its rounding errs by ulp^2 / 12, and
    ``E[ulp^2] = 4^-m i sigma^2 3 / (8 ln 2)`` for a log-uniform significand. Summed over i::

        nearest      c n 4^-m,          in chunks c (n1 + n2) 4^-m,       c = 3 / (8 ln 2) / 24
        stochastic   twice that: f (1 - f) of a uniform f has mean 1/6, not 1/12

    Toward zero, an addition loses half an ulp of the sum on average, so that the sum decays as
    ``ds = dp - l s di`` with ``l = 2^-m / (4 ln 2)`` (an Ornstein-Uhlenbeck process), and a term k
    additions before the end is left with the factor e^(-l k). Its error has the variance ratio::

        toward zero  1 - 2 g(l) + g(2 l),   g(l) = (1 - e^(-l n)) / (l n)
                     in chunks g(l) = (1 - e^(-l n1)) / (l n1) * (1 - e^(-l n2)) / (l n2)

    which is ``(l n)^2 / 3`` while small. The retained variance is g(2 l) (`truncation_vrr`).

    It holds below the onset of swamping, that is up to a ratio of about 0.1, and where terms have
    several bits below the sum's ulp. While the sum is so small that they have few, before
    ``n ~ 4^(m_acc - m_p + 1)``, most additions are exact and there is less noise. With `m_p` that
    is counted, by a recurrence over the additions instead of the closed form (error_model.py).
    docs/vrr.md compares both with measurements.

    Args:
        m_acc: mantissa bits of the accumulator, 1..23.
        n: number of terms.
        chunk: terms in a chunk, n1; n2 = ceil(n / n1). None: one sum.
        nzr: ratio of terms that are not zero: adding 0 rounds nothing, so nzr n stands for n.
        rounding: a Rounding or its name.
        m_p: mantissa bits of the terms, or None for terms of any number of bits.

    Raises:
        ValueError: an argument out of range.
    """
    check_mantissa(m_acc, "m_acc")
    rounding = Rounding.of(rounding)
    lengths = _lengths(n, chunk, nzr)
    if m_p is not None:
        return propagate(m_acc, check_product(m_p), lengths, rounding)[1]
    if rounding == Rounding.TOWARD_ZERO:
        return _truncation_noise(m_acc, lengths)
    return _VARIANCE[rounding] * _ULP_SQUARED / 2 * sum(lengths) * 4.0**-m_acc


def truncation_vrr(m_acc, n, chunk=None, nzr=1.0, *, m_p=None):
    """Retained variance of a sum whose partial sums are rounded toward zero.

    ``(1 - e^(-2 l n)) / (2 l n)``, ``l = 2^-m_acc / (4 ln 2)``; in chunks, the product of the
    ratios of both levels. Derivation, arguments and errors: `rounding_noise`.
    """
    check_mantissa(m_acc, "m_acc")
    lengths = _lengths(n, chunk, nzr)
    if m_p is not None:
        return propagate(m_acc, check_product(m_p), lengths, Rounding.TOWARD_ZERO)[0]
    return _kept(2 * _decay(m_acc), lengths)


def noise_mantissa(m_p, n, chunk=None, nzr=1.0, noise_to_signal=1e-2, rounding="nearest_even"):
    """Smallest m_acc whose `rounding_noise` is at most noise_to_signal; see `minimum_mantissa`.

    For nearest rounding ``m = ceil(1/2 log2(c (n1 + n2) / noise_to_signal))``.
    """
    check_noise(noise_to_signal)
    check_nzr(nzr)
    if check_terms(n) <= 2:
        return min(m_p, MAX_MANTISSA_BITS)
    for m_acc in range(1, MAX_MANTISSA_BITS + 1):
        if rounding_noise(m_acc, n, chunk, nzr, rounding=rounding) <= noise_to_signal:
            return m_acc
    raise ValueError(
        f"noise_to_signal = {noise_to_signal}: no accumulator of up to {MAX_MANTISSA_BITS} "
        f"mantissa bits sums n = {n} terms with so little; use "
        f"chunk={best_chunk(n)}, or allow more"
    )


def best_chunk(n):
    """The chunk with the least noise for a sum of n terms: ceil(sqrt(n)).

    It minimizes n1 + ceil(n / n1), which is then ceil(2 sqrt(n)).
    """
    n = check_terms(n)
    return math.isqrt(n - 1) + 1


def check_noise(value):
    if not isinstance(value, numbers.Real) or not 0 < value < 1:
        raise ValueError(
            f"noise_to_signal = {value!r} must be between 0 and 1, such as 1e-2: the variance of "
            "the error over that of the sum"
        )
    return float(value)


def _lengths(n, chunk, nzr):
    """Lengths of the sums that a term goes through."""
    n, nzr, chunk = check_terms(n), check_nzr(nzr), check_chunk(chunk)
    if chunk is None or chunk >= n:
        return [max(1.0, nzr * n)]
    return [max(1.0, nzr * chunk), -(-n // chunk)]


def _decay(m_acc):
    return _ULP_RATIO / 2 * 2.0**-m_acc


def _kept(rate, lengths):
    return math.prod(-math.expm1(-rate * n) / (rate * n) for n in lengths)


def _truncation_noise(m_acc, lengths):
    rate = _decay(m_acc)
    if rate * sum(lengths) < 1e-3:
        # The mean of (l t)^2, t the additions that follow a term: nothing cancels.
        squares = sum(n * n / 3 for n in lengths)
        return rate**2 * (squares + (math.prod(lengths) / 2 if len(lengths) > 1 else 0.0))
    return 1 - 2 * _kept(rate, lengths) + _kept(2 * rate, lengths)
