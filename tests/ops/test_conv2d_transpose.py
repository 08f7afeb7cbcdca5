"""lp.conv2d_transpose: all three passes bit for bit what exact integers give."""

import convolution_oracle
import numpy as np
import pytest
import tensorflow as tf
from cases import assert_same_bits
from gemm_cases import DIFFERENT, STOCHASTIC
from hypothesis import given, settings
from hypothesis import strategies as st
from ops.test_conv2d_narrow import FORMATS, SEED, accumulators, gemm_of, geometries, lengths, slow

import tf_lowprec as lp
from tf_lowprec.ops.streams import Stream

PASSES = ("y", "dx", "dfilters")
ROUNDINGS = st.sampled_from(list(lp.Rounding))


def normal(rng, shape):
    return rng.normal(size=shape).astype(np.float32)


def convolve(x, w, dy, policy, size, seed=SEED, **options):
    """(y, dx, dfilters) by lp.conv2d_transpose, of tensors."""
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        y = lp.conv2d_transpose(x, w, policy, size, seed=seed, **options)
    return y, *tape.gradient(y, [x, w], output_gradients=dy)


def check(rng, x, w, policy, size, run=lambda f: f, seed=SEED, **options):
    twin = convolution_oracle.TransposedPasses(x, w, policy, Stream, size, seed=seed, **options)
    dy = normal(rng, twin.y_shape)
    function = run(lambda x, w, dy: convolve(x, w, dy, policy, size, seed, **options))
    got = function(*(tf.constant(v) for v in (x, w, dy)))
    for name, g, want in zip(PASSES, got, [twin.forward()[1], *twin.gradients(dy)]):
        try:
            assert_same_bits(g, want)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


@settings(max_examples=80, **slow)
@given(data=st.data(), geometry=geometries(), seed=st.integers(0, 2**31))
def test_any_geometry_and_policy(data, geometry, seed):
    (batch, *size, _), (kh, kw, outputs, inputs), options = geometry
    del options["groups"]
    small, _ = convolution_oracle.taps(size, (kh, kw), **options)
    inputs = min(inputs, 9)
    output = st.sampled_from([None, lp.BF16, lp.FP8_E4M3FN, lp.FixedPointFormat(3, 4)])
    window = ((batch, *size, outputs), (kh, kw, outputs, inputs), {**options, "groups": 1})
    backward, forward, gradient = lengths(*window)
    policy = lp.Policy(
        *(
            gemm_of(
                data.draw(st.tuples(FORMATS, FORMATS)),
                data.draw(accumulators()),
                length,
                data.draw(output),
                data.draw(ROUNDINGS),
            )
            for length in (forward, backward, gradient)
        )
    )
    rng = np.random.default_rng(seed)
    x, w = normal(rng, (batch, *small, inputs)), normal(rng, (kh, kw, outputs, inputs))
    check(rng, x, w, policy, tuple(size), **options)


Q = lp.FixedPointFormat(4, 8)
WIDE = lp.Policy.fixed_point(Q, "nearest_even", activations=lp.FixedPointFormat(6, 6))
each_policy = pytest.mark.parametrize(
    "policy", [DIFFERENT, STOCHASTIC, WIDE], ids=["each", "stochastic", "wide"]
)


@each_policy
@pytest.mark.parametrize(
    "small, size, options",
    [
        ((3, 2), (6, 4), {"strides": 2}),
        ((3, 2), (5, 6), {"strides": (2, 3)}),
        ((3, 2), (7, 5), {"strides": 2, "padding": "VALID"}),
        ((3, 2), (8, 6), {"strides": 2, "padding": "VALID"}),
        ((4, 4), (3, 7), {"padding": ((2, 1), (0, 0)), "dilations": (1, 3), "strides": (1, 1)}),
    ],
    ids=str,
)
def test_runs_everywhere(run, policy, small, size, options):
    rng = np.random.default_rng(0)
    kernel = (3, 2) if options.get("dilations") else (3, 3)
    x, w = normal(rng, (2, *small, 3)), normal(rng, (*kernel, 4, 3))
    check(rng, x, w, policy, size, run, **options)


def test_is_the_convolutions_gradient():
    """FWD is BWD of lp.conv2d with the same filters."""
    rng = np.random.default_rng(1)
    x, w = normal(rng, (2, 3, 3, 4)), normal(rng, (3, 3, 2, 4))
    gemm = DIFFERENT.forward
    policy = lp.Policy(backward=lp.Gemm(gemm.lhs, gemm.rhs, gemm.accumulator, gemm.output))
    image = tf.zeros((2, 6, 6, 2))
    with tf.GradientTape() as tape:
        tape.watch(image)
        y = lp.conv2d(image, w, policy, strides=2)
    want = tape.gradient(y, image, output_gradients=x)
    assert_same_bits(lp.conv2d_transpose(x, w, gemm, (6, 6), strides=2), want.numpy())


@pytest.mark.parametrize("dilations", [1, 2])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_native_is_tensorflows(padding, dilations):
    rng = np.random.default_rng(2)
    x, w = (rng.integers(-4, 5, s).astype(np.float32) for s in ((2, 3, 4, 3), (3, 3, 2, 3)))
    strides = 1 if dilations == 2 else 2  # TensorFlow has not both
    extra = 0 if padding == "SAME" else dilations * 2 + 1 - strides
    size = (3 * strides + extra, 4 * strides + extra)

    def transposed(gemm):
        return lp.conv2d_transpose(x, w, gemm, size, strides, padding, dilations=dilations)

    try:
        want = tf.nn.conv2d_transpose(
            x, w, [2, *size, 2], strides=strides, padding=padding, dilations=dilations
        )
    except tf.errors.InvalidArgumentError:
        # Where TensorFlow does not use oneDNN (without AVX-512) it has no dilations here. The sums
        # are small integers, exact in float32.
        assert dilations == 2
        want = transposed(lp.Gemm(accumulator=lp.Accumulator(lp.FP32)))
    np.testing.assert_array_equal(transposed(lp.Gemm(lp.BF16, lp.BF16)), want)


def test_shapes_that_show_at_run_time_only():
    rng = np.random.default_rng(3)
    w = normal(rng, (3, 3, 2, 3))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
    def function(x):
        size = 2 * tf.shape(x)[1:3]
        y = lp.conv2d_transpose(x, w, DIFFERENT, (size[0], size[1]), strides=2)
        assert y.shape.as_list() == [None, None, None, 2]
        return y

    for shape in ((2, 3, 2, 3), (1, 4, 4, 3)):
        x = normal(rng, shape)
        size = (2 * shape[1], 2 * shape[2])
        twin = convolution_oracle.TransposedPasses(x, w, DIFFERENT, Stream, size, strides=2)
        assert_same_bits(function(x), twin.forward()[1])


X, W = np.zeros((1, 3, 3, 4), np.float32), np.zeros((3, 3, 2, 4), np.float32)


@pytest.mark.parametrize(
    "x, filters, size, options, message",
    [
        (X[0], W, (3, 3), {}, "x has shape .* four axes"),
        (X, W[0], (3, 3), {}, "filters has shape"),
        (X, W[..., :3], (3, 3), {}, "x must have 3 channels, the last axis of filters"),
        (X.astype(int), W, (3, 3), {}, "x has dtype int64"),
        (X, W, (3, 3), {"padding": "FULL"}, "padding = 'FULL'"),
        (X, W, (3, 3), {"strides": 0}, "strides = 0"),
        (X, W, (3, 3), {"dilations": (1, 2, 3)}, "dilations"),
        (
            X,
            W,
            (9, 3),
            {"strides": 1},
            r"output_size = \(9, 3\) does not match x",
        ),
    ],
    ids=lambda v: str(v)[:20] if isinstance(v, (str, dict)) else "",
)
@pytest.mark.parametrize("gemm", [DIFFERENT.forward, lp.Gemm(lp.BF16, lp.BF16)], ids=["n", "f"])
def test_wrong_arguments_are_named(gemm, x, filters, size, options, message):
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=message):
        lp.conv2d_transpose(x, filters, gemm, size, **options)


def test_output_size_of_a_wrong_kind_is_named():
    for size in (5, (10.0, 10.0)):
        with pytest.raises(ValueError, match="output_size = "):
            lp.conv2d_transpose(X, W, DIFFERENT, size)
