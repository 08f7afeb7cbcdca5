"""The twin of the LFSR: the recurrence, its period, and what rounding with it does on average."""

import numpy as np
import pytest

from hardware.cosim.lfsr import Lfsrs, column_seed, step


def test_words_are_those_of_single_steps():
    seed, count = 12345, 70
    words = Lfsrs(3, seed).words(count)
    for column in range(3):
        state = column_seed(seed, column)
        for i in range(count):
            assert words[i, column] == state & 0xFFFFFF
            for _ in range(24):
                state = step(state)


def test_words_go_on():
    whole, parts = Lfsrs(2, 7), Lfsrs(2, 7)
    want = whole.words(100)
    got = np.concatenate([parts.words(n) for n in (0, 1, 9, 40, 50)])
    np.testing.assert_array_equal(got, want)


def power(exponent):
    """x^exponent modulo x^33 + x^20 + 1, as bits."""

    def times(p, q):
        product = 0
        while q:
            product ^= p * (q & 1)
            p, q = p << 1, q >> 1
        for i in range(product.bit_length() - 1, 32, -1):
            if product >> i & 1:
                product ^= (1 << 33 | 1 << 20 | 1) << i - 33
        return product

    result, base = 1, 2
    while exponent:
        if exponent & 1:
            result = times(result, base)
        base, exponent = times(base, base), exponent >> 1
    return result


def test_polynomial_is_primitive():
    """x has order 2^33 - 1 = 7 * 23 * 89 * 599479, so that no state comes again before."""
    order = 2**33 - 1
    assert power(order) == 1
    for prime in (7, 23, 89, 599479):
        assert order % prime == 0 and power(order // prime) != 1
    assert np.gcd(order, 24) == 1


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_columns_round_up_as_often_as_they_should(seed):
    """Of 2^16 words a share f is at least 1 - f, within 5 standard deviations."""
    words = Lfsrs(28, seed).words(2**16) / 2**24
    for f in (1 / 1024, 0.1, 0.5, 0.9):
        share = np.mean(words + f >= 1, axis=0)
        assert np.all(abs(share - f) < 5 * np.sqrt(f * (1 - f) / 2**16))
