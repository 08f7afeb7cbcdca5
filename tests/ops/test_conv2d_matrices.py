"""Convolutions that are done as products of matrices: blocks and aligned accumulators."""

import aligned_oracle
import convolution_oracle
import numpy as np
import pytest
import tensorflow as tf
from cases import assert_same_bits

import tf_lowprec as lp

CASES = {
    "same": ((7, 6), (3, 3), {}),
    "strides": ((8, 9), (3, 2), {"strides": (2, 3)}),
    "a stride beyond the filter": ((7, 7), (1, 1), {"strides": 2}),
    "dilations": ((9, 8), (3, 2), {"dilations": (2, 3), "padding": "VALID"}),
    "explicit": ((6, 5), (3, 3), {"padding": ((2, 0), (1, 3))}),
    "explicit, strides": ((6, 8), (2, 3), {"padding": ((0, 3), (4, 1)), "strides": 2}),
    "groups": ((5, 6), (3, 3), {"groups": 2}),
    "depthwise": ((5, 5), (3, 3), {"groups": 4, "strides": 2}),
}


def operands(case, rng, scale=1.0):
    image, kernel, arguments = CASES[case]
    groups = arguments.get("groups", 1)
    x = rng.integers(-2, 3, (2, *image, 4)).astype(np.float32) * np.float32(scale)
    w = rng.integers(-2, 3, (*kernel, 4 // groups, 8)).astype(np.float32)
    return x, w, arguments


def passes(function, x, w):
    x, w = tf.constant(x), tf.constant(w)
    with tf.GradientTape() as tape:
        tape.watch((x, w))
        y = function(x, w)
    rng = np.random.default_rng(9)
    dy = tf.constant(rng.integers(-2, 3, y.shape).astype(np.float32))
    return y, *tape.gradient(y, (x, w), dy)


@pytest.mark.parametrize("case", CASES)
def test_all_passes_where_everything_is_exact(case):
    x, w, arguments = operands(case, np.random.default_rng(1))
    policies = (lp.Policy.float32(), lp.Policy.mx(), lp.Policy.hopper(None))
    expected, *found = (
        passes(lambda x, w, p=p: lp.conv2d(x, w, p, **arguments), x, w) for p in policies
    )
    for result in found:
        for got, exact in zip(result, expected):
            np.testing.assert_array_equal(got, exact)


@pytest.mark.parametrize("strides", [1, 2])
def test_transposed(strides):
    rng = np.random.default_rng(2)
    x = rng.integers(-2, 3, (2, 4, 3, 8)).astype(np.float32)
    w = rng.integers(-2, 3, (3, 3, 4, 8)).astype(np.float32)
    policies, size = (
        (lp.Policy.float32(), lp.Policy.mx(), lp.Policy.hopper()),
        [4 * strides, 3 * strides],
    )
    expected, *found = (
        passes(lambda x, w, p=p: lp.conv2d_transpose(x, w, p, size, strides=strides), x, w)
        for p in policies
    )
    for result in found:
        for got, exact in zip(result, expected):
            np.testing.assert_array_equal(got, exact)


def test_k_runs_over_the_whole_window():
    """(kh, kw, cin), padding as zeros: groups of 5 terms fall where the oracle has them."""
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((1, 4, 4, 3)) * 8).astype(np.float32)
    w = rng.standard_normal((3, 3, 3, 2)).astype(np.float32)
    formats = (lp.FP8_E4M3FN, lp.FP8_E4M3FN)
    accumulator = lp.Accumulator.aligned(5, 4, lp.FloatFormat(8, 5))
    y = lp.conv2d(x, w, lp.Gemm(*formats, accumulator)).numpy()
    x, w = (lp.quantize(v, lp.FP8_E4M3FN).numpy() for v in (x, w))
    _, index = convolution_oracle.taps((4, 4), (3, 3))
    windows, _ = convolution_oracle.windows(x, index)
    expected = aligned_oracle.product(windows, w.reshape(27, 2), accumulator, formats)
    assert_same_bits(y, expected.reshape(y.shape))
