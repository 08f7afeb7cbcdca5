"""The theorem of Sakr et al. (2019), term by term in float64."""

import math

import numpy as np
from scipy.special import erf, erfc


def vrr_loss(m_acc, m_p, n, printed_stages=False):
    """1 - VRR by summing over every i, in blocks."""
    amplitude = 2.0**m_acc / math.sqrt(2)

    def lost_before(r):
        total = sum(2.0**j * (2.0**j - 1) * (2.0 ** (j + 1) - 1) for j in range(1, r))
        return 2.0 ** (m_acc - 3 * m_p) / 3 * total

    alpha = lost_before(m_p + 1)
    kept, lost = [], []
    for start in range(max(2, math.floor(alpha) + 1), n, 2**20):
        i = np.arange(start, min(start + 2**20, n), dtype=np.float64)
        q = erfc(amplitude / np.sqrt(i)) * erf(amplitude / np.sqrt(i - 1))
        kept.append(q.sum())
        lost.append(((n - i + alpha) * q).sum())
    for r in range(2, m_p + 1):
        if n > lost_before(r):
            q = erfc(2.0 ** (m_acc - m_p + r - 1) / math.sqrt(2 * n))
            q *= erf(2.0 ** (m_acc - m_p + r) / math.sqrt(2 * n))
            if printed_stages:
                q *= 2.0 ** (m_acc - m_p + r)
            kept.append(q)
            lost.append(lost_before(r) * q)
    kept.append(erf(2.0 ** (m_acc - m_p + 1) / math.sqrt(2 * n)))
    return math.fsum(lost) / (math.fsum(kept) * n)
