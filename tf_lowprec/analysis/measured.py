"""What a narrow accumulator does to a sum, measured by running the op on an ensemble of sums."""

import dataclasses
import math
import numbers
import statistics

import numpy as np

from tf_lowprec import formats
from tf_lowprec.analysis.vrr import MAX_MANTISSA_BITS, check_chunk, check_nzr, check_terms
from tf_lowprec.ops.matmul import matmul
from tf_lowprec.ops.quantize import quantize
from tf_lowprec.precision import Accumulator, Gemm

# Terms in memory at once, unless a single run of the op for 16 sums needs more.
_BLOCK = 2**23
_MOST_TERMS = 2**26  # of which 16 take 4 GiB


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Variances over an ensemble of sums, relative to the variance of the exact sums.

    ``float(measurement)`` is `vrr`.

    Attributes:
        vrr: retained variance, ``Var(s) / Var(S)``: s the narrow sums, S the exact ones.
        vrr_interval: its interval (low, high).
        noise: error variance, ``Var(s - S) / Var(S)``, the noise-to-signal ratio.
        noise_interval: its interval (low, high).
        n: terms of each sum.
        samples: sums in the ensemble.
        confidence: of the intervals, e.g. 0.95.
    """

    vrr: float
    vrr_interval: tuple
    noise: float
    noise_interval: tuple
    n: int
    samples: int
    confidence: float

    def __float__(self):
        return self.vrr

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        intervals = {k: tuple(config[k]) for k in ("vrr_interval", "noise_interval")}
        return cls(**{**config, **intervals})


def measured_vrr(
    accumulator,
    product_mantissa_bits,
    n,
    samples=1024,
    seed=0,
    *,
    nzr=1.0,
    confidence=0.95,
    operand=None,
):
    """Retained variance and error variance of sums of n terms, from running the real op.

    Terms are normal numbers rounded to nearest with `product_mantissa_bits`; lp.matmul multiplies
    them by one and adds them up under `accumulator`, whatever its rounding and chunk. With
    `operand`, which aligned accumulators need, they are products of two normal numbers rounded to
    it, the first of them shared by the sums of a block. Exact sums of the same terms, in float64,
    are what the variances are compared with, so that the noise of the ensemble itself cancels.

    The intervals are normal ones for a ratio of two variances of the same ensemble (delta method):
    with z_i the squared deviations in numerator and denominator, the standard error of
    ``R = sum z_i / sum Z_i`` is ``std(z_i - R Z_i) / (mean(Z) sqrt(samples))``.

    Args:
        accumulator: an Accumulator with a format, or an aligned one.
        product_mantissa_bits: of the terms, 1..23; 5 for products of E5M2 operands. None with
            `operand`.
        n: terms of each sum.
        samples: number of sums, at least 2. Time is about 15 ns n samples.
        seed: integer, or two of 32 bits; the same seed gives the same terms, whatever the
            accumulator.
        nzr: ratio of terms that are not zero; the others are zeroed at random.
        confidence: of the intervals.
        operand: a FloatFormat, or None.

    Returns:
        A Measurement.

    Raises:
        ValueError: an argument out of range; sums that overflow the accumulator's format, or are
            all the same, as where none has a term that is not zero.
    """
    (measurement,) = measure(
        [accumulator],
        product_mantissa_bits,
        n,
        samples,
        seed,
        nzr=nzr,
        confidence=confidence,
        operand=operand,
    )
    return measurement


def measure(
    accumulators,
    product_mantissa_bits,
    n,
    samples=1024,
    seed=0,
    *,
    nzr=1.0,
    confidence=0.95,
    operand=None,
):
    """`measured_vrr` of several accumulators on the same terms; a list."""
    for accumulator in accumulators:
        _check_accumulator(accumulator, operand)
    format = _term_format(product_mantissa_bits) if operand is None else operand
    n, nzr = check_terms(n), check_nzr(nzr)
    if isinstance(samples, bool) or not isinstance(samples, numbers.Integral) or samples < 2:
        raise ValueError(f"samples = {samples!r} must be an integer of at least 2")
    seed = _seed(seed)
    if not isinstance(confidence, numbers.Real) or not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence!r} must be between 0 and 1, such as 0.95")
    if n > _MOST_TERMS:
        raise ValueError(f"n = {n:,}: of sums of more than {_MOST_TERMS:,} terms none are measured")
    width = min(samples, max(16, _BLOCK // n))
    exact, narrow = [], [[] for _ in accumulators]
    for block, first in enumerate(range(0, samples, width)):
        rng = np.random.Generator(np.random.Philox(key=[seed, block]))
        shape = (n, min(width, samples - first))
        terms = quantize(rng.standard_normal(shape, np.float32), format).numpy()
        if nzr < 1:
            terms *= rng.random(shape, np.float32) < nzr
        if operand is None:
            factors = np.ones((1, n), np.float32)
            exact.append(terms.sum(0, dtype=np.float64))
        else:
            factors = quantize(rng.standard_normal((1, n), np.float32), format).numpy()
            exact.append(np.float64(factors[0]) @ np.float64(terms))
        for accumulator, sums in zip(accumulators, narrow):
            gemm = Gemm(operand, operand, accumulator)
            sums.append(matmul(factors, terms, gemm, seed=(seed, block))[0].numpy())
    exact = np.concatenate(exact)
    return [
        _compare(accumulator, np.concatenate(sums), exact, n, confidence)
        for accumulator, sums in zip(accumulators, narrow)
    ]


def _seed(seed):
    """One integer of an integer, or of two as ops take them."""

    def is_below(x, limit):
        return isinstance(x, numbers.Integral) and not isinstance(x, bool) and 0 <= x < limit

    if is_below(seed, 2**63):
        return int(seed)
    if isinstance(seed, (tuple, list)) and len(seed) == 2 and all(is_below(s, 2**32) for s in seed):
        return int(seed[0]) + (int(seed[1]) << 32)
    raise ValueError(
        f"seed = {seed!r} must be an integer from 0 to 2^63 - 1, or two from 0 to 2^32 - 1"
    )


def _compare(accumulator, narrow, exact, n, confidence):
    if not np.all(np.isfinite(narrow)):
        raise ValueError(
            f"accumulator = {accumulator.format}: sums of n = {n} normal terms overflow it; give "
            "it more exponent bits"
        )
    if np.all(exact == exact[0]):
        raise ValueError(
            f"n = {n} and samples = {len(exact)}: all sums are {exact[0]:g}, so that there is no "
            "variance to be retained; take more terms or samples, or a greater nzr"
        )
    vrr, vrr_interval = variance_ratio(narrow, exact, confidence)
    noise, noise_interval = variance_ratio(narrow - exact, exact, confidence)
    return Measurement(vrr, vrr_interval, noise, noise_interval, n, len(exact), confidence)


def variance_ratio(x, reference, confidence=0.95):
    """``Var(x) / Var(reference)`` of paired samples, with its normal interval (low, high)."""
    z, zz = (np.square(v - v.mean()) for v in (np.float64(x), np.float64(reference)))
    if not zz.any():
        return math.nan, (math.nan, math.nan)
    ratio = z.sum() / zz.sum()
    error = np.std(z - ratio * zz, ddof=1) / (zz.mean() * math.sqrt(len(z)))
    half = statistics.NormalDist().inv_cdf((1 + confidence) / 2) * error
    return float(ratio), (float(max(0.0, ratio - half)), float(ratio + half))


def _check_accumulator(accumulator, operand):
    if not isinstance(accumulator, Accumulator) or accumulator.kind not in ("narrow", "aligned"):
        raise ValueError(
            f"accumulator = {accumulator!r} must be a tf_lowprec.Accumulator with a format, such "
            "as Accumulator(FloatFormat(6, 7), chunk=64)"
        )
    if operand is None and accumulator.kind == "aligned":
        raise ValueError(
            "operand = None: an aligned accumulator aligns by its operands' exponents; give their "
            "format, such as operand=FP8_E4M3FN"
        )
    if operand is not None and not isinstance(operand, formats.FloatFormat):
        raise ValueError(f"operand = {operand!r} must be a tf_lowprec.FloatFormat, or None")


def _term_format(bits):
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 23:
        raise ValueError(
            f"product_mantissa_bits = {bits!r} must be an integer in 1..23, as float32 holds them"
        )
    return formats.FloatFormat(8, bits)


def measured_mantissa(
    m_p, n, chunk=None, nzr=1.0, cutoff=50.0, rounding="nearest_even", samples=1024, seed=0
):
    """Smallest m_acc that loses no more variance than v(n) < cutoff allows, by measuring.

    See `minimum_mantissa`. Bisection over m_acc, so that few ensembles are run.
    """
    n, chunk, nzr = check_terms(n), check_chunk(chunk), check_nzr(nzr)
    if n <= 2:
        return min(m_p, MAX_MANTISSA_BITS)
    if formats.Rounding.of(rounding) == formats.Rounding.STOCHASTIC:
        raise ValueError(
            "rounding = 'stochastic' adds variance and loses none, so that method='measured' has "
            "nothing to find; take method='noise'"
        )
    # Zeros shorten the chunks, not the sum of their results.
    lengths = [nzr * n] if chunk is None or chunk >= n else [nzr * chunk, -(-n // chunk)]
    allowed = math.log(cutoff) * sum(1 / max(1.0, length) for length in lengths)

    def suitable(m_acc):
        accumulator = Accumulator(formats.FloatFormat(8, m_acc), chunk, rounding)
        result = measured_vrr(accumulator, m_p, n, samples, seed, nzr=nzr)
        return 1 - result.vrr_interval[1] < allowed

    low, high = 1, 23
    if not suitable(high):
        raise ValueError(
            f"n = {n}: with rounding {formats.Rounding.of(rounding).value} even {high} mantissa "
            f"bits lose more variance than cutoff = {cutoff:g} allows; sum in (smaller) chunks"
        )
    while low < high:
        middle = (low + high) // 2
        if suitable(middle):
            high = middle
        else:
            low = middle + 1
    return low
