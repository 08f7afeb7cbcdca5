"""The error of a narrow sum when the terms' own grid counts: the closed forms of noise.py, refined.

noise.py takes all bits below a sum's ulp as uniform. But terms have m_p mantissa bits: while the
sum is small most of its additions are exact, and where only a bit or two fall below the ulp their
distribution is discrete. Here every pair of binades of sum and term is weighed by its probability.
"""

import functools
import math

import numpy as np

from tf_lowprec.formats import Rounding

_BINADES = np.arange(-64, 65)
_STEPS_PER_OCTAVE = 8
_erf = np.frompyfunc(math.erf, 1, 1)


def propagate(m_acc, m_p, lengths, rounding):
    """(retained variance, error variance), relative to the exact sum's, of normal terms.

    Per addition, with e the binade of the sum's ulp, and b the bits of the term below it::

        nearest      error variance 4^e (1 + 2 4^-b) / 12; a term p below half an ulp vanishes, and
                     with it the variance p^2
        stochastic   error variance 4^e (1 - 4^-b) / 6, or |p| (ulp - |p|) of a term below it
        toward zero  mean loss of magnitude 2^e (1 - 2^-b) / 2: the sum decays at the rate
                     l = E[|s| loss] / E[s^2]

    Over the additions i, of the variance V of the sum s, the covariance D of s and S - s, and the
    variance W of the error S - s, each term bringing v, d, w; e error variance, p^2 vanished::

        V' = v + e - p^2 - 2 l V        D' = d - e + l (V - D)        W' = w + e + p^2 + 2 l D

    For a sum of chunks the terms are the chunks' sums, with their V, D and W.

    Args:
        m_acc: mantissa bits of the accumulator.
        m_p: mantissa bits of the terms.
        lengths: [n], or [n1, n2] of a sum in chunks.
        rounding: a Rounding.
    """
    v, d, w = 1.0, 0.0, 0.0
    for n in lengths:
        v, d, w = _sum(m_acc, min(m_p, 60), n, rounding, v, d, w)
        m_p = min(m_acc, m_p + round(math.log2(max(1.0, n))))
    terms = math.prod(lengths)
    return v / terms, w / terms


def _sum(m_acc, m_p, n, rounding, v, d, w):
    """V, D and W of n terms that bring v, d and w each."""
    scale = math.sqrt(v)
    variance, covariance, error = v, d, w  # the first addition, to 0, is exact
    i = 1.0
    while i < n:
        step = min(max(1.0, i * (2 ** (1 / _STEPS_PER_OCTAVE) - 1)), n - i)
        middle = math.sqrt(variance + v * (step + 1) / 2) / scale
        rate, noise, lost = _addition(m_acc, m_p, rounding, round(16 * math.log2(middle)))
        brought = (v * (1 + noise - lost), d - noise * v, w + (noise + lost) * v)
        variance, covariance, error = _advance(variance, covariance, error, *brought, rate, step)
        i += step
    return variance, covariance, error


def _advance(variance, covariance, error, v, d, w, rate, step):
    """The three after `step` additions at a constant rate of decay."""
    x = rate * step
    if x < 1e-3:
        variance_mid = variance + step / 2 * (v - 2 * rate * variance)
        covariance_mid = covariance + step / 2 * (d + rate * (variance - covariance))
        return (
            variance + step * (v - 2 * rate * variance_mid),
            covariance + step * (d + rate * (variance_mid - covariance_mid)),
            error + step * (w + 2 * rate * covariance_mid),
        )
    settled = v / (2 * rate)
    a = settled - variance
    limit = settled + d / rate
    b = covariance - limit - a
    once, twice = -math.expm1(-x), -math.expm1(-2 * x)
    return (
        variance + a * twice,
        limit + a * (1 - twice) + b * (1 - once),
        error + w * step + 2 * x * limit + a * twice + 2 * b * once,
    )


@functools.lru_cache(maxsize=65536)
def _addition(m_acc, m_p, rounding, log_std):
    """(rate of decay, error variance, variance of terms that vanish) of one addition.

    Of N(0, 1) to a sum of std 2^(log_std / 16).
    """
    std = 2.0 ** (log_std / 16)
    sums, magnitudes, _ = _moments(std)
    terms, term_magnitudes, term_squares = _moments(1.0)
    ulp = (_BINADES - m_acc)[:, None]
    term = _BINADES[None, :]
    below = np.clip(ulp - (term - m_p), 0, 100)
    unit = np.exp2(ulp.astype(np.float64))
    if rounding == Rounding.TOWARD_ZERO:
        loss = unit * (1 - 0.5**below) / 2
        scatter = unit**2 * (1 - 0.25**below) / 12
        return float(magnitudes @ loss @ terms) / std**2, float(sums @ scatter @ terms), 0.0
    if rounding == Rounding.STOCHASTIC:
        visible = unit**2 * (1 - 0.25**below) / 6 * terms
        hidden = unit * term_magnitudes - term_squares
        return 0.0, float(sums @ np.where(term < ulp, hidden, visible).sum(1)), 0.0
    vanishes = term < ulp - 1
    uniform = np.where(below > 0, unit**2 * (1 + 2 * 0.25**below) / 12, 0.0) * terms
    return (
        0.0,
        float(sums @ np.where(vanishes, 0.0, uniform).sum(1)),
        float(sums @ np.where(vanishes, term_squares, 0.0).sum(1)),
    )


def _moments(std):
    """P, E|x| and E x^2 of x ~ N(0, std^2) in the binades 2^e <= |x| < 2^(e+1)."""
    z = np.exp2(np.append(_BINADES, _BINADES[-1] + 1).astype(np.float64)) / std
    mass = _erf(z / math.sqrt(2)).astype(np.float64)
    density = math.sqrt(2 / math.pi) * np.exp(-np.minimum(z * z, 1400.0) / 2)
    first = -density * std
    second = (mass - z * density) * std**2
    return np.diff(mass), np.diff(first), np.diff(second)
