"""Sums of smooth functions over very many integers, without visiting each."""

import functools

import numpy as np

# Of a panel longer than this, only so many points are visited.
_NODES = 16
# A panel is at most this fraction of its first index, so that f is smooth on it.
_FRACTION = 8


@functools.cache
def _rule(length):
    """Offsets and weights with sum_{i<length} p(i) = weights . p(offsets), deg p < 32.

    Gauss quadrature for the measure that gives 1 to each of 0 .. length - 1: the eigenvalues of
    the Jacobi matrix of its orthogonal (discrete Chebyshev, or Gram) polynomials (Golub and Welsch,
    1969). Up to 16 points it is the sum itself.
    """
    if length <= _NODES:
        return np.arange(length, dtype=np.float64), np.ones(length)
    k = np.arange(1, _NODES, dtype=np.float64)
    # (k^2 / 4) (L^2 - k^2) / (4 k^2 - 1), in units of the length.
    off = 0.5 * k * np.sqrt((1 - (k / length) ** 2) / (4 * k * k - 1))
    nodes, vectors = np.linalg.eigh(np.diag(off, 1) + np.diag(off, -1))
    return length * (nodes + 0.5) - 0.5, length * vectors[0] ** 2


def quadrature(first, last, decay):
    """Points x and weights w with ``sum_{i=first}^{last} f(i) ~ w . f(x)``.

    For f that varies as ``exp(-decay / i)`` or more slowly: panels are no longer than an eighth of
    their first index, and no longer than what changes the exponent by 4, so that 16 points each
    are as good as all. Panels have lengths 2^j, which makes few distinct rules. Costs
    O(log(last) + number of e-foldings); the first 128 integers are all visited.
    """
    points, weights = [np.empty(0)], [np.empty(0)]
    i = first
    while i <= last:
        length = min(i // _FRACTION, int(min(4 * i * i / decay, 2**62)), last - i + 1)
        length = 1 << (max(1, length).bit_length() - 1)
        x, w = _rule(length)
        points.append(i + x)
        weights.append(w)
        i += length
    return np.concatenate(points), np.concatenate(weights)
