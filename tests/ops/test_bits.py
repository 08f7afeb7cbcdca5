"""lp.to_bits and lp.from_bits: golden tables of every code of the small formats; refusals."""

import cases
import numpy as np
import oracle
import pytest
import tensorflow as tf
from cases import PRESETS, assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

import tf_lowprec as lp

names = pytest.mark.parametrize("name", PRESETS)
Q16 = lp.FixedPointFormat(2, 14)
GAP = lp.FloatFormat(5, 2, subnormals=False)
REFUSED = tf.errors.InvalidArgumentError
# The one NaN that to_bits writes: IEEE's quiet NaN; all ones where that is the only one.
NAN_CODES = {
    "FP8_E5M2": 0x7E,
    "FP8_E4M3FN": 0x7F,
    "FP16": 0x7E00,
    "BF16": 0x7FC0,
    "DLFLOAT16": 0x7FFF,
}


@pytest.fixture(params=["eager", "graph"])
def call(request):
    """Calls a function of one tensor eagerly or in tf.function."""
    return {"eager": lambda f, x: f(x), "graph": lambda f, x: tf.function(f)(x)}[request.param]


def storage(format):
    return np.int8 if format.bits <= 8 else np.int16 if format.bits <= 16 else np.int32


def all_codes(format):
    """Every code, without sign extension, in the format's storage type."""
    return np.arange(2**format.bits).astype(storage(format))


def unsigned(codes, format):
    return codes.astype(np.int64) & (2**format.bits - 1)


def decode(codes, format):
    """What the oracle reads: float32, canonical NaN."""
    values = [oracle.decode(int(code), format) for code in unsigned(codes, format)]
    return oracle.canonical(np.array(values, np.float32))


# Golden tables.


@names
def test_every_code_has_the_oracles_value(name):
    format = PRESETS[name][0]
    codes = all_codes(format)
    assert_same_bits(lp.from_bits(codes, format), decode(codes, format), codes)


@names
def test_every_code_has_ml_dtypes_value(name):
    format, type_name = PRESETS[name]
    dtype = cases.numpy_type(type_name)
    if dtype is None:
        pytest.skip("ml_dtypes has no such type")
    codes = all_codes(format)
    want = codes.view(np.uint8 if format.bits <= 8 else np.uint16).view(dtype).astype(np.float32)
    assert_same_bits(lp.from_bits(codes, format), oracle.canonical(want), codes)


@names
def test_every_code_survives_the_round_trip(name):
    format = PRESETS[name][0]
    codes = all_codes(format)
    values = lp.from_bits(codes, format).numpy()
    want = np.where(np.isnan(values), NAN_CODES.get(name, -1), unsigned(codes, format))
    np.testing.assert_array_equal(unsigned(lp.to_bits(values, format).numpy(), format), want)


@names
def test_every_value_has_ml_dtypes_code(name):
    format, type_name = PRESETS[name]
    dtype = cases.numpy_type(type_name)
    if dtype is None:
        pytest.skip("ml_dtypes has no such type")
    values = lp.from_bits(all_codes(format), format).numpy()
    want = values.astype(dtype).view(np.uint8 if format.bits <= 8 else np.uint16)
    np.testing.assert_array_equal(unsigned(lp.to_bits(values, format).numpy(), format), want)


def test_every_fixed_point_code_is_a_twos_complement_integer():
    codes = np.arange(-(2**15), 2**15).astype(np.int16)
    values = (codes * 2.0**-14).astype(np.float32)
    np.testing.assert_array_equal(lp.to_bits(values, Q16), codes)
    assert_same_bits(lp.from_bits(codes, Q16), values, codes)


@pytest.mark.parametrize(
    "format, value, code",
    [
        (lp.FP8_E5M2, 1.0, 0x3C),
        (lp.FP8_E4M3FN, 448.0, 0x7E),
        (lp.FP4_E2M1FN, -6.0, 0xF),
        (lp.FP6_E3M2FN, -0.0, 0x20),
        (lp.DLFLOAT16, 0.0, 0),
        (lp.DLFLOAT16, 2.0**-31 * (1 + 2.0**-9), 1),
        (lp.DLFLOAT16, 1.0, 31 << 9),
        (lp.DLFLOAT16, 2.0**32 * (2 - 2.0**-8), 0x7FFE),
        (lp.TF32, 1.5, 127 << 10 | 1 << 9),
        (lp.FP32, -1.5, -0x40400000),
        (lp.FP32, np.inf, 0x7F800000),
        (lp.FP32, 1e-45, 1),
        (lp.FixedPointFormat(1, 0), -1.0, -1),
        (lp.FixedPointFormat(1, 23), -1.0, -(2**23)),
        (lp.FixedPointFormat(24, 0), 2.0**23 - 1, 2**23 - 1),
        (Q16, -0.0, 0),
    ],
)
def test_known_codes(format, value, code):
    got = lp.to_bits(np.float32(value), format).numpy()
    want = code if oracle.is_fixed(format) else code & (2**format.bits - 1)
    assert (got if oracle.is_fixed(format) else unsigned(got, format)) == want


@settings(max_examples=100, deadline=None)
@given(format=st.one_of(cases.float_formats(), cases.fixed_formats()), seed=st.integers(0, 2**32))
def test_any_format_survives_the_round_trip(format, seed):
    x = cases.inputs(format, np.float32, seed)[0]
    values = oracle.round_array(x, format, "nearest_even")
    values = values[np.isfinite(values)]
    codes = lp.to_bits(values, format).numpy()
    assert_same_bits(decode(codes, format), values)
    assert_same_bits(lp.from_bits(codes, format), values)


# Storage.


@pytest.mark.parametrize(
    "format, dtype",
    [
        (lp.FP4_E2M1FN, tf.int8),
        (lp.FP8_E5M2, tf.int8),
        (lp.FixedPointFormat(4, 4), tf.int8),
        (lp.FixedPointFormat(4, 5), tf.int16),
        (lp.FP16, tf.int16),
        (Q16, tf.int16),
        (lp.FixedPointFormat(3, 14), tf.int32),
        (lp.TF32, tf.int32),
        (lp.FP32, tf.int32),
    ],
)
def test_storage_is_the_narrowest_that_holds_the_bits(call, format, dtype):
    assert call(lambda x: lp.to_bits(x, format), tf.constant([1.0])).dtype == dtype


@pytest.mark.parametrize("dtype", [tf.int8, tf.int16, tf.int32])
@pytest.mark.parametrize("code", [0x3C - 128, 0x3C])
def test_wider_integers_hold_the_same_code(dtype, code):
    value = lp.from_bits(tf.constant([code], dtype), lp.FP8_E5M2)
    assert value.numpy()[0] == (1.0 if code > 0 else -1.0)


@pytest.mark.parametrize("code", [0xBC, 0xBC - 256])
def test_the_sign_bit_may_be_extended_or_not(code):
    assert lp.from_bits(tf.constant([code], tf.int16), lp.FP8_E5M2).numpy()[0] == -1.0


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (2, 3, 4)])
@pytest.mark.parametrize("format", [Q16, lp.FP8_E4M3FN], ids=str)
def test_shapes_are_kept(call, shape, format):
    codes = call(lambda x: lp.to_bits(x, format), tf.ones(shape))
    assert codes.shape == shape
    values = call(lambda bits: lp.from_bits(bits, format), codes)
    assert_same_bits(values, np.ones(shape, np.float32))


def test_order_is_kept():
    x = np.arange(-12, 12, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(lp.to_bits(x, lp.FixedPointFormat(8, 0)), x)


def test_unknown_static_shape():
    function = tf.function(
        lambda x: lp.from_bits(lp.to_bits(x, Q16), Q16), input_signature=[tf.TensorSpec(None)]
    )
    assert_same_bits(function([[0.5, -2.0]]), np.array([[0.5, -2.0]], np.float32))


# Refusals.


@pytest.mark.parametrize(
    "format, bad, reason",
    [
        (lp.FP8_E5M2, 1.1, "grid"),
        (lp.FP8_E5M2, 2.0**-17, "grid"),
        (GAP, 2.0**-15, "grid"),
        (lp.DLFLOAT16, 2.0**-31, "grid"),
        (Q16, 2.0**-15, "grid"),
        (Q16, 1e-45, "grid"),
        (Q16, 2.0, "range"),
        (Q16, -2.0 - 2.0**-14, "range"),
        (Q16, np.inf, "range"),
        (Q16, np.nan, "NaN"),
        (lp.FP8_E4M3FN, 480.0, ""),
        (lp.FP8_E4M3FN, np.inf, "infinity"),
        (lp.FP4_E2M1FN, 8.0, ""),
        (lp.FP4_E2M1FN, np.nan, "NaN"),
        (lp.FP4_E2M1FN, -np.inf, "infinity"),
        (lp.DLFLOAT16, np.inf, "infinity"),
        (lp.FloatFormat(3, 0), np.nan, "NaN"),  # the top exponent has room for infinity only
    ],
)
def test_value_without_code_is_refused_by_element(call, format, bad, reason):
    x = np.ones((2, 3), np.float32)
    x[1, 1] = bad
    with pytest.raises(REFUSED, match=rf"\bx\[4\] = .*{reason}.*{format.spec}"):
        call(lambda x: lp.to_bits(x, format), tf.constant(x))


@pytest.mark.parametrize(
    "format, bad, dtype",
    [
        (lp.FP4_E2M1FN, 16, tf.int8),
        (lp.FP4_E2M1FN, -9, tf.int8),
        (lp.FP8_E5M2, 256, tf.int16),
        (lp.FP8_E5M2, -129, tf.int32),
        (lp.FixedPointFormat(2, 2), 8, tf.int8),
        (lp.FixedPointFormat(2, 2), -9, tf.int8),
        (Q16, 2**15, tf.int32),
        (GAP, 1, tf.int8),  # a subnormal's code
        (GAP, 3 - 128, tf.int8),
    ],
)
def test_integer_that_is_no_code_is_refused_by_element(call, format, bad, dtype):
    bits = tf.constant([0, 0, bad], dtype)
    with pytest.raises(REFUSED, match=rf"\bbits\[2\] = {bad} .*{format.spec}"):
        call(lambda bits: lp.from_bits(bits, format), bits)


@pytest.mark.parametrize("dtype", [tf.float64, tf.float16, tf.int32, tf.complex64, tf.string])
def test_to_bits_takes_float32_only(call, dtype):
    x = tf.constant("a") if dtype == tf.string else tf.ones([2], dtype)
    with pytest.raises(ValueError, match=rf"x has dtype {dtype.name}; it must be float32"):
        call(lambda x: lp.to_bits(x, Q16), x)


@pytest.mark.parametrize("dtype", [tf.int8, tf.uint16, tf.int64, tf.float32, tf.bool])
def test_from_bits_takes_signed_integers_that_hold_the_format(call, dtype):
    bits = tf.cast(tf.constant([1]), dtype)
    with pytest.raises(ValueError, match=rf"bits has dtype {dtype.name}; .*int16"):
        call(lambda bits: lp.from_bits(bits, Q16), bits)


@pytest.mark.parametrize("function", [lp.to_bits, lp.from_bits])
def test_no_format(function):
    with pytest.raises(ValueError, match="format = 'fp8' must be"):
        function([1.0], "fp8")


@pytest.mark.parametrize("function, name", [(lp.to_bits, "x"), (lp.from_bits, "bits")])
def test_what_is_no_tensor(function, name):
    with pytest.raises(ValueError, match=f"^{name} is no tensor, but NoneType"):
        function(None, Q16)


@pytest.mark.parametrize("function, name", [(lp.to_bits, "x"), (lp.from_bits, "bits")])
def test_sparse_tensors_are_named(function, name):
    with pytest.raises(ValueError, match=rf"^{name} is a SparseTensor; .*to_dense\({name}\)"):
        function(tf.sparse.from_dense([1.0]), Q16)


def test_op_refuses_storage_that_is_too_narrow():
    from tf_lowprec.ops._library import ops

    with pytest.raises(REFUSED, match="16 bits.*only 8"):
        ops.lowprec_to_bits(x=[1.0], T=tf.int8, format=Q16.spec)


def test_no_gradient_flows():
    x = tf.constant([1.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = lp.from_bits(lp.to_bits(x, Q16), Q16)
    assert tape.gradient(y, x) is None
