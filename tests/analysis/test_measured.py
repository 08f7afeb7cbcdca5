"""measured_vrr: what it computes, exactly, and that the closed forms agree with it."""

import numpy as np
import pytest

import tf_lowprec as lp
from tf_lowprec import analysis
from tf_lowprec.analysis.measured import variance_ratio


def accumulator(m, chunk=None, rounding="nearest_even"):
    return lp.Accumulator(lp.FloatFormat(8, m), chunk, rounding)


def test_a_wide_enough_accumulator_keeps_everything():
    result = analysis.measured_vrr(accumulator(23), 5, 300, samples=50)
    assert (result.vrr, result.noise) == (1.0, 0.0)
    assert result.vrr_interval == (1.0, 1.0)


def test_it_is_the_variance_of_the_ops_sums():
    # The same terms again, summed here with one rounding to 5 bits at a time.
    n, samples = 40, 30
    rng = np.random.Generator(np.random.Philox(key=[7, 0]))
    terms = lp.quantize(rng.standard_normal((n, samples), np.float32), lp.FloatFormat(8, 5))
    sums = np.zeros(samples)
    for row in terms.numpy():
        sums = lp.quantize((sums + row).astype(np.float32), lp.FloatFormat(8, 5)).numpy()
    exact = terms.numpy().astype(np.float64).sum(0)
    result = analysis.measured_vrr(accumulator(5), 5, n, samples, seed=7)
    assert result.vrr == pytest.approx(np.var(sums, dtype=np.float64) / np.var(exact), rel=1e-12)
    assert result.noise == pytest.approx(np.var(sums - exact) / np.var(exact), rel=1e-12)


def test_a_measurement_stands_for_its_vrr():
    result = analysis.measured_vrr(accumulator(5), 5, 100, 64, seed=(1, 2))
    assert float(result) == result.vrr
    assert result != analysis.measured_vrr(accumulator(5), 5, 100, 64, seed=(1, 3))


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic", "toward_zero"])
def test_the_same_seed_gives_the_same_measurement(rounding):
    once, again = (
        analysis.measured_vrr(accumulator(6, 16, rounding), 5, 100, 64, seed=3) for _ in range(2)
    )
    assert once == again
    assert once != analysis.measured_vrr(accumulator(6, 16, rounding), 5, 100, 64, seed=4)


def test_blocks_of_an_ensemble_differ(monkeypatch):
    monkeypatch.setattr("tf_lowprec.analysis.measured._BLOCK", 1600)
    halves = analysis.measured_vrr(accumulator(5), 5, 100, samples=32)
    # Two equal blocks would give the ratio of one.
    assert halves.vrr != analysis.measured_vrr(accumulator(5), 5, 100, samples=16).vrr


# Of an independent Monte-Carlo, to three digits: ratio with nearest even, and truncated.
@pytest.mark.parametrize(
    "m_acc, n, nearest, truncated", [(5, 256, 0.994, 0.186), (6, 1024, 0.990, 0.101)]
)
def test_papers_monte_carlo(m_acc, n, nearest, truncated):
    result = analysis.measured_vrr(accumulator(m_acc), 5, n, 4000)
    assert result.vrr == pytest.approx(nearest, abs=0.02)
    result = analysis.measured_vrr(accumulator(m_acc, rounding="toward_zero"), 5, n, 4000)
    assert result.vrr == pytest.approx(truncated, rel=0.06)


# Ratios between 1e-4 and 0.05: below the onset of swamping, with bits to round.
@pytest.mark.parametrize(
    "m_acc, n, chunk",
    [(5, 1024, None), (6, 4096, None), (7, 4096, None), (5, 4096, 64), (4, 4096, 64)],
)
def test_closed_form_of_nearest_rounding(m_acc, n, chunk):
    result = analysis.measured_vrr(accumulator(m_acc, chunk), 5, n, 3000)
    predicted = analysis.rounding_noise(m_acc, n, chunk)
    assert 1e-4 < predicted < 0.05
    assert result.noise == pytest.approx(predicted, rel=0.1)


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic", "toward_zero"])
@pytest.mark.parametrize("m_acc, n, chunk", [(7, 1024, None), (7, 4096, None), (6, 4096, 64)])
def test_refined_form_of_every_rounding(rounding, m_acc, n, chunk):
    result = analysis.measured_vrr(accumulator(m_acc, chunk, rounding), 5, n, 3000)
    predicted = analysis.rounding_noise(m_acc, n, chunk, rounding=rounding, m_p=5)
    assert result.noise == pytest.approx(predicted, rel=0.12)


@pytest.mark.parametrize("m_acc, n, chunk", [(5, 256, None), (8, 4096, None), (6, 4096, 64)])
def test_refined_form_of_truncations_retained_variance(m_acc, n, chunk):
    result = analysis.measured_vrr(accumulator(m_acc, chunk, "toward_zero"), 5, n, 3000)
    predicted = analysis.truncation_vrr(m_acc, n, chunk, m_p=5)
    assert result.vrr == pytest.approx(predicted, rel=0.05)


def test_zeros_count_as_a_shorter_sum():
    sparse = analysis.measured_vrr(
        accumulator(6, rounding="toward_zero"), 5, 4096, 1000, nzr=1 / 16
    )
    dense = analysis.measured_vrr(accumulator(6, rounding="toward_zero"), 5, 256, 1000)
    assert sparse.vrr == pytest.approx(dense.vrr, rel=0.1)


def test_interval_covers_the_ratio_as_often_as_it_says():
    # Ratios of variances of correlated normal pairs, whose true value is known: 1 + s^2.
    rng, scatter, hits = np.random.default_rng(0), 0.3, 0
    for _ in range(400):
        exact = rng.standard_normal(500)
        narrow = exact + scatter * rng.standard_normal(500)
        low, high = variance_ratio(narrow, exact, 0.9)[1]
        hits += low <= 1 + scatter**2 <= high
    assert 0.86 < hits / 400 < 0.94


def test_more_confidence_is_a_wider_interval():
    narrow, wide = (
        analysis.measured_vrr(accumulator(4), 5, 300, 200, confidence=c).vrr_interval
        for c in (0.9, 0.99)
    )
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_config_round_trip():
    result = analysis.measured_vrr(accumulator(5), 5, 64, 16)
    assert analysis.Measurement.from_config(result.get_config()) == result


def test_measured_width_asks_less_of_nearest_rounding_and_more_of_truncation():
    formula = analysis.minimum_mantissa(5, 1024)
    nearest, truncated = (
        analysis.minimum_mantissa(5, 1024, method="measured", rounding=r, samples=500)
        for r in ("nearest_even", "toward_zero")
    )
    assert nearest < formula < truncated


def test_measured_width_is_the_first_that_passes():
    def loss(m):
        result = analysis.measured_vrr(accumulator(m, rounding="toward_zero"), 5, 256, 500)
        return 1 - result.vrr_interval[1]

    width = analysis.minimum_mantissa(
        5, 256, method="measured", rounding="toward_zero", samples=500
    )
    assert loss(width) < np.log(50) / 256 <= loss(width - 1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((lp.Accumulator.native(), 5, 10), "accumulator = .*with a format"),
        ((lp.FP16, 5, 10), "accumulator = "),
        ((accumulator(5), 0, 10), "product_mantissa_bits = 0"),
        ((accumulator(5), 24, 10), "product_mantissa_bits = 24"),
        ((accumulator(5), 5, 0), "n = 0"),
        ((accumulator(5), 5, 10**9), "n = 1,000,000,000: of sums of more than"),
        ((accumulator(5), 5, 10, 1), "samples = 1 must be an integer of at least 2"),
        ((accumulator(5), 5, 10, 10, -1), "seed = -1"),
        ((accumulator(5), 5, 10, 10, (1, 2**32)), "seed = .1, 4294967296."),
        ((lp.Accumulator(lp.FloatFormat(2, 5)), 5, 1000), "overflow it; give it more exponent"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        analysis.measured_vrr(*arguments)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"nzr": 0}, "nzr = 0"),
        ({"confidence": 1}, "confidence = 1"),
        ({"nzr": 1e-9, "samples": 4}, "samples = 4: all sums are 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        analysis.measured_vrr(accumulator(5), 5, 10, **options)


def test_zeros_shorten_the_chunks_alone():
    # 0.05 of 4096 terms, then 16 chunks: as much may be lost as of 205 and 16 terms.
    options = {"method": "measured", "rounding": "toward_zero", "samples": 64}
    sparse = analysis.minimum_mantissa(5, 65536, 4096, 0.05, **options)
    assert abs(sparse - analysis.minimum_mantissa(5, 205 * 16, 205, **options)) <= 1


def test_stochastic_rounding_has_no_measured_width():
    with pytest.raises(ValueError, match="rounding = 'stochastic'.*method='noise'"):
        analysis.minimum_mantissa(5, 100, method="measured", rounding="stochastic")
