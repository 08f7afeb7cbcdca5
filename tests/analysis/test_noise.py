"""Closed forms of rounding noise: their algebra here, their truth in test_measured.py."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf_lowprec import analysis

C = 3 / (8 * math.log(2)) / 24


@pytest.mark.parametrize("m_acc, n", [(5, 1024), (9, 16384), (12, 10**9)])
def test_nearest_is_the_papers_formula(m_acc, n):
    want = C * n * 4.0**-m_acc
    assert analysis.rounding_noise(m_acc, n) == pytest.approx(want, rel=1e-12)


def test_chunks_add_their_lengths():
    want = C * (64 + 157) * 4.0**-6
    assert analysis.rounding_noise(6, 10_000, 64) == pytest.approx(want, rel=1e-12)


def test_stochastic_has_twice_the_noise_of_nearest():
    twice = 2 * analysis.rounding_noise(7, 5000, 64)
    assert analysis.rounding_noise(7, 5000, 64, rounding="stochastic") == pytest.approx(twice)


def test_zeros_are_not_rounded():
    assert analysis.rounding_noise(7, 4000, nzr=0.25) == analysis.rounding_noise(7, 1000)


@given(m_acc=st.integers(1, 23), n=st.integers(1, 10**9), chunk=st.integers(1, 10**5))
def test_truncation_keeps_a_part_and_errs_by_a_part(m_acc, n, chunk):
    kept = analysis.truncation_vrr(m_acc, n, chunk)
    assert 0 < kept <= 1
    noise = analysis.rounding_noise(m_acc, n, chunk, rounding="toward_zero")
    assert 0 < noise < 1


@pytest.mark.parametrize("chunk", [None, 64, 100_000])
@pytest.mark.parametrize("m_acc", range(8, 20))
def test_small_truncation_noise_meets_the_exact_form(m_acc, chunk):
    # The moments of e^(-l t) over the additions t that follow a term, summed term by term.
    n, rate = 4096, 2.0**-m_acc / (4 * math.log(2))

    def mean(factor):
        lengths = [n] if chunk is None or chunk > n else [chunk, n // chunk]
        return math.prod(-math.expm1(-factor * rate * k) / (factor * rate * k) for k in lengths)

    want = 1 - 2 * mean(1) + mean(2)
    got = analysis.rounding_noise(m_acc, n, chunk, rounding="toward_zero")
    assert got == pytest.approx(want, rel=2e-3, abs=1e-14)  # of which the left form cancels


@given(n=st.integers(1, 10**12))
def test_best_chunk_is_the_square_root_rounded_up(n):
    chunk = analysis.best_chunk(n)
    assert (chunk - 1) ** 2 < n <= chunk**2


@given(n=st.integers(1, 2000))
def test_no_chunk_is_better_than_the_best(n):
    def levels(chunk):
        return chunk + -(-n // chunk)

    assert levels(analysis.best_chunk(n)) == min(levels(chunk) for chunk in range(1, n + 1))


@pytest.mark.parametrize("chunk", [None, 64, 128])
@pytest.mark.parametrize("epsilon", [1e-2, 1e-3])
@pytest.mark.parametrize("n", [27, 1024, 802816])
def test_width_is_the_logarithm_rounded_up(n, epsilon, chunk):
    lengths = n if chunk is None or chunk >= n else chunk + -(-n // chunk)
    want = max(1, math.ceil(0.5 * math.log2(C * lengths / epsilon)))
    got = analysis.minimum_mantissa(5, n, chunk, method="noise", noise_to_signal=epsilon)
    assert got == want


def test_truncation_needs_more_bits_than_nearest():
    widths = [
        analysis.minimum_mantissa(5, 4096, method="noise", rounding=rounding)
        for rounding in ("nearest_even", "stochastic", "toward_zero")
    ]
    assert widths == [7, 8, 13]


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic", "toward_zero"])
def test_terms_finer_than_the_sums_ulp_are_as_the_closed_form(rounding):
    # 20 bits, of which more than a few always lie below the ulp of a 5-bit sum.
    closed = analysis.rounding_noise(5, 1000, rounding=rounding)
    refined = analysis.rounding_noise(5, 1000, rounding=rounding, m_p=20)
    assert refined == pytest.approx(closed, rel=0.1)


def test_sums_that_need_no_rounding_have_hardly_any_noise():
    # 16 terms of 3 bits in 20: only terms of tiny magnitude reach below the ulp.
    assert analysis.rounding_noise(20, 16, m_p=3) < 0.02 * analysis.rounding_noise(20, 16)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: analysis.rounding_noise(0, 10), "m_acc = 0"),
        (lambda: analysis.rounding_noise(5, 0), "n = 0"),
        (lambda: analysis.rounding_noise(5, 10, 0), "chunk = 0"),
        (lambda: analysis.rounding_noise(5, 10, nzr=2), "nzr = 2"),
        (lambda: analysis.rounding_noise(5, 10, rounding="up"), "rounding = 'up'"),
        (lambda: analysis.rounding_noise(5, 10, m_p=0), "m_p = 0"),
        (lambda: analysis.best_chunk(0), "n = 0"),
        (
            lambda: analysis.minimum_mantissa(5, 10, method="noise", noise_to_signal=0),
            "noise_to_signal = 0 must be between 0 and 1",
        ),
        (
            lambda: analysis.minimum_mantissa(5, 10**15, method="noise", rounding="toward_zero"),
            "chunk=31622777",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
