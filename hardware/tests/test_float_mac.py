"""The floating-point unit: the same bits as lp.matmul, infinity, NaN and subnormals included."""

import numpy as np
import pytest

import tf_lowprec as lp
from hardware.cosim.float_mac import FloatMac

# (accumulator exponent bits, mantissa bits), rounding, chunk, operand
UNITS = {
    "(1,6,9) nearest even": ((6, 9), "nearest_even", None, lp.FP8_E5M2),
    "(1,6,9) stochastic chunks": ((6, 9), "stochastic", 8, lp.FP8_E5M2),
    "(1,6,4) toward zero chunks": ((6, 4), "toward_zero", 5, lp.FP8_E5M2),
    "(1,6,3) nearest up chunks": ((6, 3), "nearest_up", 3, lp.FP8_E4M3FN),
    "(1,5,10) nearest even chunks": ((5, 10), "nearest_even", 7, lp.FP8_E5M2),
    "(1,8,23) stochastic": ((8, 23), "stochastic", None, lp.FP8_E5M2),
    # The adder's places need more bits than the exponents have.
    "(1,2,23) nearest even chunks": ((2, 23), "nearest_even", 4, lp.FloatFormat(2, 1)),
    "(1,4,20) stochastic chunks": ((4, 20), "stochastic", 6, lp.FloatFormat(3, 2)),
}


@pytest.fixture(scope="module", params=UNITS)
def unit(request):
    format, rounding, chunk, operand = UNITS[request.param]
    return FloatMac(lp.Accumulator(lp.FloatFormat(*format), chunk, rounding), operand)


def codes(unit):
    return 1 << unit.operand.bits


def lowest(unit, count):
    """How many of the `count` lowest positive codes are sure to be finite."""
    return min(count, codes(unit) // 2 - (1 << unit.operand.mantissa_bits))


def check(unit, a, b, rng, pause=0.0):
    random = None
    if unit.accumulator.rounding == lp.Rounding.STOCHASTIC:
        random = rng.integers(0, 2**16, (len(a), unit.steps(a.shape[1]))).astype(np.int32)
    got, cycles = unit.dot(a, b, random, pause, seed=int(rng.integers(2**31)))
    np.testing.assert_array_equal(got, unit.reference(a, b, random))
    return cycles


def test_every_product(unit):
    a, b = (x.reshape(-1, 1) for x in np.meshgrid(*2 * [np.arange(codes(unit))]))
    check(unit, a, b, np.random.default_rng(0))


@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_any_codes(unit, pause):
    """Codes at random: most sums meet infinity and NaN."""
    rng = np.random.default_rng(1)
    for terms in (1, 2, 3, 9, 33):
        check(unit, *rng.integers(0, codes(unit), (2, 500, terms)), rng, pause)


@pytest.mark.parametrize("scale", [2.0**-8, 2.0**-3, 1.0, 2.0**6])
def test_normal_operands(unit, scale):
    """Sums of all sizes: subnormal ones, those that cancel, those that overflow."""
    rng = np.random.default_rng(2)
    for terms in (5, 40, 130):
        operands = (scale * rng.normal(size=(2, 400, terms))).astype(np.float32)
        bits = np.array(lp.to_bits(lp.quantize(operands, unit.operand), unit.operand))
        check(unit, *bits.view(np.uint8), rng)


def test_tiny_operands(unit):
    """Zeros of both signs, subnormals and the lowest normal numbers."""
    rng = np.random.default_rng(3)
    for terms in (2, 3, 6):
        sign = codes(unit) // 2 * rng.integers(0, 2, (2, 2000, terms))
        check(unit, *(sign + rng.integers(0, lowest(unit, 12), (2, 2000, terms))), rng)


def test_one_step_a_cycle(unit):
    """A cycle for each term and each chunk, and one until the last sum is there."""
    rng = np.random.default_rng(4)
    a, b = rng.integers(0, lowest(unit, 60), (2, 10, 21))
    assert check(unit, a, b, rng) == 10 * unit.steps(21) + 1
