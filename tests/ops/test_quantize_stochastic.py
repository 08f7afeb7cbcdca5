"""Stochastic rounding: its random bits are Philox's, element by element, and it is unbiased."""

import numpy as np
import oracle
import pytest
import scipy.stats
import tensorflow as tf
from cases import assert_same_bits

import tf_lowprec as lp
from tf_lowprec.ops.streams import Stream

Q16 = lp.FixedPointFormat(2, 14)
GAP = lp.FloatFormat(5, 2, subnormals=False)
ONES = 2**32 - 1

# Known answers from Random123 (kat_vectors, philox4x32 10): counter, key, words.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def stochastic(x, format, seed, stream=Stream.QUANTIZE):
    return lp.quantize(tf.constant(x), format, "stochastic", seed, stream=stream).numpy()


def random_bits_of_the_op(count, seed, stream=Stream.QUANTIZE):
    """r of each element, found bit by bit: (2^24 - c) / 2^24 goes up to 1 if and only if r >= c."""
    r = np.zeros(count, np.int64)
    for bit in reversed(range(24)):
        candidate = r + 2**bit
        x = ((2**24 - candidate) * 2.0**-24).astype(np.float32)
        r = np.where(stochastic(x, lp.FixedPointFormat(2, 0), seed, stream) == 1, candidate, r)
    return r


@pytest.mark.parametrize("counter, key, words", KNOWN_ANSWERS)
def test_oracles_philox_gives_the_known_answers(counter, key, words):
    assert oracle.philox4x32_10(counter, key) == words


def test_oracles_array_of_bits_equals_its_single_ones():
    seed, stream = (-5, 2**40 + 3), Stream.SLOT.of(2)
    bits = oracle.random_bits_array(103, stream, seed)
    assert bits.tolist() == [oracle.random_bits(i, stream, seed) for i in range(103)]


def test_first_elements_use_the_words_of_the_known_answer():
    want = [word >> 8 for word in KNOWN_ANSWERS[0][2]]
    assert random_bits_of_the_op(4, (0, 0)).tolist() == want


@pytest.mark.parametrize("stream", [0, Stream.BIAS, Stream.STEP.of(1), 2**62 + 5])
@pytest.mark.parametrize("seed", [(1, 2), (0x7FFFFFFF, -(2**31))])
def test_random_bits_are_the_oracles(seed, stream):
    want = oracle.random_bits_array(1031, stream, seed)
    np.testing.assert_array_equal(random_bits_of_the_op(1031, seed, stream), want)


@pytest.mark.parametrize("format", [Q16, lp.FP8_E4M3FN, lp.BF16, GAP, lp.DLFLOAT16], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_seed_equals_its_random_bits_given(format, dtype):
    x = np.random.default_rng(3).normal(size=2049).astype(dtype) * dtype(2.0)
    r = oracle.random_bits_array(x.size, Stream.ACTIVATION, (7, 8))
    given = lp.quantize(x, format, "stochastic", random_bits=r)
    assert_same_bits(stochastic(x, format, (7, 8), Stream.ACTIVATION), given, x, r)


@pytest.mark.parametrize("format", [Q16, lp.FP8_E5M2], ids=str)
def test_seed_equals_the_oracle(format):
    x = np.random.default_rng(3).normal(size=2049).astype(np.float32)
    r = oracle.random_bits_array(x.size, 0, (7, 8))
    want = oracle.round_array(x, format, "stochastic", r)
    assert_same_bits(stochastic(x, format, (7, 8)), want, x, r)


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 105), (105, 1, 1), (2, 0, 3)])
def test_elements_count_row_major(shape):
    x = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    flat = stochastic(x.ravel(), Q16, (1, 2))
    assert_same_bits(stochastic(x, Q16, (1, 2)), flat.reshape(shape), x)


@pytest.mark.parametrize(
    "seed, same",
    [
        ((-1, 7), (2**32 - 1, 7)),
        ((5, 2**40 + 6), (5, 6)),
        (np.array([3, 4], np.uint8), (3, 4)),
        (tf.constant([3, 4], tf.int64), (3, 4)),
        (tf.constant([2**32 - 3, 4], tf.uint32), (-3, 4)),
    ],
)
def test_seeds_count_modulo_2_to_the_32(seed, same):
    x = np.full(64, 0.3, np.float32)
    assert_same_bits(stochastic(x, Q16, seed), stochastic(x, Q16, same))


@pytest.mark.parametrize(
    "seed, stream", [((1, 3), 0), ((2, 2), 0), ((2, 1), 0), ((1, 2), 1), ((1, 2), 2**32)]
)
def test_another_seed_or_stream_gives_other_bits(seed, stream):
    bits = random_bits_of_the_op(64, (1, 2), 0)
    assert np.mean(random_bits_of_the_op(64, seed, stream) == bits) < 0.1


def test_seed_inside_tf_function_is_that_of_eager_mode():
    x = np.random.default_rng(5).normal(size=257).astype(np.float32)
    traced = tf.function(lambda seed: lp.quantize(x, Q16, "stochastic", seed))
    assert_same_bits(traced(tf.constant([9, 10])), stochastic(x, Q16, (9, 10)), x)


def test_seed_drawn_in_eager_mode_follows_set_seed():
    x = np.random.default_rng(5).normal(size=257).astype(np.float32)
    draws = []
    for _ in range(2):
        tf.random.set_seed(11)
        draws.append(lp.quantize(x, Q16, "stochastic").numpy())
    assert_same_bits(*draws)


def test_seeds_drawn_in_a_row_differ():
    x = np.random.default_rng(5).normal(size=257).astype(np.float32)
    first, second = (lp.quantize(x, Q16, "stochastic").numpy() for _ in range(2))
    assert (first != second).any()


# How often a value goes up. Seeds are fixed; at 1e-9 a right generator has next to no chance of
# failing for any seed, and 2^18 draws see a bias of 0.006.

DRAWS = 2**18


@pytest.mark.parametrize(
    "format, low, high",
    [
        (Q16, 0.5, 0.5 + 2.0**-14),
        (Q16, -0.5 - 2.0**-14, -0.5),
        (Q16, -(2.0**-14), 0.0),
        (lp.FP8_E5M2, 1.0, 1.25),
        (lp.FP8_E5M2, -1.25, -1.0),
        (lp.FP8_E5M2, 1.75, 2.0),  # carries into the exponent
        (lp.FP8_E5M2, 0.0, 2.0**-16),  # below the smallest subnormal
        (GAP, 0.0, 2.0**-14),
        (GAP, -(2.0**-14), 0.0),
        (lp.DLFLOAT16, 0.0, 2.0**-31 * (1 + 2.0**-9)),
        (lp.FP8_E5M2, 57344.0, np.inf),  # max and what lies beyond; the spacing is 8192
    ],
)
@pytest.mark.parametrize("sixteenths", [1, 5, 8, 15])
def test_probability_is_the_distance(format, low, high, sixteenths):
    gap = (high if np.isfinite(high) else low + 8192) - low
    p = sixteenths / 16
    x = np.full(DRAWS, low + gap * p, np.float64)
    y = stochastic(x, format, (sixteenths, 20))
    ups = int(np.sum(y == np.float32(high)))
    assert ups + int(np.sum(y == np.float32(low))) == DRAWS
    assert scipy.stats.binomtest(ups, DRAWS, p).pvalue > 1e-9


def test_the_mean_of_many_roundings_is_unbiased():
    # The sum of the errors of x between 0 and 1: variance f (1 - f) each, 1/6 on average.
    x = np.random.default_rng(6).random(2**20).astype(np.float32)
    errors = stochastic(x, lp.FixedPointFormat(2, 0), (1, 21)) - x.astype(np.float64)
    z = errors.sum() / np.sqrt(np.sum(x.astype(np.float64) * (1 - x)))
    assert abs(z) < 6


def test_random_bits_are_uniform():
    r = random_bits_of_the_op(2**16, (1, 22))
    for shift in (0, 8, 16):  # each byte of r
        counts = np.bincount(r >> shift & 255, minlength=256)
        assert scipy.stats.chisquare(counts).pvalue > 1e-9


def test_neighbouring_elements_are_independent():
    r = random_bits_of_the_op(2**16, (1, 23))
    for lag in (1, 2, 3, 4, 256):
        table = np.histogram2d(r[:-lag] >> 21, r[lag:] >> 21, bins=8)[0]
        assert scipy.stats.chi2_contingency(table).pvalue > 1e-9
