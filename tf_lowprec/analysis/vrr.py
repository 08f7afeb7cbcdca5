"""The variance retention ratio of Sakr et al. (2019): how many accumulator bits a sum needs.

A sum of n independent, zero-mean terms with m_p mantissa bits is accumulated with m_acc mantissa
bits. As it grows, terms lose their low bits to the sum's coarser grid (partial swamping, stages
1 .. m_p), and at last vanish in it (full swamping). VRR is the part of the ideal variance that is
left. All functions here take plain numbers and are pure.
"""

import functools
import math
import numbers

import numpy as np

from tf_lowprec.analysis.sums import quadrature

#: v(n) below this calls an accumulator suitable (Sakr et al., 2019, section 4.4).
CUTOFF = 50.0
#: The widest accumulator that is considered: float32's.
MAX_MANTISSA_BITS = 23
MAX_TERMS = 2**62

_erf = np.frompyfunc(math.erf, 1, 1)
_erfc = np.frompyfunc(math.erfc, 1, 1)


def vrr(m_acc, m_p, n, nzr=1.0, *, printed_stages=False):
    """Variance retention ratio of one sequential sum.

    With Q the standard normal tail and ``A = 2^m_acc``::

        q_i  = 2Q(A / sqrt(i)) (1 - 2Q(A / sqrt(i-1)))                            i = 2 .. n-1
        a_r  = 2^(m_acc - 3 m_p) / 3  sum_{j=1}^{r-1} 2^j (2^j - 1)(2^(j+1) - 1)
        a    = the same sum up to j = m_p
        A_r  = 2^(m_acc - m_p + r)
        q'_r = 2Q(A_r / (2 sqrt(n))) (1 - 2Q(A_r / sqrt(n)))                      r = 2 .. m_p
        k3   = 1 - 2Q(A_1 / sqrt(n))
        k    = sum_{i>a} q_i + sum_{r: n>a_r} q'_r + k3
        VRR  = [ sum_{i>a} (i - a) q_i + sum_{r: n>a_r} (n - a_r) q'_r + n k3 ] / (k n)

    It is ``1 - vrr_loss(...)``; use `vrr_loss` where the difference from 1 matters.

    Source: Sakr et al., "Accumulation Bit-Width Scaling for Ultra-Low Precision Training of Deep
    Networks", ICLR 2019, theorem 1 (and equation 1 for a = 0, its lemma 1). The theorem as printed
    may weight q'_r with N_{r-1}, the number of terms in stage r - 1; q'_r is a probability, and
    without the weight the widths come closer to the paper's table, so it is left out.

    Args:
        m_acc: mantissa bits of the accumulator, 1..23.
        m_p: mantissa bits of the terms, 1..47; of products of two (1, e, m): 2 m + 1.
        n: number of terms, at least 1.
        nzr: ratio of terms that are not zero, in (0, 1]; ``max(1, nzr n)`` stands for n.
        printed_stages: weight q'_r with ``N_{r-1} = 2^(m_acc - m_p + r)``.

    Returns:
        The ratio, in (0, 1].

    Raises:
        ValueError: an argument out of range.
    """
    return 1.0 - vrr_loss(m_acc, m_p, n, nzr, printed_stages=printed_stages)


def vrr_loss(m_acc, m_p, n, nzr=1.0, *, printed_stages=False):
    """``1 - VRR``, to a relative error of 1e-6 or better for every n.

    ``[ sum_{i>a} (n - i + a) q_i + sum_{r: n>a_r} a_r q'_r ] / (k n)``: a sum of positive terms, in
    which nothing cancels. It is taken over Gauss points for the integers (see sums.py), so that
    10^9 terms cost as many evaluations as a few thousand. Arguments as for `vrr`.
    """
    check_mantissa(m_acc, "m_acc")
    check_product(m_p)
    return _loss(m_acc, m_p, _effective(check_terms(n), check_nzr(nzr)), bool(printed_stages))


@functools.lru_cache(maxsize=65536)
def _loss(m_acc, m_p, n, printed_stages=False):
    root = math.sqrt(n)
    scale = 2.0 ** (m_acc - 3 * m_p) / 3
    steps = [2.0**j * (2.0**j - 1) * (2.0 ** (j + 1) - 1) for j in range(1, m_p + 1)]
    alpha = scale * math.fsum(steps)

    lost = kept = 0.0
    amplitude = 2.0**m_acc / math.sqrt(2)  # 2Q(x) = erfc(x / sqrt 2)
    # erfc(x) is 0 in double precision for x > 27.3: such terms cannot be told from none.
    first = max(2, math.floor(alpha) + 1, math.ceil((amplitude / 27.3) ** 2))
    last = math.ceil(n) - 1
    if first <= last:
        i, weights = quadrature(first, last, amplitude**2)
        tail = _erfc(amplitude / np.sqrt(i)).astype(np.float64)
        q = weights * tail * _erf(amplitude / np.sqrt(i - 1)).astype(np.float64)
        kept += q.sum()
        lost += ((n - i + alpha) * q).sum()
    for r in range(2, m_p + 1):
        alpha_r = scale * math.fsum(steps[: r - 1])
        if n > alpha_r:
            x = 2.0 ** (m_acc - m_p + r) / (root * math.sqrt(2))
            q = math.erfc(x / 2) * math.erf(x)
            if printed_stages:
                q *= 2.0 ** (m_acc - m_p + r)
            kept += q
            lost += alpha_r * q
    kept += math.erf(2.0 ** (m_acc - m_p + 1) / (root * math.sqrt(2)))
    return float(lost / (kept * n))


def vrr_chunked(m_acc, m_p, n, chunk, nzr=1.0):
    """Variance retention ratio of a sum in chunks: of n2 = ceil(n / n1) sums of n1 = chunk terms.

    ``VRR(m_acc, m_p, n1) VRR(m_acc, min(m_acc, m_p + log2 n1), n2)``: a chunk's sum has grown by
    log2(n1) bits, rounded to an integer. With sparsity, nzr n1 stands for n1.

    Source: Sakr et al., 2019, corollary 1. Arguments and errors as for `vrr`; `chunk` is a positive
    integer.
    """
    kept = 1.0
    for level in _levels(m_acc, m_p, n, chunk, nzr):
        kept *= 1.0 - _loss(*level)
    return kept


def variance_lost(m_acc, m_p, n, chunk=None, nzr=1.0):
    """Normalized exponential variance lost, ``v(n) = exp(n (1 - VRR))``: suitable below 50.

    Source: Sakr et al., 2019, section 4.4. In chunks there are two sums, of n1 and of n2 terms, and
    the larger v counts. Infinite where float64 cannot hold it. Arguments and errors as for
    `vrr_chunked`.
    """
    exponent = max(_exponent(level) for level in _levels(m_acc, m_p, n, chunk, nzr))
    return math.exp(exponent) if exponent < 709 else math.inf


def formula_mantissa(m_p, n, chunk=None, nzr=1.0, cutoff=CUTOFF):
    """Smallest m_acc with v < cutoff; m_p for n <= 2. See `minimum_mantissa`."""
    bound = math.log(check_cutoff(cutoff))
    check_product(m_p)
    terms, nzr, chunk = check_terms(n), check_nzr(nzr), check_chunk(chunk)
    if terms <= 2:  # not of the terms that are not zero: more zeros would ask for more bits
        return min(m_p, MAX_MANTISSA_BITS)
    for m_acc in range(1, MAX_MANTISSA_BITS + 1):
        if all(_exponent(level) < bound for level in _levels(m_acc, m_p, terms, chunk, nzr)):
            return m_acc
    raise ValueError(
        f"n = {n}: no accumulator of up to {MAX_MANTISSA_BITS} mantissa bits is suitable; "
        + ("sum in chunks, such as chunk=64" if chunk is None else f"change chunk = {chunk}")
    )


def _levels(m_acc, m_p, n, chunk, nzr):
    """(m_acc, m_p, n) of each sequential sum, checked: one, or chunk and sum of chunks."""
    check_mantissa(m_acc, "m_acc")
    check_product(m_p)
    n, nzr, chunk = check_terms(n), check_nzr(nzr), check_chunk(chunk)
    if chunk is None or chunk >= n:
        return [(m_acc, m_p, _effective(n, nzr))]
    inner = _effective(chunk, nzr)
    grown = min(m_acc, m_p + round(math.log2(inner)))
    return [(m_acc, m_p, inner), (m_acc, grown, float(-(-n // chunk)))]


def _exponent(level):
    """n (1 - VRR) of one sequential sum; 0 for two terms, whose sum m_p bits take by decree."""
    m_acc, m_p, n = level
    return 0.0 if n <= 2 and m_acc >= m_p else n * _loss(m_acc, m_p, n)


def _effective(n, nzr):
    return max(1.0, nzr * n)


def _is_integer(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_mantissa(value, name):
    if not _is_integer(value) or not 1 <= value <= MAX_MANTISSA_BITS:
        raise ValueError(f"{name} = {value!r} must be an integer in 1..{MAX_MANTISSA_BITS}")
    return int(value)


def check_product(m_p, name="m_p"):
    if not _is_integer(m_p) or not 1 <= m_p <= 47:
        raise ValueError(
            f"{name} = {m_p!r} must be an integer in 1..47: 2 m + 1 for operands of m mantissa bits"
        )
    return int(m_p)


def check_terms(n, name="n"):
    if isinstance(n, float) and n.is_integer():
        n = int(n)  # 1e9 is how people write it
    if not _is_integer(n) or not 1 <= n <= MAX_TERMS:
        raise ValueError(f"{name} = {n!r} must be a positive integer, the number of terms, <= 2^62")
    return int(n)


def check_batch_size(batch_size):
    if not _is_integer(batch_size) or batch_size < 1:
        raise ValueError(
            f"batch_size = {batch_size!r} must be a positive integer; the sums of GRAD grow with it"
        )
    return int(batch_size)


def check_count(value, name):
    if not _is_integer(value) or value < 1:
        raise ValueError(f"{name} = {value!r} must be a positive integer")
    return int(value)


def check_seed(seed):
    if not _is_integer(seed) or not 0 <= seed < 2**31:
        raise ValueError(f"seed = {seed!r} must be an integer in 0..2^31-1")
    return int(seed)


def check_chunk(chunk, name="chunk"):
    if chunk is not None and (not _is_integer(chunk) or chunk < 1):
        raise ValueError(f"{name} = {chunk!r} must be a positive integer, or None for one sum")
    return chunk if chunk is None else int(chunk)


def check_nzr(nzr, name="nzr"):
    if not isinstance(nzr, numbers.Real) or not 0 < nzr <= 1:
        raise ValueError(f"{name} = {nzr!r} must be in (0, 1], the ratio of terms that are not 0")
    return float(nzr)


def check_cutoff(cutoff):
    if not isinstance(cutoff, numbers.Real) or not 1 < cutoff < math.inf:
        raise ValueError(f"cutoff = {cutoff!r} must be above 1; the paper's is {CUTOFF:g}")
    return float(cutoff)
