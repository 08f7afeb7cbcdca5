"""What lp.matmul with narrow accumulators refuses, eagerly and in tf.function; zero sizes."""

import re

import numpy as np
import pytest
import tensorflow as tf

import tf_lowprec as lp
from tf_lowprec.ops._library import ops

WRONG = (ValueError, tf.errors.InvalidArgumentError)
NEAREST = lp.Gemm(lp.FP8_E5M2, lp.FP8_E5M2, lp.Accumulator(lp.FloatFormat(6, 9), 2))
STOCHASTIC = lp.Gemm(accumulator=lp.Accumulator(lp.FloatFormat(6, 9), 2, "stochastic"))
A, B = np.ones((2, 3), np.float32), np.ones((3, 4), np.float32)
BATCH = np.ones((2, 2, 3), np.float32)
BITS = np.zeros((2, 4, 5), np.int32)  # 3 terms and 2 chunks


@pytest.fixture(params=["eager", "graph"])
def call(request):
    """Calls a function without arguments, or traces and runs it."""
    if request.param == "eager":
        return lambda f: f()
    return lambda f: tf.function(f, autograph=False)()


def refused(call, words, a=A, b=B, precision=NEAREST, **arguments):
    with pytest.raises(WRONG) as raised:
        call(lambda: lp.matmul(a, b, precision, **arguments))
    for word in words:
        assert word in str(raised.value), raised.value


@pytest.mark.parametrize(
    "a, b, words",
    [
        (A, A, ["do not match", "3", "2"]),
        (A[0], B, ["a has shape (3,)", "two axes"]),
        (A, B[0], ["b has shape (4,)", "two axes"]),
        (np.float32(1), B, ["a has shape ()"]),
        (BATCH, np.ones((2, 4, 3), np.float32), ["do not match"]),
        (np.zeros((2, 0), np.float32), B, ["do not match", "0", "3"]),
    ],
    ids=["k", "vector a", "vector b", "scalar", "k of batches", "zero k"],
)
def test_shapes_that_do_not_match(call, a, b, words):
    refused(call, words, a, b)


@pytest.mark.parametrize("transposes", [(True, False), (False, True)])
def test_transposed_shapes_that_do_not_match(call, transposes):
    words = ["do not match", f"transpose_a={transposes[0]}, transpose_b={transposes[1]}"]
    refused(call, words, transpose_a=transposes[0], transpose_b=transposes[1])


def test_batches_that_do_not_broadcast(call):
    refused(call, ["2", "3"], BATCH, np.ones((3, 3, 4), np.float32))


@pytest.mark.parametrize(
    "a, b, message",
    [
        (A, A, r"\[2,3\] and b of shape \[2,3\] do not match"),
        (BATCH, np.ones((3, 3, 4), np.float32), r"\[2,2,3\] and b of shape \[3,3,4\] do not match"),
        (A[0], B, r"two axes, got shapes \[3\] and \[3,4\]"),
    ],
    ids=["k", "batch", "rank"],
)
def test_shapes_that_show_at_run_time_only(a, b, message):
    product = tf.function(
        lambda a, b: lp.matmul(a, b, NEAREST), input_signature=[tf.TensorSpec(None)] * 2
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        product(a, b)


@pytest.mark.parametrize("dtype", ["float64", "int32", "int64", "uint8", "bool", "complex64"])
@pytest.mark.parametrize("argument", ["a", "b"])
def test_operands_of_other_types(call, argument, dtype):
    x = {"a": A, "b": B}[argument]
    refused(call, [f"{argument} has dtype {dtype}", "float32"], **{argument: x.astype(dtype)})


def test_float16_operands_widen_exactly(call):
    y = call(lambda: lp.matmul(tf.cast(A, tf.float16), tf.cast(B, tf.bfloat16), NEAREST))
    np.testing.assert_array_equal(y, np.full((2, 4), 3))
    assert y.dtype == tf.float32


@pytest.mark.parametrize("precision", [None, "fp8", NEAREST.accumulator, lp.FP8_E5M2], ids=str)
def test_no_precision(call, precision):
    refused(call, ["precision = ", "Gemm"], precision=precision)


def test_stochastic_accumulator_in_a_graph_needs_a_seed():
    for policy in (
        STOCHASTIC,
        lp.Policy(backward=STOCHASTIC),
        lp.Policy.fp8(9, accumulator_rounding="stochastic"),
    ):
        refused(lambda f: tf.function(f)(), ["seed", "tf.function"], precision=policy)


def test_stochastic_accumulator_draws_a_seed_in_eager_mode():
    a, b = np.full((8, 8), 0.7, np.float32), np.full((8, 8), 1.3, np.float32)

    def product():
        return lp.matmul(a, b, lp.Gemm(accumulator=lp.Accumulator(lp.FP8_E5M2, None, "stochastic")))

    tf.random.set_seed(1)
    first, second = product(), product()
    tf.random.set_seed(1)
    np.testing.assert_array_equal(product(), first)
    assert np.any(first != second)


@pytest.mark.parametrize("seed", [(1, 2, 3), 7, (1.5, 2.0), [[1, 2]], (1,)], ids=str)
def test_seed_of_wrong_shape_or_type(call, seed):
    refused(call, ["seed", "two integers"], precision=STOCHASTIC, seed=seed)


# random_bits


@pytest.mark.parametrize(
    "shape", [(), (5,), (2, 4), (2, 4, 3), (2, 4, 6), (4, 2, 5), (1, 4, 5), (1, 2, 4, 5)], ids=str
)
def test_random_bits_of_wrong_shape(call, shape):
    bits = np.zeros(shape, np.int32)
    words = ["random_bits must have shape", "[2,4,5]", "got"]
    refused(call, words, precision=STOCHASTIC, seed=(1, 2), random_bits=bits)


@pytest.mark.parametrize("shape", [(2, 2, 4, 4), (4, 4, 5), (4, 1, 4, 5), (1, 4, 4, 5)], ids=str)
def test_random_bits_of_wrong_shape_for_batches(call, shape):
    bits = np.zeros(shape, np.int32)
    words = ["random_bits must have shape"]
    refused(call, words, BATCH, precision=STOCHASTIC, seed=(1, 2), random_bits=bits)


@pytest.mark.parametrize("bad", [-1, 2**16, 2**24, 2**31 - 1, -(2**31)])
def test_random_bits_out_of_range(call, bad):
    bits = BITS.copy()
    bits[1, 2, 3] = bad
    words = ["random_bits[33]", str(bad), "2^16-1"]
    refused(call, words, precision=STOCHASTIC, seed=(1, 2), random_bits=bits)


@pytest.mark.parametrize("dtype", ["int64", "uint64", "uint32", "uint16"])
def test_random_bits_of_other_integers(call, dtype):
    bits, a = np.arange(40, dtype=np.int32).reshape(2, 4, 5) * 1638, A / 7

    def product(bits):
        return call(lambda: lp.matmul(a, B, STOCHASTIC, seed=(1, 2), random_bits=bits))

    np.testing.assert_array_equal(product(bits.astype(dtype)), product(bits))


@pytest.mark.parametrize("bad", [-1, 2**16, 2**32, 2**62])
def test_wider_random_bits_out_of_range(call, bad):
    bits = BITS.astype(np.int64)
    bits[1, 2, 3] = bad
    words = [f"random_bits[33] = {bad}", "2^16-1"]
    refused(call, words, precision=STOCHASTIC, seed=(1, 2), random_bits=bits)


def test_wider_random_bits_out_of_range_when_run():
    product = tf.function(lambda r: lp.matmul(A, B, STOCHASTIC, seed=(1, 2), random_bits=r))
    product(tf.constant(BITS, tf.int64))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"random_bits\[0\]"):
        product(tf.constant(BITS, tf.int64) + 2**32)


@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_random_bits_of_wrong_type(call, dtype):
    words = [f"random_bits has dtype {dtype}", "int32"]
    refused(call, words, precision=STOCHASTIC, seed=(1, 2), random_bits=BITS.astype(dtype))


@pytest.mark.parametrize(
    "precision",
    [
        NEAREST,
        lp.Gemm(),
        lp.Gemm(lp.FP8_E5M2),
        lp.Policy(backward=STOCHASTIC, gradient=STOCHASTIC),
        lp.Gemm(lp.FP8_E5M2, lp.FP8_E5M2, NEAREST.accumulator, rounding="stochastic"),
    ],
    ids=["nearest", "native", "rounded native", "backward", "stochastic operands"],
)
def test_random_bits_without_a_stochastic_accumulator(call, precision):
    words = ["random_bits", "stochastic accumulator"]
    refused(call, words, precision=precision, seed=(1, 2), random_bits=BITS)


# With random_bits, a seed is asked for only where one is drawn from.


def test_random_bits_need_no_seed_in_a_graph():
    product = tf.function(lambda a: lp.matmul(a, B, STOCHASTIC, random_bits=BITS))
    want = lp.matmul(A, B, STOCHASTIC, seed=(1, 2), random_bits=BITS)
    np.testing.assert_array_equal(product(A), want)


@pytest.mark.parametrize("operand", [lp.FP8_E5M2, None])
def test_random_bits_with_a_seed_that_operands_draw_from(operand):
    gemm = lp.Gemm(operand, accumulator=STOCHASTIC.accumulator, rounding="stochastic")
    product = tf.function(lambda: lp.matmul(A, B, gemm, random_bits=BITS))
    if operand is None:
        assert product().shape == (2, 4)
    else:
        with pytest.raises(ValueError, match="seed = None.*tf.function"):
            product()


def gradient_of_random_bits(policy, seed):
    @tf.function
    def passes(a):
        with tf.GradientTape() as tape:
            tape.watch(a)
            y = lp.matmul(a, B, policy, seed=seed, random_bits=BITS)
        return tape.gradient(y, a)

    return passes(tf.constant(A))


def test_random_bits_without_a_seed_are_refused_where_gradients_draw():
    with pytest.raises(ValueError, match="seed = None: the BWD and GRAD products"):
        gradient_of_random_bits(STOCHASTIC, None)
    assert gradient_of_random_bits(STOCHASTIC, (1, 2)).shape == (2, 3)
    native = lp.Gemm()
    assert gradient_of_random_bits(lp.Policy(STOCHASTIC, native, native), None).shape == (2, 3)


# The op's own checks: a SavedModel made by hand, or by a later version, gets here directly.


@pytest.mark.parametrize(
    "attributes, message",
    [
        ({"accumulator": "float<9,2,ieee>"}, "exponent_bits = 9 must be in 2..8"),
        ({"accumulator": "float<5,24,ieee>"}, "mantissa_bits = 24 must be in 0..23"),
        ({"accumulator": "float<8,2,fn>"}, "exponent_bits = 8"),
        ({"accumulator": "float<5,2,other>"}, "unknown specials 'other'"),
        ({"accumulator": "fixed<2,14>"}, "accumulator must be a float format, got fixed point"),
        ({"accumulator": "posit<8,1>"}, "posit<8,1>"),
        ({"accumulator": ""}, "format ''"),
        ({"rounding": "up"}, "'rounding' of"),
        ({"chunk": -1}, "'chunk' of"),
        ({"a_formats": ["float<5,2,ieee>"]}, "a_formats, a_roundings and a_streams"),
        ({"b_streams": [1]}, "b_formats, b_roundings and b_streams"),
        (
            {"a_formats": ["float<5,2,ieee>"], "a_roundings": ["stochastic"], "a_streams": [-1]},
            "a_streams has -1",
        ),
        (
            {"b_formats": ["float<5,2,ieee>"], "b_roundings": ["stochastic"], "b_streams": [-7]},
            "b_streams has -7",
        ),
        ({"stream": -1}, "'stream' of"),
        ({"output_stream": -1}, "'output_stream' of"),
        ({"a_formats": ["e5m2"], "a_roundings": ["stochastic"], "a_streams": [1]}, "a_formats"),
        (
            {"b_formats": ["fixed<2,6>"], "b_roundings": ["up"], "b_streams": [1]},
            "b_roundings: unknown rounding 'up'",
        ),
        ({"output_format": "e5m2"}, "format 'e5m2'"),
        ({"seed": [1, 2, 3]}, "seed"),
        ({"random_bits": [BITS, BITS]}, "random_bits takes one tensor, got 2"),
        ({"random_bits": [BITS[:1]]}, "random_bits must have shape"),
    ],
)
def test_ops_own_checks(call, attributes, message):
    arguments = {"a": A, "b": B, "seed": [1, 2], "random_bits": [], "chunk": 2}
    arguments["accumulator"] = "float<6,9,ieee>"
    with pytest.raises(WRONG, match=re.escape(message)):
        call(lambda: ops.lowprec_mat_mul(**{**arguments, **attributes}))


# Odd but right.


@pytest.mark.parametrize("gemm", [NEAREST, STOCHASTIC], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("batch", [(), (0,), (2,), (2, 0)], ids=str)
@pytest.mark.parametrize("extents", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)], ids=str)
@pytest.mark.parametrize("transposes", [(False, False), (True, True)], ids=str)
def test_zero_sizes_give_nothing_or_zeros(call, transposes, extents, batch, gemm):
    m, k, n = extents
    a = np.ones((*batch, k, m) if transposes[0] else (*batch, m, k), np.float32)
    b = np.ones((n, k) if transposes[1] else (k, n), np.float32)
    y = call(
        lambda: lp.matmul(
            a, b, gemm, transpose_a=transposes[0], transpose_b=transposes[1], seed=(1, 2)
        )
    )
    assert y.dtype == tf.float32
    np.testing.assert_array_equal(y, np.zeros((*batch, m, n)))
    assert not np.signbit(y).any()


def test_nothing_takes_no_random_bits(call):
    bits = np.zeros((0, 4, 5), np.int32)
    y = call(lambda: lp.matmul(A[:0], B, STOCHASTIC, seed=(1, 2), random_bits=bits))
    assert y.shape == (0, 4)


@pytest.mark.parametrize("chunk", [2**31, 2**63 - 1])
def test_chunk_beyond_int32(call, chunk):
    gemm = lp.Gemm(accumulator=lp.Accumulator(lp.FloatFormat(6, 9), chunk))
    np.testing.assert_array_equal(call(lambda: lp.matmul(A, B, gemm)), np.full((2, 4), 3))


def test_rows_of_all_batches_beyond_int32(call):
    a, b = (lambda: tf.zeros((3, 2**30, 0))), tf.zeros((0, 0))
    assert call(lambda: lp.matmul(a(), b, NEAREST)).shape == (3, 2**30, 0)


def test_random_bits_of_batches_without_rows(call):
    a, bits = BATCH[:, :, :0], np.zeros((2, 2, 0, 0), np.int32)
    b = np.zeros((0, 0), np.float32)
    y = call(lambda: lp.matmul(a, b, STOCHASTIC, seed=(1, 2), random_bits=bits))
    assert y.shape == (2, 2, 0)
