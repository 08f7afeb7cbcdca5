"""Accumulator, Gemm and Policy: values, their checks and their serialization."""

import pytest

import tf_lowprec as lp
from tf_lowprec._keras import deserialize_keras_object, serialize_keras_object
from tf_lowprec.precision import span_bits

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
        (lambda: lp.Accumulator("narrow"), "kind = 'narrow'"),
        (lambda: lp.Policy(forward=Q16), "forward"),
        (lambda: lp.Policy(weights="int8"), "weights"),
        (lambda: lp.Policy(inference_rounding="stochastic"), "inference_rounding"),
        (lambda: lp.Policy.fixed_point(lp.FP16), "format"),
        (lambda: lp.Policy.fixed_point(Q16, activations=lp.FP16), "activations"),
        (lambda: lp.Policy.fixed_point(Q16, rounding="random"), "rounding = 'random'"),
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


def test_float32_policy_is_native():
    assert lp.Policy.float32().is_native
    assert not lp.Policy.fixed_point(Q16).is_native


@pytest.mark.parametrize(
    "value",
    [
        lp.Accumulator.wide(),
        lp.Gemm(lp.FP8_E5M2, lp.FP8_E4M3FN, output=lp.BF16, rounding="toward_zero"),
        lp.Policy.float32(),
        lp.Policy.fixed_point(Q16, "nearest_up", activations=lp.FixedPointFormat(6, 10)),
    ],
    ids=["accumulator", "gemm", "float32", "fixed_point"],
)
def test_values_survive_serialization_and_hash(value):
    again = deserialize_keras_object(serialize_keras_object(value))
    assert again == value
    assert hash(again) == hash(value)


def test_gemm_survives_json():
    gemm = lp.Gemm(Q16, Q16, WIDE, Q16, "stochastic")
    assert lp.Gemm.from_json(gemm.to_json()) == gemm
    assert lp.Gemm.from_json(gemm.to_json().encode()) == gemm
