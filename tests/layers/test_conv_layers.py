"""Conv1D, DepthwiseConv2D, Conv2DTranspose, EinsumDense: their products are the oracles'."""

import accumulation_oracle
import convolution_oracle
import numpy as np
import pytest
import tensorflow as tf
from cases import assert_same_bits
from compat import native
from layer_cases import images

import tf_lowprec as lp
from tf_lowprec._keras import KERAS_3
from tf_lowprec.ops.streams import Stream

POLICY = lp.Policy.fp8((5, 6, 9), chunk=(4, None, 3))
EXACT = lp.Policy(*[lp.Gemm(lp.BF16, lp.BF16)] * 3)  # small integers stay what they are


def step(layer, x, dy):
    """[y, dx, dkernel] of a layer without bias."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    (kernel,) = layer.trainable_variables
    return [y, *tape.gradient(y, [x, native(kernel)], output_gradients=dy)]


def check(run, layer, x, passes):
    """Compares up to the shapes, which the layer may have other ones of than the oracle."""
    y = passes.forward()[1]
    dy = images(y.shape, 2)
    dx, dkernel = passes.gradients(dy)
    shape = layer(x).shape
    got = run(lambda x, dy: step(layer, x, dy))(tf.constant(x), tf.constant(dy.reshape(shape)))
    for g, want in zip(got, (y, dx, dkernel), strict=True):
        assert_same_bits(np.reshape(g, want.shape), want)


@pytest.mark.parametrize(
    "arguments, options",
    [
        ({"padding": "same", "strides": 2}, {"padding": "SAME", "strides": (1, 2)}),
        ({"padding": "valid", "dilation_rate": 2}, {"padding": "VALID", "dilations": (1, 2)}),
        (
            {"padding": "causal", "dilation_rate": 2},
            {"padding": ((0, 0), (4, 0)), "dilations": (1, 2)},
        ),
        ({"padding": "causal", "groups": 2}, {"padding": ((0, 0), (2, 0)), "groups": 2}),
    ],
    ids=str,
)
def test_conv1d(run, arguments, options):
    layer = lp.layers.Conv1D(4, 3, use_bias=False, precision=POLICY, **arguments)
    x = images((2, 7, 4))
    layer.build(x.shape)
    kernel = layer.get_weights()[0]
    passes = convolution_oracle.Passes(x[:, None], kernel[None], POLICY, Stream, **options)
    check(run, layer, x, passes)


@pytest.mark.parametrize(
    "arguments, options",
    [
        ({"padding": "same", "strides": 2}, {"padding": "SAME", "strides": 2}),
        ({"padding": "valid", "dilation_rate": 2}, {"padding": "VALID", "dilations": 2}),
    ],
    ids=str,
)
@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_conv2d(run, arguments, options, multiplier):
    layer = lp.layers.DepthwiseConv2D(
        3, depth_multiplier=multiplier, use_bias=False, precision=POLICY, **arguments
    )
    x = images((2, 6, 5, 3))
    layer.build(x.shape)
    kernel = layer.get_weights()[0].reshape(3, 3, 1, 3 * multiplier)
    check(run, layer, x, convolution_oracle.Passes(x, kernel, POLICY, Stream, groups=3, **options))


@pytest.mark.skipif(KERAS_3, reason="Keras 3 takes one batch axis")
@pytest.mark.parametrize(
    "make, shape",
    [
        (lambda: lp.layers.Conv1D(4, 3, padding="causal", precision=POLICY), (2, 3, 7, 4)),
        (lambda: lp.layers.Conv2D(4, 3, strides=2, precision=POLICY), (2, 1, 3, 7, 5, 4)),
    ],
    ids=["Conv1D", "Conv2D"],
)
@pytest.mark.parametrize("known", [True, False])
def test_several_batch_axes_are_as_one(make, shape, known):
    layer, image = make(), -3 if len(shape) == 4 else -4
    x = images(shape)
    layer.build(shape)
    signature = [tf.TensorSpec(shape if known else [None] * (len(shape) - 1) + [4])]
    several = tf.function(layer, input_signature=signature)
    want = layer(x.reshape(-1, *shape[image + 1 :]))
    y = several(x)
    assert y.shape[: image + 1] == shape[: image + 1]
    assert_same_bits(np.reshape(y, want.shape), want.numpy())


TRANSPOSED = [
    ({"padding": "same", "strides": 2}, (6, 8)),
    ({"padding": "valid", "strides": 2}, (7, 9)),
    ({"padding": "valid", "strides": 4}, (12, 16)),
    ({"padding": "same", "strides": 2, "output_padding": 1}, (6, 8)),
    ({"padding": "same", "strides": 3, "output_padding": 0}, (7, 10)),
    ({"padding": "valid", "strides": 3, "output_padding": 2}, (11, 14)),
]


@pytest.mark.parametrize("arguments, size", TRANSPOSED, ids=str)
def test_conv2d_transpose(arguments, size):
    layer = lp.layers.Conv2DTranspose(3, 3, use_bias=False, precision=POLICY, **arguments)
    x = images((2, 3, 4, 2))
    layer.build(x.shape)
    passes = convolution_oracle.TransposedPasses(
        x,
        layer.get_weights()[0],
        POLICY,
        Stream,
        size,
        strides=arguments["strides"],
        padding=arguments["padding"].upper(),
    )
    check(lambda f: f, layer, x, passes)


def test_conv2d_transpose_runs_everywhere(run):
    layer = lp.layers.Conv2DTranspose(
        3, 3, padding="same", dilation_rate=2, use_bias=False, precision=POLICY
    )
    x = images((2, 3, 4, 2))
    layer.build(x.shape)
    kernel = layer.get_weights()[0]
    passes = convolution_oracle.TransposedPasses(
        x, kernel, POLICY, Stream, (3, 4), padding="SAME", dilations=2
    )
    check(run, layer, x, passes)


@pytest.mark.parametrize("kernel", [2, 3, (3, 4)], ids=str)
@pytest.mark.parametrize("arguments", [a for a, _ in TRANSPOSED], ids=str)
def test_conv2d_transpose_has_its_parents_geometry(arguments, kernel):
    if arguments.get("output_padding") == 0 and kernel != 3:
        pytest.skip("Keras gives an even kernel a size that TensorFlow refuses")
    stock = tf.keras.layers.Conv2DTranspose(3, kernel, **arguments)
    ours = lp.layers.Conv2DTranspose(3, kernel, precision=EXACT, **arguments)
    rng = np.random.default_rng(3)
    x = rng.integers(-4, 5, (2, 3, 4, 2)).astype(np.float32)
    for layer in (stock, ours):
        layer.build(x.shape)
    weights = [rng.integers(-4, 5, w.shape).astype(np.float32) for w in stock.get_weights()]
    stock.set_weights(weights)
    ours.set_weights(weights)
    np.testing.assert_array_equal(ours(x), stock(x))
    dynamic = tf.function(ours, input_signature=[tf.TensorSpec([None, None, None, 2])])
    np.testing.assert_array_equal(dynamic(x), stock(x))


EQUATIONS = [
    ("ab,bc->ac", 5, (4, 3)),
    ("abc,cde->abde", (None, 2, 5), (2, 3, 4)),
    ("...x,xy->...y", 5, (2, 3, 4)),
    ("abcd,cde->abe", (None, 5), (2, 3, 2, 4)),
]


@pytest.mark.parametrize("equation, output_shape, shape", EQUATIONS, ids=[e[0] for e in EQUATIONS])
def test_einsum_dense(run, equation, output_shape, shape):
    layer = lp.layers.EinsumDense(equation, output_shape, precision=POLICY)
    layer.build(shape)
    kernel, x = layer.get_weights()[0], images(shape)
    # In all of them the kernel's summed indices come first, in the order that x ends with.
    summed = kernel.ndim - (2 if equation == "abc,cde->abde" else 1)
    length = int(np.prod(kernel.shape[:summed]))
    rows = x.reshape(-1, length)
    passes = accumulation_oracle.Passes(rows, kernel.reshape(length, -1), POLICY, Stream)
    check(run, layer, x, passes)


def test_einsum_dense_adds_its_bias_along_its_axes():
    arguments = {"equation": "abc,cde->abde", "output_shape": (3, 2, 5)}
    x = np.random.default_rng(4).integers(-4, 5, (2, 3, 4)).astype(np.float32)
    for axes in ("e", "d", "de", "bde"):
        stock = tf.keras.layers.EinsumDense(**arguments, bias_axes=axes)
        ours = lp.layers.EinsumDense(**arguments, bias_axes=axes, precision=EXACT)
        stock.build(x.shape)
        ours.build(x.shape)
        weights = [np.round(images(w.shape) * 4) for w in stock.get_weights()]
        stock.set_weights(weights)
        ours.set_weights(weights)
        np.testing.assert_array_equal(ours(x), stock(x))
