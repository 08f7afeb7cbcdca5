"""XLA has no kernels of ours: functions with jit_compile=True are refused while they are traced."""

import pytest
import tensorflow as tf

import tf_lowprec as lp

X = tf.ones((2, 2))


@pytest.mark.parametrize(
    "function",
    [
        lambda: lp.quantize(X, lp.FP16),
        lambda: lp.matmul(X, X, lp.Policy.fp8(9)),
        lambda: lp.matmul(X, X, lp.Gemm(output=lp.FP16)),
        lambda: lp.einsum("ab,bc->ac", X, X, lp.Policy.fp8(9)),
        lambda: lp.conv2d(X[None, ..., None], tf.ones((1, 1, 1, 1)), lp.Policy.fp8(9)),
        lambda: tf.while_loop(lambda x: False, lambda x: [lp.quantize(x, lp.FP16)], [X]),
    ],
    ids=["quantize", "matmul", "native matmul", "einsum", "conv2d", "loop"],
)
def test_is_refused_by_name(function):
    with pytest.raises(ValueError, match="jit_compile = True must be False"):
        tf.function(function, jit_compile=True, autograph=False)()


def test_what_is_tensorflows_own_compiles():
    product = tf.function(lambda: lp.matmul(X, X, lp.Policy.float32()), jit_compile=True)
    assert product().numpy().tolist() == [[2, 2], [2, 2]]
