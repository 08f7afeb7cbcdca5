"""The integer product equals TensorFlow's float64 product, and says what it cannot take."""

import numpy as np
import pytest
import tensorflow as tf
from ops.test_matmul import as_float, on_grid

import tf_lowprec as lp
from tf_lowprec.ops._library import ops
from tf_lowprec.ops.wide_matmul import wide_matmul

Q16 = lp.FixedPointFormat(2, 14)
Q12 = lp.FixedPointFormat(4, 8)


@pytest.mark.parametrize("batch", [(), (3,), (2, 0)])
@pytest.mark.parametrize("transpose", [(False, False), (True, False), (False, True), (True, True)])
def test_integers_and_float64_agree(run, batch, transpose):
    rng = np.random.default_rng(0)
    a, b = on_grid(rng, (*batch, 9, 301), Q16), on_grid(rng, (*batch, 301, 40), Q12)
    if transpose[0]:
        a = np.swapaxes(a, -1, -2)
    if transpose[1]:
        b = np.swapaxes(b, -1, -2)
    a, b = tf.constant(as_float(a, Q16)), tf.constant(as_float(b, Q12))
    got = run(lambda a, b: wide_matmul(a, b, Q16, Q12, *transpose))(a, b)
    want = tf.matmul(tf.cast(a, tf.float64), tf.cast(b, tf.float64), *transpose)
    np.testing.assert_array_equal(got, want)


def test_integer_kernel_is_the_one_that_runs():
    graph = tf.function(lambda a: wide_matmul(a, a, Q16, Q16)).get_concrete_function(
        tf.TensorSpec((4, 4))
    )
    assert "Lowprec>WideMatMul" in {op.type for op in graph.graph.get_operations()}


@pytest.mark.parametrize("formats", [(lp.FixedPointFormat(3, 14), Q16), (lp.FP8_E4M3FN,) * 2])
def test_wider_formats_go_through_float64(formats):
    rng = np.random.default_rng(0)
    a, b = (lp.quantize(rng.normal(size=(5, 5)).astype(np.float32), f) for f in formats)
    want = tf.matmul(tf.cast(a, tf.float64), tf.cast(b, tf.float64))
    np.testing.assert_array_equal(wide_matmul(a, b, *formats), want)


def wrong(a, b, **options):
    options = {"a_format": Q16.spec, "b_format": Q16.spec, **options}
    return lambda: ops.lowprec_wide_mat_mul(a=tf.zeros(a), b=tf.zeros(b), **options)


@pytest.mark.parametrize(
    "call, message",
    [
        (wrong((2, 3), (4, 2)), "do not match"),
        (wrong((2, 2, 3), (3, 3, 2)), "do not match"),
        (wrong((3,), (3, 2)), "matrices"),
        (wrong((2, 3), (3, 2), a_format="fixed<3,14>"), "a_format"),
        (wrong((2, 3), (3, 2), b_format="float<5,2,ieee>"), "b_format"),
        (wrong((2, 3), (3, 2), b_format="fixed"), "'fixed'"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call()


# lp.matmul with random_bits: those of the output's rounding.

STOCHASTIC = lp.Gemm(Q16, Q12, lp.Accumulator.wide(), lp.FixedPointFormat(10, 6), "stochastic")


@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
@pytest.mark.parametrize("shared", [False, True])
def test_random_bits_round_the_output(run, batch, shared):
    rng = np.random.default_rng(1)
    a = as_float(on_grid(rng, (*batch, 5, 70), Q16), Q16)
    b = as_float(on_grid(rng, (70, 6) if shared else (*batch, 70, 6), Q12), Q12)
    r = rng.integers(0, 2**24, (*batch, 5, 6)).astype(np.int32)
    got = run(lambda a, b: lp.matmul(a, b, STOCHASTIC, seed=(1, 2), random_bits=r))(a, b)
    exact = np.matmul(a.astype(np.float64), b.astype(np.float64))
    want = lp.quantize(exact, STOCHASTIC.output, "stochastic", random_bits=r)
    np.testing.assert_array_equal(got, want)
    assert not np.array_equal(got, lp.quantize(exact, STOCHASTIC.output))


def test_random_bits_leave_the_gradients():
    a, b = tf.fill((2, 3), 0.5), tf.fill((3, 4), 0.25)
    gradients = []
    for random in ({}, {"random_bits": np.zeros((2, 4), np.int32)}):
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            y = lp.matmul(a, b, STOCHASTIC, seed=(1, 2), **random)
        gradients.append(tape.gradient(y, [a, b]))
    for without, with_bits in zip(*gradients):
        np.testing.assert_array_equal(without, with_bits)


@pytest.mark.parametrize(
    "precision",
    [
        lp.Gemm(Q16, Q12, lp.Accumulator.wide(), None, "stochastic"),
        lp.Gemm(Q16, Q12, lp.Accumulator.wide(), Q16),
    ],
    ids=["no output", "nearest"],
)
def test_random_bits_without_a_stochastic_output(precision):
    with pytest.raises(ValueError, match="whose output is rounded stochastically"):
        bits = np.zeros((2, 4), np.int32)
        lp.matmul(tf.zeros((2, 3)), tf.zeros((3, 4)), precision, seed=(1, 2), random_bits=bits)


@pytest.mark.parametrize("x_shape", [(2, 3), (5, 2, 3)])
@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 3), (4,), (10, 4), (1, 10, 4), (5, 1, 2, 4)])
def test_random_bits_of_another_shape_than_the_output(x_shape, shape):
    with pytest.raises(ValueError, match="random_bits must have the product's shape"):
        bits = np.zeros(shape, np.int32)
        lp.matmul(tf.zeros(x_shape), tf.zeros((3, 4)), STOCHASTIC, seed=(1, 2), random_bits=bits)
