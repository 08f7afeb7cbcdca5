"""Jobs on small simulated arrays: the same bits as lp.matmul and as Python integers."""

import numpy as np
import pytest
from fixed_oracle import product

from hardware.codes import MODES
from hardware.cosim.accelerator import Accelerator, Parameters, Stream, blocks, streams
from hardware.cosim.reference import matmul_bits

# Small tile memories, so that K in several runs and full slots are common.
FLAT = Parameters(ROWS=4, COLS=5, K_DEPTH=16, OUT_DEPTH=64)
PANELS = Parameters(ROWS=3, COLS=2, K_DEPTH=7, OUT_DEPTH=4, A_PANELS=3, DIM_W=9)
# A narrow accumulator, that wraps, and two modes only.
NARROW = Parameters(
    ROWS=2, COLS=3, WL=8, ACC_W=26, K_DEPTH=9, OUT_DEPTH=8, CUT_MAX=25, MODES=0b10100
)
ARRAYS = {"flat": FLAT, "panels": PANELS, "narrow": NARROW}


@pytest.fixture(scope="module", params=ARRAYS)
def array(request):
    with Accelerator(ARRAYS[request.param], seed=1, optimize="-O1") as accelerator:
        yield accelerator


@pytest.fixture(scope="module")
def flat():
    with Accelerator(FLAT, seed=2, optimize="-O1") as accelerator:
        yield accelerator


def matrices(rng, p, m, k, n):
    """Uniform matrices, at times all at an end of the range, where sums are largest."""
    low, high = -(1 << p.WL - 1), 1 << p.WL - 1
    kind = rng.integers(4)
    if kind == 0:
        return np.full((m, k), low), np.full((k, n), rng.choice([low, high - 1]))
    limits = (low, high) if kind == 1 else (low // 64, high // 64)
    return rng.integers(*limits, (m, k)), rng.integers(*limits, (k, n))


def modes(p):
    return [mode for mode, code in MODES.items() if p.MODES >> code & 1]


def check(accelerator, a, b, cut, mode, **options):
    p = accelerator.parameters
    result = accelerator.matmul(a, b, cut, mode, **options)
    c, beyond = product(a, b, cut, mode, result.random_bits, p.WL, p.ACC_W)
    np.testing.assert_array_equal(result.c, c)
    np.testing.assert_array_equal(result.beyond, beyond)
    return result


@pytest.mark.parametrize("seed", range(12))
def test_random_jobs(array, seed):
    """Many jobs in a row, of random sizes, modes and pauses; the LFSRs go on or start again."""
    p, rng = array.parameters, np.random.default_rng(seed)
    for _ in range(12):
        m, n = rng.integers(0, 4 * p.ROWS), rng.integers(0, 4 * p.COLS)
        k = rng.choice([0, 1, 2, p.ROWS, p.K_DEPTH, p.K_DEPTH + 1, rng.integers(4 * p.K_DEPTH)])
        pauses = tuple(rng.choice([0, 0.1, 0.5, 0.95], 3))
        start = int(rng.integers(2**32)) if rng.random() < 0.3 else None
        cut = int(rng.integers(p.CUT_MAX + 1))
        a, b = matrices(rng, p, m, k, n)
        check(array, a, b, cut, rng.choice(modes(p)), seed=start, pauses=pauses)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cut", [0, 1, 13, 23, 24, 25, 30])
def test_jobs_equal_lp_matmul(flat, mode, cut):
    rng = np.random.default_rng(cut)
    for shape in [(9, 40, 11), (4, 16, 5), (1, 1, 1), (13, 3, 2)]:
        a, b = matrices(rng, FLAT, *shape)
        result = flat.matmul(a, b, cut, mode, pauses=(0.2, 0.2, 0.2))
        want = matmul_bits(a, b, cut, mode, result, FLAT.WL)
        np.testing.assert_array_equal(result.c, want)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cut", [1, 3, 25, 28, 32])
def test_both_sides_of_every_tie(flat, mode, cut):
    """Sums x 2^cut + d for d around 0 and around half a unit, negative ones too."""
    near = [half + d for half in (0, 1 << cut - 1) for d in (-1, 0, 1)]
    totals = [x * (1 << cut) + d for x in (-3, -2, -1, 0, 1, 2) for d in near]
    check(flat, *with_sums(totals), cut, mode)


def with_sums(totals, terms=80):
    """(a, b) of 16-bit integers with a . b = totals, each below 2^35."""
    high, low = np.divmod(np.array(totals, np.int64), 1 << 14)
    a = np.zeros((len(totals), terms + 1), np.int64)
    for i in range(terms):
        a[:, i] = np.clip(high, -(1 << 15), (1 << 15) - 1)
        high -= a[:, i]
    a[:, terms] = low
    assert not high.any()
    return a, np.array([[1 << 14]] * terms + [[1]])


# Zero sizes.


@pytest.mark.parametrize("shape", [(0, 5, 3), (3, 5, 0), (0, 0, 0), (0, 5, 0)])
def test_empty_results_take_no_operands(flat, shape):
    m, k, n = shape
    feed = tuple(Stream(np.ones((3, lanes), np.int32), np.ones(3, np.uint8)) for lanes in (4, 5))
    result = flat.matmul(np.ones((m, k), int), np.ones((k, n), int), 0, feed=feed)
    assert result.c.shape == (m, n) and result.taken == (0, 0) and not result.status


@pytest.mark.parametrize("mode", MODES)
def test_a_sum_of_no_terms_is_zero(flat, mode):
    check(flat, np.ones((6, 9), int), np.ones((9, 7), int), 0, mode)  # leaves sums behind
    result = check(flat, np.zeros((6, 0), int), np.zeros((0, 7), int), 8, mode)
    assert result.taken == (0, 0) and not result.c.any()


# Streams that do not keep to the panels.


def bad_stream(stream, cut_at=None, extra_at=None):
    """A stream with beats of a panel left out, or put in after its unmarked end."""
    data, last = stream.data, stream.last.copy()
    if cut_at is not None:
        begin, end = cut_at
        data, last = np.delete(data, np.s_[begin:end], 0), np.delete(last, np.s_[begin:end])
        last[begin - 1] = 1
    if extra_at is not None:
        last[extra_at - 1] = 0
        rubbish = np.full((3, data.shape[1]), 77, np.int32)
        data = np.insert(data, [extra_at] * 3, rubbish, 0)
        last = np.insert(last, extra_at, [0, 0, 1])
    return Stream(np.ascontiguousarray(data), last)


@pytest.mark.parametrize("pauses", [(0, 0, 0), (0.5, 0.2, 0.5)])
@pytest.mark.parametrize("operand", ["a", "b"])
def test_a_panel_that_ends_early_counts_as_zeros(flat, operand, pauses):
    rng = np.random.default_rng(0)
    a, b = rng.integers(-99, 99, (8, 12)), rng.integers(-99, 99, (12, 10))
    feed = list(streams(FLAT, a, b))
    at = "ab".index(operand)
    # The first panel's k = 5..11 do not come.
    feed[at] = bad_stream(feed[at], cut_at=(5, 12))
    result = flat.matmul(a, b, 0, "floor", feed=feed, pauses=pauses)
    want = a @ b
    if operand == "a":
        want[:4] = a[:4, :5] @ b[:5]
    else:
        want[:4, :5] = a[:4, :5] @ b[:5, :5]  # the second row tile gets its panels anew
    np.testing.assert_array_equal(result.c, want)
    assert result.status == {f"{operand}_short"}


@pytest.mark.parametrize("pauses", [(0, 0, 0), (0.5, 0.2, 0.5)])
@pytest.mark.parametrize("operand", ["a", "b"])
def test_beats_beyond_a_panel_are_dropped(flat, operand, pauses):
    rng = np.random.default_rng(0)
    a, b = rng.integers(-99, 99, (8, 12)), rng.integers(-99, 99, (12, 10))
    feed = list(streams(FLAT, a, b))
    at = "ab".index(operand)
    feed[at] = bad_stream(feed[at], extra_at=12)
    result = flat.matmul(a, b, 0, "floor", feed=feed, pauses=pauses)
    np.testing.assert_array_equal(result.c, a @ b)
    assert result.status == {f"{operand}_long"}
    # The last panel's, too, before the job ends.
    feed = list(streams(FLAT, a, b))
    feed[at] = bad_stream(feed[at], extra_at=len(feed[at].data))
    result = flat.matmul(a, b, 0, "floor", feed=feed, pauses=pauses)
    np.testing.assert_array_equal(result.c, a @ b)
    assert result.taken[at] == len(feed[at].data)
    check(flat, a, b, 3, "nearest_even")


# Jobs that are refused, and sums that can wrap.


@pytest.mark.parametrize("cut, mode", [(33, 0), (63, 4), (8, 5), (8, 7)])
def test_a_job_with_an_unknown_cut_or_mode_is_refused(flat, cut, mode):
    a, b = np.ones((4, 4), int), np.ones((4, 4), int)
    result = flat.matmul(a, b, cut, mode)
    assert result.status == {"refused"} and result.taken == (0, 0)
    check(flat, a, b, 0, "floor")


def test_a_mode_that_is_not_built_is_refused():
    with Accelerator(NARROW, optimize="-O1") as accelerator:
        result = accelerator.matmul(np.ones((2, 2), int), np.ones((2, 2), int), 0, "floor")
    assert result.status == {"refused"}


def test_a_refused_job_does_not_seed(flat):
    rng = np.random.default_rng(0)
    a, b = matrices(rng, FLAT, 9, 7, 11)
    check(flat, a, b, 20, "stochastic", seed=5)
    flat.matmul(a, b, FLAT.CUT_MAX + 1, "stochastic", seed=9)
    check(flat, a, b, 20, "stochastic")


def test_a_sum_that_may_wrap_is_told_and_wraps():
    """26-bit sums of 2^14: 2^11 terms are the first that reach 2^25."""
    with Accelerator(NARROW, optimize="-O1") as accelerator:
        for k, wraps in [(2**11 - 1, False), (2**11, True)]:
            a, b = np.full((1, k), -128), np.full((k, 1), -128)
            result = check(accelerator, a, b, 20, "nearest_even")
            assert result.status == ({"may_wrap"} if wraps else set())
            assert result.c[0, 0] == (-32 if wraps else 32)


# What it takes.


@pytest.mark.parametrize("shape", [(24, k, 20) for k in (2, 7, 16, 28, 32)])
def test_tiles_follow_each_other_without_a_gap(flat, shape):
    """max(k, ROWS) cycles per tile; then loading the first panel, and draining the last tile."""
    rng, p = np.random.default_rng(0), FLAT
    m, k, n = shape
    result = check(flat, *matrices(rng, p, m, k, n), 20, "stochastic", seed=1)
    tiles = -(-m // p.ROWS) * -(-n // p.COLS)
    assert result.cycles <= tiles * max(k, p.ROWS) + min(k, p.K_DEPTH) + 2 * p.ROWS + p.COLS + 16


def test_panels_of_b_are_shared_by_a_group():
    loads = {}
    for panels in (1, 3):
        p = Parameters(ROWS=3, COLS=2, K_DEPTH=7, A_PANELS=panels)
        loads[panels] = [sum(load) for load in zip(*(block[4:] for block in blocks(p, 27, 8, 7)))]
    assert loads == {1: [9, 9 * 4], 3: [9, 3 * 4]}
