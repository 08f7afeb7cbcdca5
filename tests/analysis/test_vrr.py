"""Equations of the VRR: against known values and a direct sum."""

import math
import time

import numpy as np
import pytest
import vrr_oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_lowprec import analysis
from tf_lowprec.analysis.sums import quadrature

# n: bits for one sum, bits in chunks of 64; m_p = 5, cut-off 50 (derived independently).
WIDTHS = {
    144: (6, 5),
    288: (6, 5),
    576: (7, 5),
    1152: (7, 5),
    2304: (8, 5),
    4608: (9, 5),
    8192: (9, 5),
    12544: (10, 6),
    32768: (10, 7),
    50176: (11, 7),
    131072: (12, 8),
    200704: (12, 8),
    802816: (13, 10),
    3211264: (15, 11),
}


@pytest.mark.parametrize("n", WIDTHS)
def test_widths_are_the_papers(n):
    one, chunked = analysis.minimum_mantissa(5, n), analysis.minimum_mantissa(5, n, chunk=64)
    assert (one, chunked) == WIDTHS[n]


@pytest.mark.parametrize(
    "m_acc, n, ratio",
    [(5, 256, 0.808), (6, 1024, 0.791), (6, 16384, 0.5605), (7, 4096, 0.796), (8, 4096, 0.997)],
)
def test_ratios_are_the_papers(m_acc, n, ratio):
    # To three digits, but for the third, 0.56049.
    assert analysis.vrr(m_acc, 5, n) == pytest.approx(ratio, abs=5e-4)


@pytest.mark.parametrize("n, width", [(200704, 13), (3211264, 17)])
def test_the_printed_stages_ask_for_more(n, width):
    def suitable(m_acc):
        return n * analysis.vrr_loss(m_acc, 5, n, printed_stages=True) < math.log(50)

    assert min(m for m in range(1, 24) if suitable(m)) == width


@settings(max_examples=200, deadline=None)
@given(
    m_acc=st.integers(1, 16),
    m_p=st.integers(1, 19),
    n=st.one_of(st.integers(1, 300), st.integers(1, 200_000)),
    printed_stages=st.booleans(),
)
def test_loss_is_the_direct_sum(m_acc, m_p, n, printed_stages):
    want = vrr_oracle.vrr_loss(m_acc, m_p, n, printed_stages)
    got = analysis.vrr_loss(m_acc, m_p, n, printed_stages=printed_stages)
    # Beyond float64's normal range there is nothing to be relative to.
    assert got == pytest.approx(want, rel=1e-6, abs=1e-290)


@pytest.mark.parametrize("m_acc", [6, 10, 12, 13])
def test_loss_of_long_sums_is_the_direct_sum(m_acc):
    n = 2**22 + 12345
    want = vrr_oracle.vrr_loss(m_acc, 5, n)
    assert analysis.vrr_loss(m_acc, 5, n) == pytest.approx(want, rel=1e-6, abs=0)


def test_a_billion_terms_take_no_time():
    analysis.vrr_loss(14, 5, 10**6)
    start = time.process_time()
    analysis.vrr_loss(15, 5, 10**9)
    assert time.process_time() - start < 0.5  # a loop over i would take minutes


@settings(deadline=None)
@given(first=st.integers(1, 2000), length=st.integers(1, 100_000), power=st.floats(-2, 2))
def test_quadrature_sums_powers(first, length, power):
    x, weights = quadrature(first, first + length - 1, 1.0)
    want = math.fsum(np.arange(first, first + length, dtype=np.float64) ** power)
    assert math.fsum(weights * x**power) == pytest.approx(want, rel=1e-9)


def test_chunks_multiply_two_levels():
    inner = analysis.vrr(7, 5, 64)
    outer = analysis.vrr(7, 7, 512)  # m_p + log2(64) = 11 bits, but no more than m_acc
    assert analysis.vrr_chunked(7, 5, 64 * 512, 64) == pytest.approx(inner * outer, rel=1e-12)


@pytest.mark.parametrize("chunk", [1000, 1001, 10**6])
def test_a_chunk_as_long_as_the_sum_is_no_chunk(chunk):
    assert analysis.vrr_chunked(6, 5, 1000, chunk) == analysis.vrr(6, 5, 1000)
    assert analysis.minimum_mantissa(5, 1000, chunk) == analysis.minimum_mantissa(5, 1000)


def test_zeros_shorten_the_sum():
    assert analysis.vrr(6, 5, 4000, nzr=0.25) == analysis.vrr(6, 5, 1000)
    assert analysis.vrr(6, 5, 4000, nzr=1e-9) == analysis.vrr(6, 5, 1)
    halved = analysis.vrr_chunked(7, 5, 64 * 512, 64, nzr=0.5)
    assert halved == pytest.approx(analysis.vrr(7, 5, 32) * analysis.vrr(7, 7, 512), rel=1e-12)


@pytest.mark.parametrize("n, width", [(1, 5), (2, 5), (27, 4)])
def test_widths_of_short_sums(n, width):
    assert analysis.minimum_mantissa(5, n) == width


def test_variance_lost_is_what_the_cutoff_cuts():
    m_acc = analysis.minimum_mantissa(5, 4608)
    assert analysis.variance_lost(m_acc, 5, 4608) < analysis.CUTOFF
    assert analysis.variance_lost(m_acc - 1, 5, 4608) >= analysis.CUTOFF
    want = math.exp(4608 * analysis.vrr_loss(9, 5, 4608))
    assert analysis.variance_lost(9, 5, 4608) == pytest.approx(want)
    assert analysis.variance_lost(3, 5, 10**6) == math.inf


def test_variance_lost_in_chunks_is_the_worse_levels():
    inner, outer = 64 * analysis.vrr_loss(4, 5, 64), 512 * analysis.vrr_loss(4, 4, 512)
    got = analysis.variance_lost(4, 5, 64 * 512, chunk=64)
    assert got == pytest.approx(math.exp(max(inner, outer)))


def test_a_lower_cutoff_asks_for_more_bits():
    assert analysis.minimum_mantissa(5, 4608, cutoff=1.001) > analysis.minimum_mantissa(5, 4608)


def test_floats_that_are_integers_count_terms():
    assert analysis.vrr_loss(15, 5, 1e9) == analysis.vrr_loss(15, 5, 10**9)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: analysis.vrr(0, 5, 10), "m_acc = 0 must be an integer in 1..23"),
        (lambda: analysis.vrr(24, 5, 10), "m_acc = 24 must be"),
        (lambda: analysis.vrr(5.0, 5, 10), "m_acc = 5.0 must be"),
        (lambda: analysis.vrr(5, 0, 10), "m_p = 0 must be an integer in 1..47"),
        (lambda: analysis.vrr(5, 48, 10), "m_p = 48"),
        (lambda: analysis.vrr(5, 5, 0), "n = 0 must be a positive integer"),
        (lambda: analysis.vrr(5, 5, -4), "n = -4"),
        (lambda: analysis.vrr(5, 5, 1.5), "n = 1.5"),
        (lambda: analysis.vrr(5, 5, math.nan), "n = nan"),
        (lambda: analysis.vrr(5, 5, 10, 0), r"nzr = 0 must be in \(0, 1\]"),
        (lambda: analysis.vrr(5, 5, 10, 1.01), "nzr = 1.01"),
        (lambda: analysis.vrr(5, 5, 10, math.nan), "nzr = nan"),
        (lambda: analysis.vrr_chunked(5, 5, 10, 0), "chunk = 0 must be a positive integer"),
        (lambda: analysis.vrr_chunked(5, 5, 10, 2.0), "chunk = 2.0"),
        (lambda: analysis.minimum_mantissa(5, 0), "n = 0"),
        (lambda: analysis.minimum_mantissa(5, 10, cutoff=1), "cutoff = 1 must be above 1"),
        (lambda: analysis.minimum_mantissa(5, 10, method="guess"), "method = 'guess' must be one"),
        (lambda: analysis.minimum_mantissa(5, 10, rounding="up"), "rounding = 'up'"),
        (lambda: analysis.minimum_mantissa(5, 10**15), "n = 1000000000000000: no accumulator"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("method", ["formula", "noise"])
@pytest.mark.parametrize("n", [3, 9, 100])
def test_more_zeros_never_ask_for_more_bits(method, n):
    widths = [
        analysis.minimum_mantissa(5, n, 64, nzr=k / 100, method=method) for k in range(1, 101)
    ]
    assert widths == sorted(widths)
