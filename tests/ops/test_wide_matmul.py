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
