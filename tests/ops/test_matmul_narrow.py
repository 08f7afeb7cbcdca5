"""lp.matmul with narrow accumulators, forward: bit for bit what exact integers give."""

import accumulation_oracle
import gemm_cases
import numpy as np
import oracle
import pytest
import tensorflow as tf
from cases import assert_same_bits, float_formats
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tf_lowprec as lp
from tf_lowprec.ops.streams import Stream

EXTENTS = st.sampled_from([1, 2, 3, 5, 7, 11, 12, 13, 16, 17, 24, 29])
LENGTHS = st.one_of(st.sampled_from([0, 1, 2, 3, 7, 13, 16]), st.integers(0, 24))
ROUNDINGS = st.sampled_from(list(lp.Rounding))
SEED = (-3, 2**31 + 5)


def chunks(k):
    return st.sampled_from([None, None, 1, 2, 3, 5, 64, max(k, 1), k + 1])


def both(a, b, gemm, transposes=(False, False), seed=SEED):
    """(lp.matmul, the oracle) of arrays as they are stored."""
    y = lp.matmul(
        a, b, gemm, transpose_a=transposes[0], transpose_b=transposes[1], seed=seed
    ).numpy()
    policy = lp.Policy(forward=gemm)
    passes = accumulation_oracle.Passes(a, b, policy, Stream, transposes, seed)
    return y, passes.forward()[1]


def random_operands(rng, shapes, kinds, gemm, where):
    """(a, b) whose products lie about `where` of the accumulator's range."""
    accumulator = gemm.accumulator.format
    powers = gemm_cases.exponents(accumulator, where, rng)
    return [
        gemm_cases.operand(rng, shape, kind, format, accumulator.mantissa_bits, power)
        for shape, kind, format, power in zip(shapes, kinds, (gemm.lhs, gemm.rhs), powers)
    ]


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), m=EXTENTS, k=LENGTHS, n=EXTENTS, seed=st.integers(0, 2**31))
def test_matrices(data, m, k, n, seed):
    kinds = data.draw(st.tuples(*[st.sampled_from(gemm_cases.KINDS)] * 2))
    formats = data.draw(st.tuples(*[st.sampled_from(gemm_cases.OPERANDS)] * 2))
    accumulator = lp.Accumulator(
        data.draw(float_formats()), data.draw(chunks(k)), data.draw(ROUNDINGS)
    )
    gemm = lp.Gemm(*formats, accumulator)
    transposes = data.draw(st.tuples(st.booleans(), st.booleans()))
    where = data.draw(st.sampled_from(["middle", "low", "high"]))
    shapes = (k, m) if transposes[0] else (m, k), (n, k) if transposes[1] else (k, n)
    a, b = random_operands(np.random.default_rng(seed), shapes, kinds, gemm, where)
    assert_same_bits(*both(a, b, gemm, transposes))


# The usual formats, whose sums neither overflow nor vanish: what the fast paths are for.
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.data(),
    k=st.integers(1, 40),
    exponent_bits=st.integers(6, 8),
    mantissa_bits=st.integers(1, 23),
    operand=st.sampled_from(gemm_cases.OPERANDS),
    kind=st.sampled_from(["ordinary", "ties"]),
    seed=st.integers(0, 2**31),
)
def test_sums_of_ordinary_size(data, k, exponent_bits, mantissa_bits, operand, kind, seed):
    format = lp.FloatFormat(exponent_bits, mantissa_bits)
    accumulator = lp.Accumulator(format, data.draw(chunks(k)), data.draw(ROUNDINGS))
    gemm = lp.Gemm(operand, operand, accumulator)
    rng = np.random.default_rng(seed)
    a, b = random_operands(rng, [(13, k), (k, 19)], [kind] * 2, gemm, "middle")
    assert_same_bits(*both(a, b, gemm))


BATCHES = [
    ((), (2,)),
    ((3,), ()),
    ((2,), (2,)),
    ((2, 1), (1, 3)),
    ((2, 3), (3,)),
    ((1, 1), (2,)),
    ((2, 0), (1, 1)),
    ((4, 1, 2), (3, 1)),
]


@settings(max_examples=80, deadline=None)
@given(
    data=st.data(),
    batches=st.sampled_from(BATCHES),
    transposes=st.tuples(st.booleans(), st.booleans()),
    extents=st.tuples(st.integers(0, 5), st.integers(1, 9), st.integers(0, 5)),
    rounding=ROUNDINGS,
    seed=st.integers(0, 2**31),
)
def test_batches(data, batches, transposes, extents, rounding, seed):
    m, k, n = extents
    gemm = lp.Gemm(
        lp.FP8_E5M2,
        lp.FP8_E4M3FN,
        lp.Accumulator(lp.FloatFormat(6, 5), data.draw(chunks(k)), rounding),
        output=lp.FloatFormat(5, 4),
        rounding=rounding,
    )
    rng = np.random.default_rng(seed)
    a = rng.normal(size=batches[0] + ((k, m) if transposes[0] else (m, k))).astype(np.float32)
    b = rng.normal(size=batches[1] + ((n, k) if transposes[1] else (k, n))).astype(np.float32)
    assert_same_bits(*both(a, b, gemm, transposes))


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    formats=st.tuples(*[st.sampled_from(gemm_cases.OPERANDS)] * 3),
    accumulator=float_formats(),
    rounding=ROUNDINGS,
    accumulator_rounding=ROUNDINGS,
    seed=st.tuples(st.integers(-(2**31), 2**32), st.integers(-(2**31), 2**32)),
)
def test_operands_and_output_are_rounded(
    data, formats, accumulator, rounding, accumulator_rounding, seed
):
    accumulator = lp.Accumulator(accumulator, data.draw(chunks(9)), accumulator_rounding)
    gemm = lp.Gemm(*formats[:2], accumulator, formats[2], rounding)
    rng = np.random.default_rng(seed[0] % 2**32)
    a, b = random_operands(rng, [(7, 9), (9, 5)], ["speckled", "ordinary"], gemm, "middle")
    assert_same_bits(*both(a, b, gemm, seed=seed))


@pytest.mark.parametrize("rounding", list(lp.Rounding))
@pytest.mark.parametrize("mantissa_bits", [9, 14])
@pytest.mark.parametrize("chunk", [None, 64, 300])
def test_long_sums(mantissa_bits, chunk, rounding):
    accumulator = lp.Accumulator(lp.FloatFormat(6, mantissa_bits), chunk, rounding)
    gemm = lp.Gemm(lp.FP8_E5M2, lp.FP8_E5M2, accumulator)
    rng = np.random.default_rng(mantissa_bits)
    a, b = (rng.normal(size=s).astype(np.float32) for s in ((3, 1000), (1000, 17)))
    assert_same_bits(*both(a, b + np.float32(0.25), gemm))


@pytest.mark.parametrize("rounding", ["nearest_even", "nearest_up"])
@pytest.mark.parametrize("operand", [lp.FP8_E5M2, lp.BF16, None], ids=str)
def test_each_partial_sum_is_rounded_once(rounding, operand):
    # Partial sums 32, 32 + 2^-9, and 2^20 + 32 + 2^-9, just above the tie of m = 14.
    a = np.array([[32, 2.0**-9, 2.0**10]], np.float32)
    b = np.array([[1], [1], [2.0**10]], np.float32)
    gemm = lp.Gemm(operand, operand, lp.Accumulator(lp.FloatFormat(6, 14), rounding=rounding))
    assert lp.matmul(a, b, gemm).numpy().item() == 2**20 + 64
    assert lp.matmul(-a, b, gemm).numpy().item() == -(2**20) - 64


def test_signed_zeros():
    gemm = lp.Gemm(accumulator=lp.Accumulator(lp.FloatFormat(4, 3)))
    tiny = np.float32(-(2.0**-20))  # rounds to -0

    def of(*terms, gemm=gemm):
        a = np.array([terms], np.float32)
        return lp.matmul(a, np.ones_like(a.T), gemm).numpy().item().hex()

    assert of(-0.0) == "0x0.0p+0"  # +0 + -0
    assert of(tiny) == "-0x0.0p+0"
    assert of(tiny, -0.0) == "-0x0.0p+0"
    assert of(tiny, 0.0) == "0x0.0p+0"
    assert of(1, -1) == "0x0.0p+0"
    chunked = lp.Gemm(accumulator=lp.Accumulator(lp.FloatFormat(4, 3), chunk=2))
    assert of(tiny, gemm=chunked) == "0x0.0p+0"  # the chunk's -0 is added to +0


@pytest.mark.parametrize("rounding", list(lp.Rounding))
@pytest.mark.parametrize("operand", [lp.FP8_E5M2, lp.BF16, None], ids=str)
@pytest.mark.parametrize("mantissa_bits", [2, 5, 14, 23])
@pytest.mark.parametrize("least", [1, 2.0**-8, 2.0**-14, 2.0**-60])  # in the same tile
def test_cancellation_gives_plus_zero(mantissa_bits, operand, rounding, least):
    accumulator = lp.Accumulator(lp.FloatFormat(6, mantissa_bits), rounding=rounding)
    gemm = lp.Gemm(operand, operand, accumulator)
    a = np.array([[1, -1, 0], [-1, 1, 0], [-1, 1, -0.0], [1, 1, least]], np.float32)
    assert_same_bits(*both(a, np.ones((3, 1), np.float32), gemm))


def test_runs_everywhere(run):
    rng = np.random.default_rng(5)
    accumulator = lp.Accumulator(lp.FloatFormat(6, 7), 4, "stochastic")
    gemm = lp.Gemm(lp.FP8_E5M2, lp.FP8_E4M3FN, accumulator, lp.BF16, "stochastic")
    a, b = (rng.normal(size=s).astype(np.float32) for s in ((2, 13, 11), (11, 18)))
    y = run(lambda a, b: lp.matmul(a, b, gemm, seed=(8, 9)))(tf.constant(a), tf.constant(b))
    passes = accumulation_oracle.Passes(a, b, lp.Policy(forward=gemm), Stream, seed=(8, 9))
    assert_same_bits(y, passes.forward()[1])


@pytest.mark.parametrize("shapes", [((3, 5), (5, 4)), ((2, 3, 5), (5, 4)), ((2, 1, 5), (2, 5, 4))])
def test_shapes_that_show_at_run_time_only(shapes):
    gemm = lp.Gemm(accumulator=lp.Accumulator(lp.FloatFormat(6, 7), 3, "stochastic"))
    rng = np.random.default_rng(6)
    a, b = (rng.normal(size=s).astype(np.float32) for s in shapes)
    specs = [tf.TensorSpec([None] * x.ndim) for x in (a, b)]
    product = tf.function(lambda a, b: lp.matmul(a, b, gemm, seed=SEED), input_signature=specs)
    assert_same_bits(product(a, b), both(a, b, gemm)[1])


@pytest.mark.parametrize("chunk", [None, 1, 4, 7, 9])
@pytest.mark.parametrize("shapes", [((4, 7), (7, 5)), ((2, 3, 7), (7, 5)), ((2, 1, 7), (2, 7, 3))])
def test_random_bits_stand_for_the_seed(run, chunk, shapes):
    gemm = lp.Gemm(lp.FP8_E5M2, None, lp.Accumulator(lp.FloatFormat(6, 4), chunk, "stochastic"))
    rng = np.random.default_rng(7)
    a, b = (rng.normal(size=s).astype(np.float32) for s in shapes)
    want = lp.matmul(a, b, gemm, seed=SEED)
    count = accumulation_oracle.steps(7, chunk)
    size = int(np.prod(want.shape))
    bits = accumulation_oracle.random_bits(size, count, Stream.FORWARD_ACCUMULATOR, SEED)
    bits = bits.reshape(*want.shape, count)
    product = run(lambda a, b, r: lp.matmul(a, b, gemm, seed=SEED, random_bits=r))
    assert_same_bits(product(tf.constant(a), tf.constant(b), tf.constant(bits)), want.numpy())


@pytest.mark.parametrize("r", [0, 1, 2**15, 2**16 - 1])
def test_extreme_random_bits(r):
    gemm = lp.Gemm(accumulator=lp.Accumulator(lp.FloatFormat(5, 3), 3, "stochastic"))
    rng = np.random.default_rng(8)
    a, b = (rng.normal(size=s).astype(np.float32) for s in ((5, 7), (7, 6)))
    bits = np.full((5, 6, 10), r, np.int32)
    want = accumulation_oracle.product(a, b, gemm.accumulator, r=bits)
    assert_same_bits(lp.matmul(a, b, gemm, random_bits=bits).numpy(), want)


@settings(max_examples=100, deadline=None)
@given(format=float_formats(), rounding=ROUNDINGS, seed=st.integers(0, 2**31))
def test_the_two_oracles_agree(format, rounding, seed):
    # On s + 0, which a float64 holds too.
    rng = np.random.default_rng(seed)
    add = accumulation_oracle.adder(format, rounding.value)
    for kind in gemm_cases.KINDS:
        powers = gemm_cases.exponents(format, "low" if seed % 2 else "high", rng)
        xs = gemm_cases.operand(rng, 8, kind, format, format.mantissa_bits, sum(powers))
        for x, r in zip(xs.tolist(), rng.integers(0, 2**16, 8).tolist()):
            want = oracle.round_value(x, format, rounding, r << 8)
            got = add(0.0, x, r)
            assert got == want or got != got and want != want, (x, r)
