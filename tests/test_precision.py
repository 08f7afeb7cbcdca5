"""Accumulator, Gemm and Policy: values, their checks and their serialization."""

import dataclasses
import json

import numpy as np
import pytest

import tf_lowprec as lp
from tf_lowprec._keras import deserialize_keras_object, serialize_keras_object
from tf_lowprec.gemm import span_bits

Q16 = lp.FixedPointFormat(2, 14)
WIDE = lp.Accumulator.wide()


@pytest.mark.parametrize(
    "format, bits",
    [
        (Q16, 15),
        (lp.FixedPointFormat(1, 23), 23),
        (lp.FP4_E2M1FN, 4),  # 6 = 12 * 0.5
        (lp.FP8_E4M3FN, 18),  # 448 = 229376 * 2^-9
        (lp.FP8_E5M2, 32),
    ],
)
def test_span_bits_holds_the_largest_value(format, bits):
    assert span_bits(format) == bits


@pytest.mark.parametrize(
    "format, length", [(Q16, 2**23), (lp.FixedPointFormat(8, 16), 2**7), (lp.FP8_E4M3FN, 2**17)]
)
def test_exact_length_is_what_53_bits_leave(format, length):
    assert lp.Gemm(format, format, WIDE).exact_length == length


def test_check_length_says_what_the_product_says():
    gemm = lp.Gemm(lp.FixedPointFormat(8, 16), lp.FixedPointFormat(8, 16), WIDE)
    gemm.check_length(128)
    with pytest.raises(ValueError) as checked:
        gemm.check_length(129)
    with pytest.raises(ValueError) as run:
        lp.matmul(np.zeros((1, 129), np.float32), np.zeros((129, 1), np.float32), gemm)
    assert str(checked.value) == str(run.value)


def test_wide_accumulator_refuses_products_beyond_53_bits():
    with pytest.raises(ValueError, match="span more than 53 bits"):
        lp.Gemm(lp.FP8_E5M2, lp.FP8_E5M2, WIDE)


def test_wide_accumulator_needs_operand_formats():
    with pytest.raises(ValueError, match="formats of both operands"):
        lp.Gemm(accumulator=WIDE)


@pytest.mark.parametrize(
    "make, argument",
    [
        (lambda: lp.Gemm(lhs="fp8"), "lhs"),
        (lambda: lp.Gemm(output=8), "output"),
        (lambda: lp.Gemm(accumulator="wide"), "accumulator"),
        (lambda: lp.Gemm(rounding="up"), "rounding = 'up'"),
        (lambda: lp.Accumulator("narrow"), "format = 'narrow' must be a tf_lowprec.FloatFormat"),
        (lambda: lp.Accumulator(), "format = None"),
        (lambda: lp.Accumulator(Q16), "format = FixedPointFormat.*wide"),
        (lambda: lp.Accumulator(lp.FloatFormat(9, 2)), "exponent_bits = 9"),
        (lambda: lp.Accumulator(lp.FP16, 0), "chunk = 0 must be a positive integer"),
        (lambda: lp.Accumulator(lp.FP16, -64), "chunk = -64"),
        (lambda: lp.Accumulator(lp.FP16, 64.0), "chunk = 64.0"),
        (lambda: lp.Accumulator(lp.FP16, True), "chunk = True"),
        (lambda: lp.Accumulator(lp.FP16, "64"), "chunk = '64'"),
        (lambda: lp.Accumulator(lp.FP16, 2**63), "chunk = 9223372036854775808"),
        (lambda: lp.Accumulator(lp.FP16, rounding="up"), "rounding = 'up'"),
        (lambda: lp.Accumulator(kind="exact"), "kind = 'exact'"),
        (lambda: lp.Accumulator(lp.FP16, kind="wide"), "neither format nor chunk"),
        (lambda: lp.Accumulator(chunk=64, kind="native"), "neither format nor chunk"),
        (lambda: lp.Policy(forward=Q16), "forward"),
        (lambda: lp.Policy(weights="int8"), "weights"),
        (lambda: lp.Policy(inference_rounding="stochastic"), "inference_rounding"),
        (lambda: lp.Policy.fixed_point(lp.FP16), "format"),
        (lambda: lp.Policy.fixed_point(Q16, activations=lp.FP16), "activations"),
        (lambda: lp.Policy.fixed_point(Q16, rounding="random"), "rounding = 'random'"),
        (lambda: lp.Policy.fp8((5, 6)), r"accumulator_mantissa_bits = \(5, 6\).*three"),
        (lambda: lp.Policy.fp8(9, chunk=(64, 64)), r"chunk = \(64, 64\).*three"),
        (lambda: lp.Policy.fp8(24), "^accumulator_mantissa_bits = 24"),
        (lambda: lp.Policy.fp8((9, 9, None)), "^accumulator_mantissa_bits = None"),
        (lambda: lp.Policy.fp8(9, 9), "^accumulator_exponent_bits = 9"),
        (lambda: lp.Policy.fp8(9, chunk=0), "^chunk = 0"),
        (lambda: lp.Policy.fp8(9, rounding="up"), "^rounding = 'up'"),
        (lambda: lp.Policy.fp8(9, accumulator_rounding="up"), "^accumulator_rounding = 'up'"),
        (lambda: lp.Policy.fp8(9, operand=8), "operand = 8"),
        (lambda: lp.Policy.fp8(9, operand=Q16), "operand = FixedPointFormat.*fixed_point"),
        (lambda: lp.Accumulator(rounding="stochastic", kind="wide"), "a wide .* does not round"),
        (lambda: lp.Accumulator(rounding="toward_zero", kind="native"), "rounding = 'toward_zero'"),
        (lambda: lp.Policy.hopper(operand=lp.FixedPointFormat(2, 14)), "operand = "),
        (lambda: lp.Policy.hopper(errors=lp.MXFP8_E4M3), "errors = "),
        (lambda: lp.Policy.mx(3), "activations = 3"),
        (lambda: lp.Policy.mx(weights="e4m3"), "weights = 'e4m3'"),
    ],
)
def test_wrong_argument_is_named(make, argument):
    with pytest.raises(ValueError, match=argument):
        make()


def test_fixed_point_policy_says_every_format():
    policy = lp.Policy.fixed_point(Q16, activations=lp.FixedPointFormat(6, 10))
    wide = lp.FixedPointFormat(6, 10)
    assert policy.forward == lp.Gemm(wide, Q16, WIDE, wide, "stochastic")
    assert policy.backward == lp.Gemm(Q16, Q16, WIDE, Q16, "stochastic")
    assert policy.gradient == lp.Gemm(wide, Q16, WIDE, Q16, "stochastic")
    assert (policy.weights, policy.activations, policy.errors) == (Q16, wide, Q16)


def test_inference_policy_is_deterministic():
    policy = lp.Policy.fixed_point(Q16)
    assert policy.is_stochastic
    assert not policy.for_inference().is_stochastic
    assert policy.for_inference().forward.output == Q16


def test_narrow_accumulators_are_values():
    accumulator = lp.Accumulator(lp.FloatFormat(6, 9), 64)
    again = lp.Accumulator(lp.FloatFormat(6, 9), np.int64(64), lp.Rounding.NEAREST_EVEN)
    assert accumulator == again and hash(accumulator) == hash(again)
    assert type(again.chunk) is int
    others = [
        lp.Accumulator(lp.FloatFormat(6, 9)),
        lp.Accumulator(lp.FloatFormat(6, 9), 63),
        lp.Accumulator(lp.FloatFormat(6, 8), 64),
        lp.Accumulator(lp.FloatFormat(6, 9, saturate=True), 64),
        lp.Accumulator(lp.FloatFormat(6, 9), 64, "stochastic"),
        lp.Accumulator.native(),
        lp.Accumulator.wide(),
    ]
    assert len({accumulator, *others}) == len(others) + 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        accumulator.chunk = 1


def test_accumulator_shows_what_it_is():
    text = repr(lp.Accumulator(lp.FloatFormat(6, 9), 64, "stochastic"))
    for word in ("Accumulator", "exponent_bits=6", "mantissa_bits=9", "chunk=64", "stochastic"):
        assert word in text


@pytest.mark.parametrize(
    "accumulator",
    [
        lp.Accumulator(lp.FloatFormat(6, 9), 64, "stochastic"),
        lp.Accumulator(lp.DLFLOAT16, None, "toward_zero"),
        lp.Accumulator(lp.FloatFormat(4, 3, "fn", saturate=True), 2**40),
        lp.Accumulator(lp.FloatFormat(8, 23, subnormals=False), rounding="nearest_up"),
        lp.Accumulator.native(),
    ],
    ids=str,
)
def test_accumulator_config_is_plain_and_comes_back(accumulator):
    config = json.loads(json.dumps(accumulator.get_config()))
    assert lp.Accumulator.from_config(config) == accumulator


def test_fp8_policy_says_every_format():
    e5m2, accumulator = lp.FP8_E5M2, lp.Accumulator(lp.FloatFormat(6, 9), 64)
    policy = lp.Policy.fp8(9)
    assert policy.forward == lp.Gemm(e5m2, e5m2, accumulator)
    assert policy.forward == policy.backward == policy.gradient
    assert (policy.weights, policy.activations, policy.errors) == (None, None, None)
    assert not policy.is_native and not policy.is_stochastic


def test_fp8_policy_takes_a_value_for_each_pass():
    policy = lp.Policy.fp8(
        [5, 6, 9], 5, (None, 64, 128), "stochastic", lp.FP8_E4M3FN, rounding="nearest_up"
    )
    for gemm, m, chunk in zip(
        (policy.forward, policy.backward, policy.gradient), (5, 6, 9), (None, 64, 128)
    ):
        accumulator = lp.Accumulator(lp.FloatFormat(5, m), chunk, "stochastic")
        assert gemm == lp.Gemm(lp.FP8_E4M3FN, lp.FP8_E4M3FN, accumulator, None, "nearest_up")
    assert policy.is_stochastic and policy.rounding == lp.Rounding.NEAREST_UP


STOCHASTIC = lp.Accumulator(lp.FloatFormat(6, 9), 64, "stochastic")


@pytest.mark.parametrize(
    "gemm, stochastic",
    [
        (lp.Gemm(accumulator=STOCHASTIC), True),
        (lp.Gemm(lp.FP8_E5M2, lp.FP8_E5M2, STOCHASTIC), True),
        (lp.Gemm(lp.FP8_E5M2, accumulator=lp.Accumulator(lp.FP16), rounding="stochastic"), True),
        (lp.Gemm(output=lp.FP8_E5M2, rounding="stochastic"), True),
        (lp.Gemm(accumulator=lp.Accumulator(lp.FP16), rounding="stochastic"), False),
        (lp.Gemm(lp.FP8_E5M2, lp.FP8_E5M2, lp.Accumulator(lp.FP16)), False),
    ],
)
def test_gemm_is_stochastic_if_it_draws(gemm, stochastic):
    assert gemm.is_stochastic == stochastic
    for name in ("forward", "backward", "gradient"):
        assert lp.Policy(**{name: gemm}).is_stochastic == stochastic


def test_inference_policy_rounds_sums_to_nearest():
    policy = lp.Policy.fp8((5, 6, 9), accumulator_rounding="stochastic", rounding="stochastic")
    assert policy.for_inference() == lp.Policy.fp8((5, 6, 9))
    up = dataclasses.replace(policy, inference_rounding="nearest_up").for_inference()
    assert up.gradient.accumulator == lp.Accumulator(lp.FloatFormat(6, 9), 64, "nearest_up")
    kept = lp.Policy.fp8(9, accumulator_rounding="toward_zero")
    assert kept.for_inference() == kept


def test_float32_policy_is_native():
    assert lp.Policy.float32().is_native
    assert not lp.Policy.fixed_point(Q16).is_native


@pytest.mark.parametrize(
    "value",
    [
        lp.Accumulator.wide(),
        lp.Accumulator(lp.FloatFormat(6, 9), 64, "stochastic"),
        lp.Gemm(lp.FP8_E5M2, lp.FP16, lp.Accumulator(lp.FloatFormat(8, 23), 3), Q16),
        lp.Policy.fp8((5, 6, 9), 5, (None, 64, 7), "stochastic", lp.FP8_E4M3FN, "toward_zero"),
        lp.Gemm(lp.FP8_E5M2, lp.FP8_E4M3FN, output=lp.BF16, rounding="toward_zero"),
        lp.Policy.float32(),
        lp.Policy.fixed_point(Q16, "nearest_up", activations=lp.FixedPointFormat(6, 10)),
    ],
    ids=["wide", "narrow", "narrow gemm", "fp8", "gemm", "float32", "fixed_point"],
)
def test_values_survive_serialization_and_hash(value):
    again = deserialize_keras_object(serialize_keras_object(value))
    assert again == value
    assert hash(again) == hash(value)


@pytest.mark.parametrize(
    "gemm",
    [
        lp.Gemm(Q16, Q16, WIDE, Q16, "stochastic"),
        lp.Gemm(None, lp.FP8_E5M2, STOCHASTIC, lp.DLFLOAT16, "nearest_up"),
        lp.Gemm(accumulator=lp.Accumulator(lp.FloatFormat(4, 3, "finite", subnormals=False), 7)),
    ],
    ids=["wide", "narrow", "finite"],
)
def test_gemm_survives_json(gemm):
    assert lp.Gemm.from_json(gemm.to_json()) == gemm
    assert lp.Gemm.from_json(gemm.to_json().encode()) == gemm
