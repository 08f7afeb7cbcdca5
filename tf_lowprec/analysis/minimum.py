"""minimum_mantissa: the accumulator width of one sum, by any of the rules."""

from tf_lowprec.analysis.measured import measured_mantissa
from tf_lowprec.analysis.noise import check_noise, noise_mantissa
from tf_lowprec.analysis.vrr import (
    CUTOFF,
    check_chunk,
    check_cutoff,
    check_nzr,
    check_product,
    check_terms,
    formula_mantissa,
)
from tf_lowprec.formats import Rounding

METHODS = ("formula", "measured", "noise")


def minimum_mantissa(
    m_p,
    n,
    chunk=None,
    nzr=1.0,
    cutoff=CUTOFF,
    *,
    method="formula",
    rounding="nearest_even",
    noise_to_signal=1e-2,
    samples=1024,
    seed=0,
):
    """Mantissa bits that an accumulator needs for a sum of n terms; m_p for n <= 2.

    * ``method="formula"``: the smallest m_acc with ``v(n) = exp(n (1 - VRR)) < cutoff`` (Sakr et
      al., 2019, section 4.4). In chunks each level takes the test with its own length, n1 and
      ceil(n / n1). It knows no rounding mode: it is conservative for nearest and optimistic for
      truncation.
    * ``method="measured"``: the same cut-off on the retained variance of `measured_vrr`, under
      `rounding`: the smallest m_acc whose ``1 - VRR`` is not above ``ln(cutoff) / n``
      (``ln(cutoff) (1 / n1 + 1 / n2)`` in chunks) within what `samples` sums can tell, that is for
      the upper end of its 95 % interval. More samples see smaller losses.
    * ``method="noise"``: the smallest m_acc whose `rounding_noise` under `rounding` is at most
      `noise_to_signal`. For nearest, ``ceil(1/2 log2(c (n1 + n2) / noise_to_signal))``.

    Args:
        m_p: mantissa bits of the terms: 2 m + 1 for products of (1, e, m) operands.
        n: number of terms.
        chunk: terms in a chunk, or None for one sequential sum.
        nzr: ratio of terms that are not zero, in (0, 1].
        cutoff: above 1; of formula and measured.
        method: see above.
        rounding: of partial sums; of measured (not "stochastic", which loses no variance) and
            noise.
        noise_to_signal: of noise.
        samples, seed: of measured.

    Raises:
        ValueError: an argument out of range; no width of up to 23 bits does.
    """
    check_product(m_p)
    check_terms(n)
    check_chunk(chunk)
    check_nzr(nzr)
    check_cutoff(cutoff)
    check_noise(noise_to_signal)
    Rounding.of(rounding)
    if method == "formula":
        return formula_mantissa(m_p, n, chunk, nzr, cutoff)
    if method == "noise":
        return noise_mantissa(m_p, n, chunk, nzr, noise_to_signal, rounding)
    if method == "measured":
        return measured_mantissa(m_p, n, chunk, nzr, cutoff, rounding, samples, seed)
    raise ValueError(f"method = {method!r} must be one of {', '.join(map(repr, METHODS))}")
