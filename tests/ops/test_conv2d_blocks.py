"""lp.conv2d with narrow accumulators: sums cut into blocks, threads and instruction sets give the
bits of lp.matmul over explicit patches."""

import convolution_oracle
import numpy as np
import pytest
import tensorflow as tf
from cases import assert_same_bits
from determinism import digest
from ops.test_conv2d_narrow import PASSES, SEED, convolve, policy_of

import tf_lowprec as lp
from tf_lowprec.ops.quantize import round_to
from tf_lowprec.ops.streams import Stream

SCRIPT = "conv2d_digest.py"


def by_matmul(x, w, dy, policy, seed=SEED, **options):
    """(y, dx, dfilters) of one group by lp.matmul. Padding is added, as zeros: only for finite
    operands and sums that do not underflow."""
    kh, kw, cin, cout = w.shape
    _, index = convolution_oracle.taps(x.shape[1:3], (kh, kw), **options)
    under = convolution_oracle.inverse(index, x.shape[1] * x.shape[2])
    forward, backward, gradient = policy.forward, policy.backward, policy.gradient

    def rounded(v, gemm, format, stream):
        return round_to(
            tf.constant(v), format, gemm.rounding, tf.constant(seed, tf.int64), stream
        ).numpy()

    def bare(gemm):
        return lp.Gemm(accumulator=gemm.accumulator)

    x = rounded(x, forward, forward.lhs, Stream.FORWARD_LHS)
    w = rounded(w, forward, forward.rhs, Stream.FORWARD_RHS)
    patches = convolution_oracle.windows(x, index)[0]
    y = lp.matmul(patches, w.reshape(-1, cout), bare(forward), seed=seed)

    # The gradients of products whose forward pass does not matter.
    errors = rounded(dy, backward, backward.lhs, Stream.BACKWARD_LHS)
    filters = rounded(w, backward, backward.rhs, Stream.BACKWARD_RHS)
    rows = tf.zeros((x.size // cin, cin))
    with tf.GradientTape() as tape:
        tape.watch(rows)
        product = lp.matmul(
            rows,
            filters.transpose(2, 0, 1, 3).reshape(cin, -1),
            lp.Policy(backward=bare(backward)),
            seed=seed,
        )
    dx = tape.gradient(product, rows, convolution_oracle.windows(errors, under)[0])

    patches = convolution_oracle.windows(
        rounded(x, gradient, gradient.lhs, Stream.GRADIENT_LHS), index
    )[0]
    errors = rounded(dy, gradient, gradient.rhs, Stream.GRADIENT_RHS)
    columns = tf.zeros((w.size // cout, cout))
    with tf.GradientTape() as tape:
        tape.watch(columns)
        product = lp.matmul(patches, columns, lp.Policy(gradient=bare(gradient)), seed=seed)
    dw = tape.gradient(product, columns, errors.reshape(-1, cout))
    return y.numpy().reshape(dy.shape), dx.numpy().reshape(x.shape), dw.numpy().reshape(w.shape)


# What makes the kernels (cc/kernels/conv2d_plan.cc) cut the work: operands of more than 12 MiB, and
# in GRAD, where both are in parts that stay in a cache, more than some thousand pixels.
SHAPES = {
    "20000 pixels": ((2, 100, 101, 16), (3, 3, 16, 4), {}),
    "20000 pixels, strides": ((5, 64, 128, 16), (4, 3, 16, 3), {"strides": (1, 2)}),
    "many rows": ((3, 107, 109, 8), (3, 3, 8, 5), {"padding": ((2, 0), (1, 3))}),
    "many rows, strides": (
        (3, 160, 158, 9),
        (3, 5, 9, 8),
        {"strides": (2, 1), "dilations": (1, 2)},
    ),
    "many channels": ((1, 16, 15, 512), (3, 3, 512, 260), {}),
    "many channels, strides": (
        (1, 15, 11, 300),
        (3, 3, 300, 530),
        {"strides": 2, "padding": ((0, 2), (1, 0))},
    ),
    # GRAD: k in two blocks, three images and one, and rows in several.
    "very many filters": ((4, 15, 16, 10), (3, 3, 10, 4200), {}),
}
# operand, accumulator, rounding
PATHS = {
    "kNearest": (lp.FP8_E5M2, lp.FloatFormat(6, 9), "nearest_even"),
    "kNearestDouble": (lp.FP8_E5M2, lp.FloatFormat(6, 17), "nearest_even"),
    "float_for_few": (lp.FP8_E5M2, lp.FloatFormat(6, 14), "nearest_even"),
    "kNearestOdd": (None, lp.FloatFormat(6, 7), "nearest_even"),
    "kFma": (None, lp.FloatFormat(8, 23), "nearest_even"),
    "kTruncate": (lp.FP8_E4M3FN, lp.FloatFormat(6, 9), "toward_zero"),
    "kStochastic": (lp.FP8_E5M2, lp.FloatFormat(6, 7), "stochastic"),
    "kStochastic few bits": (lp.FP8_E5M2, lp.FloatFormat(7, 11), "stochastic"),
}


def operands(x_shape, w_shape, options, seed=0):
    rng = np.random.default_rng(seed)
    out, _ = convolution_oracle.taps(x_shape[1:3], w_shape[:2], **options)
    y_shape = (x_shape[0], *out, w_shape[3])
    # No value is too small for a sum of the formats above.
    return [
        (rng.choice([-1, 1], s) * rng.uniform(0.25, 2, s)).astype(np.float32)
        for s in (x_shape, w_shape, y_shape)
    ]


def compare(arrays, policy, options):
    got = convolve(*(tf.constant(v) for v in arrays), policy, **options)
    for name, g, want in zip(PASSES, got, by_matmul(*arrays, policy, **options)):
        try:
            assert_same_bits(g, want)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_blocks(shape, path):
    x_shape, w_shape, options = shape
    operand, format, rounding = path
    # Chunks within a block, and chunks that end in the middle of the next one or later.
    chunks = (None, 64, 3000) if x_shape[1] > 20 else (64, 999, None)
    gemms = [lp.Gemm(operand, operand, lp.Accumulator(format, chunk, rounding)) for chunk in chunks]
    compare(operands(*shape), policy_of(*gemms), options)


@pytest.mark.parametrize("chunk", [None, 1, 64, 7281, 7282, 30000])
@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_chunks_of_a_long_filter_gradient(chunk, rounding):
    gemm = lp.Gemm(lp.FP8_E5M2, lp.FP8_E5M2, lp.Accumulator(lp.FloatFormat(6, 5), chunk, rounding))
    shape = ((2, 100, 101, 16), (3, 3, 16, 2), {})
    compare(operands(*shape, seed=1), policy_of(gemm), shape[2])


@pytest.mark.parametrize("shape", ["20000 pixels", "many rows, strides", "many channels, strides"])
def test_operands_rounded_at_random(shape):
    # A block rounds its own pixels only; numbers go by the element's index in the whole tensor.
    gemms = [
        lp.Gemm(*formats, lp.Accumulator(lp.FloatFormat(6, 9), 64), rounding="stochastic")
        for formats in (
            (lp.FP8_E4M3FN, lp.FP8_E5M2),
            (lp.FP8_E5M2, lp.FP4_E2M1FN),
            (lp.FP8_E5M2, lp.FP8_E4M3FN),
        )
    ]
    compare(operands(*SHAPES[shape], seed=2), policy_of(*gemms), SHAPES[shape][2])


def test_paths_change_from_one_block_to_the_next():
    # Ordinary sums, then tiny terms, infinities and NaN only in the last images.
    shape = ((4, 80, 81, 16), (3, 3, 16, 2), {"padding": "VALID"})
    x, w, dy = operands(*shape, seed=3)
    for value in (2.0**-40, np.inf, np.nan):
        x[3, 70, 70, 5] = dy[3, 20, 20, 1] = value
        for rounding in ("nearest_even", "toward_zero", "stochastic"):
            accumulator = lp.Accumulator(lp.FloatFormat(5, 6), None, rounding)
            policy = lp.Policy(gradient=lp.Gemm(accumulator=accumulator))
            got = convolve(*(tf.constant(v) for v in (x, w, dy)), policy, **shape[2])[2]
            assert_same_bits(got, by_matmul(x, w, dy, policy, **shape[2])[2])


@pytest.fixture(scope="module")
def portable_on_one_thread():
    return digest(SCRIPT, "portable", 1)


@pytest.mark.parametrize("isa, threads", [("portable", 2), ("avx2", 2), ("avx512", 1)])
def test_same_bits(portable_on_one_thread, isa, threads):
    assert digest(SCRIPT, isa, threads) == portable_on_one_thread
