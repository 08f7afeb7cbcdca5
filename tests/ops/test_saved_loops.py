"""Products in a loop of a SavedModel, where tensors have forgotten their shapes, train on."""

import numpy as np
import pytest
import tensorflow as tf

import tf_lowprec as lp

E5M2, FIXED = lp.FP8_E5M2, lp.FixedPointFormat(4, 8)
GEMMS = {
    "narrow": lp.Gemm(E5M2, E5M2, lp.Accumulator(lp.FloatFormat(6, 9), chunk=4)),
    "mx": lp.Gemm(lp.MXFP8_E4M3, lp.MXFP8_E4M3),
    "wide": lp.Gemm(FIXED, FIXED, lp.Accumulator.wide()),
}
PRODUCTS = {
    "matmul": lambda x, w, gemm: lp.matmul(x, w[0, 0], gemm),
    "conv2d": lambda x, w, gemm: lp.conv2d(x, w, gemm),
    "conv2d_transpose": lambda x, w, gemm: lp.conv2d_transpose(x, w, gemm, (4, 4)),
}


class Repeated(tf.Module):
    def __init__(self, product, gemm):
        super().__init__()
        self.product, self.gemm = product, gemm
        self.w = tf.Variable(np.random.default_rng(0).normal(size=(3, 3, 2, 2)).astype("f"))

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 2])])
    def __call__(self, x):
        for _ in tf.range(3):
            x = self.product(x, self.w, self.gemm)
            x.set_shape([None, 4, 4, 2])
        return x


def gradient(model, x):
    @tf.function
    def compute():
        with tf.GradientTape() as tape:
            y = tf.reduce_sum(model(x))
        return tape.gradient(y, model.w)

    return tf.convert_to_tensor(compute())


@pytest.mark.parametrize("gemm", GEMMS)
@pytest.mark.parametrize("product", PRODUCTS)
def test_gradients_after_loading(product, gemm, tmp_path):
    model = Repeated(PRODUCTS[product], GEMMS[gemm])
    x = tf.constant(np.random.default_rng(1).normal(size=(2, 4, 4, 2)).astype("f"))
    expected = gradient(model, x)
    tf.saved_model.save(model, str(tmp_path))
    np.testing.assert_array_equal(gradient(tf.saved_model.load(str(tmp_path)), x), expected)
    assert np.any(expected)
