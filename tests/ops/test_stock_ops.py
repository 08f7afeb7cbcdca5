"""The library's ops out of TensorFlow's own, in graphs as grappler has them: the same bits."""

import numpy as np
import pytest
import tensorflow as tf

import tf_lowprec as lp
from tf_lowprec.ops._library import ops
from tf_lowprec.ops.stock import ops as stock_ops

F = lp.FloatFormat
ROUNDINGS = ("nearest_even", "nearest_up", "toward_zero")
EDGES = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.5, -2.5, 0.5, -0.5, 3.4e38, 0.49999997, -0.49999997]
FORMATS = [
    *(lp.FP8_E5M2, lp.FP8_E4M3FN, lp.FP6_E3M2FN, lp.FP4_E2M1FN, lp.FP16, lp.BF16, lp.FP32),
    *(lp.DLFLOAT16, F(6, 9), F(5, 0), F(5, 2, subnormals=False), F(4, 3, saturate=True)),
    *(F(7, 23), F(8, 5, subnormals=False), F(2, 0, "fn")),
    *(lp.FixedPointFormat(2, 14), lp.FixedPointFormat(1, 0), lp.FixedPointFormat(24, 0)),
]


def both(function, *arguments):
    """What `function` gives with the library and with stock ops, in one graph."""

    def call(*tensors):
        with ops.stand_ins(stock_ops):
            stock = function(*tensors)
        return function(*tensors), stock

    # Of unknown batch size, and no constants to fold.
    specs = [tf.TensorSpec([None, *np.shape(x)[1:]], x.dtype) for x in arguments[:1]]
    specs += [tf.TensorSpec(np.shape(x), x.dtype) for x in arguments[1:]]
    call = tf.function(call, input_signature=specs, autograph=False)
    want, got = call(*map(tf.constant, arguments))
    return tf.nest.flatten(want), tf.nest.flatten(got)


def check(want, got):
    """Equal bits, -0 included; one NaN is like another."""
    want, got = (np.where(np.isnan(v), np.float32(np.nan), v) for v in (want, got))
    np.testing.assert_array_equal(want.view(np.uint32), got.view(np.uint32))


def values(format, dtype):
    """Edges, powers of two, random bits, values of the format and ties, each with neighbours."""
    rng = np.random.default_rng(0)
    powers = np.ldexp(1 + np.arange(8) / 8, np.arange(-140, 128)[:, None]).ravel()
    random = rng.integers(0, 2**32, 2000, np.uint32).view(np.float32)
    on_grid = lp.quantize(rng.standard_normal(500) * 4, format).numpy().astype(np.float64)
    ties = (on_grid[1:] + on_grid[:-1]) / 2
    with np.errstate(all="ignore"):
        x = np.concatenate([EDGES, powers, -powers, random, on_grid, ties]).astype(dtype)
        return np.concatenate([x, np.nextafter(x, dtype(9)), np.nextafter(x, dtype(-9))])


@pytest.mark.parametrize(
    "format, dtype",
    [
        *((format, np.float32) for format in FORMATS),
        *((format, np.float64) for format in FORMATS[4:10] + FORMATS[-3:-2]),
    ],
    ids=str,
)
def test_quantize(format, dtype):
    x = values(format, dtype)
    if dtype == np.float64 and isinstance(format, F) and format.exponent_bits == 8:
        # TensorFlow flushes float32's subnormals when it casts to float32.
        x = x[~(np.abs(x) < 2.0**-125)]
    want, got = both(lambda x: [lp.quantize(x, format, r) for r in ROUNDINGS], x)
    for w, g in zip(want, got, strict=True):
        check(w, g)


def data(shape, spread, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-spread, spread + 1, shape)
    return x.astype(np.float32)


# Accumulators whose sums float32 holds, float64, and neither.
@pytest.mark.parametrize(
    "accumulator",
    [F(6, 9), F(6, 3), F(6, 12), F(8, 23), lp.DLFLOAT16],
    ids=lambda f: f.spec,
)
@pytest.mark.parametrize("operand", [lp.FP8_E5M2, None], ids=str)
def test_matmul(accumulator, operand):
    gemms = [
        lp.Gemm(operand, operand, lp.Accumulator(accumulator, chunk, rounding), output)
        for rounding, chunk, output in (
            ("nearest_even", None, lp.FP16),
            ("nearest_up", 4, None),
            ("toward_zero", 4, None),
        )
    ]
    a, b = data((9, 13), 14), data((13, 40), 12)
    want, got = both(lambda a, b: [lp.matmul(a, b, gemm) for gemm in gemms], a, b)
    for w, g in zip(want, got, strict=True):
        check(w, g)


def test_sums_that_float64_rounds_to_a_tie():
    # 1 + 2^-4 is a tie of 3 bits; what decides lies 2^-60 below.
    a = np.array([[2.0**-30, 1 + 2**-4], [-(2.0**-30), 1 + 2**-4]], np.float32)
    b = np.array([[2.0**-30], [1]], np.float32)
    gemm = lp.Gemm(accumulator=lp.Accumulator(F(7, 3)))
    want, got = both(lambda a, b: lp.matmul(a, b, gemm), a, b)
    check(want[0], got[0])
    np.testing.assert_array_equal(want[0], [[1.125], [1.0]])


def test_matmul_broadcasts_batches():
    gemm = lp.Gemm(lp.FP8_E5M2, lp.FP8_E5M2, lp.Accumulator(F(6, 5), 4))
    a, b = data((2, 1, 3, 9), 5), data((4, 5, 9), 5)
    want, got = both(
        lambda a, b: (
            lp.matmul(a, b, gemm, transpose_b=True) + lp.matmul(a, b[0], gemm, False, True)
        ),
        a,
        b,
    )
    for w, g in zip(want, got, strict=True):
        check(w, g)


GEMM = lp.Gemm(lp.FP8_E5M2, lp.FP8_E5M2, lp.Accumulator(F(5, 5), 7))
WINDOWS = [
    ("SAME", 1, 1),
    ("SAME", (3, 2), (1, 2)),
    ("VALID", (1, 2), (2, 1)),
    (((1, 0), (2, 3)), (2, 1), 1),
]


@pytest.mark.parametrize("padding, strides, dilations", WINDOWS, ids=str)
def test_conv2d(padding, strides, dilations):
    for groups in (1, 2):
        x, filters = data((2, 9, 8, 4), 10), data((3, 2, 4 // groups, 6), 10)
        want, got = both(
            lambda x, f, groups=groups: lp.conv2d(x, f, GEMM, strides, padding, dilations, groups),
            x,
            filters,
        )
        check(want[0], got[0])


@pytest.mark.parametrize("padding, strides, dilations", WINDOWS, ids=str)
def test_conv2d_transpose(padding, strides, dilations):
    like = lp.conv2d(
        np.zeros((2, 9, 8, 3), np.float32),
        np.zeros((3, 2, 3, 4), np.float32),
        GEMM,
        strides,
        padding,
        dilations,
    )
    x, filters = data(like.shape, 10), data((3, 2, 3, 4), 10)
    want, got = both(
        lambda x, f: lp.conv2d_transpose(x, f, GEMM, (9, 8), strides, padding, dilations),
        x,
        filters,
    )
    check(want[0], got[0])


def test_wide_sums():
    policy = lp.Policy.fixed_point(lp.FixedPointFormat(2, 14), "nearest_up")
    a, b = data((3, 50), 1), data((50, 4), 1)
    want, got = both(lambda a, b: lp.matmul(a, b, policy), a, b)
    check(want[0], got[0])


def test_stand_ins_end_with_their_context():
    library = ops.lowprec_quantize
    with pytest.raises(RuntimeError), ops.stand_ins(stock_ops):
        assert ops.lowprec_quantize is stock_ops.lowprec_quantize
        raise RuntimeError
    assert ops.lowprec_quantize is library


def test_what_has_no_stock_form_says_so():
    with pytest.raises(ValueError, match="lowprec_to_bits has no form"), ops.stand_ins(stock_ops):
        lp.to_bits(tf.constant([1.0]), lp.FP8_E5M2)
