"""lp.quantize's arguments, eagerly and in tf.function: wrong ones are named, odd ones work."""

import functools
import re

import numpy as np
import pytest
import tensorflow as tf
from cases import assert_same_bits

import tf_lowprec as lp

WRONG = (ValueError, tf.errors.InvalidArgumentError)
FORMATS = [lp.FP8_E4M3FN, lp.FixedPointFormat(2, 14)]
formats = pytest.mark.parametrize("format", FORMATS, ids=str)
X = np.array([0.1, 0.2, 0.3], np.float32)


@pytest.fixture(params=["eager", "graph"])
def call(request):
    """Calls a function without arguments, eagerly or while tf.function traces it."""
    # AutoGraph would add the caller's source, with the arguments' names, to every message.
    return {"eager": lambda f: f(), "graph": lambda f: tf.function(f, autograph=False)()}[
        request.param
    ]


def refused(call, argument, *words, x=X, **arguments):
    """Checks that quantize raises an error that names the argument and says each of `words`."""
    arguments = {"format": lp.FP8_E5M2, "rounding": "stochastic", **arguments}

    def quantize():
        return lp.quantize(x, **arguments)

    with pytest.raises(WRONG) as raised:
        call(quantize)
    # Whole words: TensorFlow's own messages show the node, with its attribute num_random_bits.
    for word in (argument, *words):
        assert re.search(rf"(?<!\w){re.escape(word)}(?!\w)", str(raised.value)), raised.value


def test_nothing(call):
    refused(call, "x", "NoneType", x=None)


def test_what_is_not_dense(call):
    refused(call, "x", "SparseTensor", "tf.sparse.to_dense(x)", x=tf.sparse.from_dense(X))
    refused(call, "x", "RaggedTensor", "x.to_tensor()", x=tf.ragged.constant([[0.1], [0.2, 0.3]]))


# Refused.


@pytest.mark.parametrize("rounding", ["up", "NEAREST", "", None, 0])
def test_unknown_rounding(call, rounding):
    refused(call, "rounding", repr(rounding), "nearest_even", rounding=rounding)


@pytest.mark.parametrize("format", ["float<5,2,ieee>", None, 8, lp.FloatFormat])
def test_no_format(call, format):
    refused(call, "format", repr(format), "FixedPointFormat", format=format, seed=(1, 2))


@pytest.mark.parametrize(
    "x, dtype",
    [
        (np.array([1, 2], np.int32), "int32"),
        (np.array([1, 2], np.uint8), "uint8"),
        (np.array([True]), "bool"),
        (np.array([1j], np.complex64), "complex64"),
        (["a", "b"], "string"),
    ],
)
def test_wrong_dtype_of_x(call, x, dtype):
    refused(call, "x", dtype, "float32", x=x, seed=(1, 2))


@pytest.mark.parametrize("seed", [1, (1,), (1, 2, 3), ((1, 2),)])
def test_seed_of_wrong_shape(call, seed):
    refused(call, "seed", str(np.shape(seed)).replace(",)", ""), "[2]", seed=seed)


@pytest.mark.parametrize("seed", [(1.0, 2.0), "ab", ("a", "b"), (True, False), (1j, 2j)])
def test_seed_of_wrong_dtype(call, seed):
    refused(call, "seed", "two integers", seed=seed)


@pytest.mark.parametrize("seed", [(2**63, 1), (2**64, 1), (-(2**63) - 1, 1)])
def test_seed_beyond_64_bits(call, seed):
    # Two integers, each modulo 2^32: either they count so, or the message says what is allowed.
    try:
        got = call(lambda: lp.quantize(X, lp.FP8_E5M2, "stochastic", seed))
    except WRONG as error:
        assert "seed" in str(error)
        assert "integers" in str(error)
    else:
        same = tuple(s % 2**32 for s in seed)
        assert_same_bits(got, lp.quantize(X, lp.FP8_E5M2, "stochastic", same))


@pytest.mark.parametrize("shape", [None, [None]])
def test_seed_whose_shape_shows_at_run_time_only(shape):
    function = tf.function(
        lambda seed: lp.quantize(X, lp.FP8_E5M2, "stochastic", seed),
        input_signature=[tf.TensorSpec(shape, tf.int32)],
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"seed must have shape \[2\].*\[3\]"):
        function(tf.constant([1, 2, 3]))


def test_missing_seed_in_tf_function():
    refused(lambda f: tf.function(f, autograph=False)(), "seed", "None", "tf.function")


@pytest.mark.parametrize("random_bits", [7, [1, 2], [[1, 2, 3]], [1, 2, 3, 4]])
def test_random_bits_of_wrong_shape(call, random_bits):
    refused(call, "random_bits", "[3]", random_bits=random_bits)


def test_random_bits_whose_shape_shows_at_run_time_only():
    function = tf.function(
        lambda x, r: lp.quantize(x, lp.FP8_E5M2, "stochastic", random_bits=r),
        input_signature=[tf.TensorSpec(None, tf.float32), tf.TensorSpec(None, tf.int32)],
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=r" random_bits must .*\[3\].*\[2\]"):
        function(X, [1, 2])


@pytest.mark.parametrize("bad", [-1, 2**24, 2**31 - 1, -(2**31)])
def test_random_bits_out_of_range(call, bad):
    refused(call, "random_bits[1]", str(bad), random_bits=[0, bad, 2**24 - 1])


def test_random_bits_beyond_int32(call):
    # NumPy's int64 must not wrap around into the range.
    refused(call, "random_bits", random_bits=np.array([0, 2**32 + 1, 0]))


@pytest.mark.parametrize(
    "random_bits",
    [
        [0.5, 0.5, 0.5],
        np.array([0.5, 0.5, 0.5]),
        tf.constant([0.5, 0.5, 0.5]),
        ["a", "b", "c"],
    ],
    ids=["list", "numpy", "tensor", "string"],
)
def test_random_bits_of_wrong_dtype(call, random_bits):
    refused(call, "random_bits", random_bits=random_bits)


@pytest.mark.parametrize(
    "spec, word",
    [
        ("float<9,2,ieee>", "exponent_bits = 9"),
        ("float<5,24,ieee>", "mantissa_bits = 24"),
        ("float<8,2,fn>", "exponent_bits = 8"),
        ("float<5,2,other>", "other"),
        ("fixed<20,10>", "integer_bits + fractional_bits = 30"),
        ("posit<8,1>", "posit"),
        ("", "format ''"),
    ],
)
def test_ops_own_check_of_the_format(call, spec, word):
    # A SavedModel made by hand, or by a later version, gets here without the Python classes.
    from tf_lowprec.ops._library import ops

    def quantize():
        return ops.lowprec_quantize(
            x=X, seed=[1, 2], random_bits=[], format=spec, rounding="nearest_even"
        )

    with pytest.raises(WRONG, match=re.escape(word)):
        call(quantize)


def test_ops_own_check_of_the_stream(call):
    from tf_lowprec.ops._library import ops

    arguments = {"x": X, "seed": [1, 2], "format": "float<5,2,ieee>", "stream": -1}
    quantize = functools.partial(ops.lowprec_quantize, random_bits=[], **arguments)
    for op in (quantize, functools.partial(ops.lowprec_round_error, **arguments)):
        with pytest.raises(WRONG, match="'stream' of"):
            call(op)


# Odd but right.


@formats
@pytest.mark.parametrize("rounding", list(lp.Rounding))
@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
def test_nothing_gives_nothing(call, format, rounding, shape):
    y = call(lambda: lp.quantize(tf.zeros(shape), format, rounding, seed=(1, 2)))
    assert y.shape == shape
    assert y.dtype == tf.float32


def test_nothing_takes_no_random_bits(call):
    y = call(
        lambda: lp.quantize(
            tf.zeros([0]), lp.FP8_E5M2, "stochastic", random_bits=np.zeros(0, np.int32)
        )
    )
    assert y.shape == (0,)


@formats
@pytest.mark.parametrize("rounding", list(lp.Rounding))
def test_scalar_is_rounded_as_an_array_of_one(call, format, rounding):
    y = call(lambda: lp.quantize(0.3, format, rounding, seed=(1, 2)))
    assert y.shape == ()
    array = lp.quantize([0.3], format, rounding, seed=(1, 2))
    assert_same_bits(y.numpy().reshape(1), array)


@pytest.mark.parametrize("rounding", list(lp.Rounding))
def test_infinity_in_fixed_point_saturates_and_nan_stays(call, rounding):
    format = lp.FixedPointFormat(2, 14)
    x = np.array([np.inf, -np.inf, np.nan], np.float32)
    y = call(lambda: lp.quantize(x, format, rounding, seed=(1, 2)))
    np.testing.assert_array_equal(y, [format.max, format.min, np.nan])


@formats
def test_rounding_is_given_as_string_or_member(call, format):
    for rounding in lp.Rounding:
        text, member = (
            call(lambda r=r: lp.quantize(X, format, r, seed=(1, 2)))
            for r in (rounding.value, rounding)
        )
        assert_same_bits(text, member)


def test_seed_is_not_needed_where_nothing_is_drawn(call):
    for rounding in ("nearest_even", "nearest_up", "toward_zero"):
        assert call(lambda r=rounding: lp.quantize(X, lp.FP8_E5M2, r)).shape == (3,)


def test_unknown_static_shape():
    function = tf.function(
        lambda x: lp.quantize(x, lp.FP8_E5M2, "stochastic", seed=(1, 2)),
        input_signature=[tf.TensorSpec(None, tf.float32)],
    )
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3) / 7
    assert_same_bits(function(x), lp.quantize(x, lp.FP8_E5M2, "stochastic", seed=(1, 2)))


def test_static_shape_is_kept():
    function = tf.function(
        lambda x: lp.quantize(x, lp.FP8_E5M2),
        input_signature=[tf.TensorSpec([None, 3], tf.float64)],
    )
    (output,) = function.get_concrete_function().outputs
    assert output.shape.as_list() == [None, 3]
    assert output.dtype == tf.float32


def test_input_is_not_overwritten():
    # The op may reuse its input's buffer only if nobody else holds it.
    x = tf.constant(X)
    lp.quantize(x, lp.FP4_E2M1FN)
    assert_same_bits(x, X)
